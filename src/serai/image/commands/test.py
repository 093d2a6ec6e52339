"""What `invoke test` does: pytest over the layers of tests, two runs side by side."""

from __future__ import annotations

import sys
from pathlib import Path

from serai.image.commands.lint import lint
from serai.image.errors import BuildError
from serai.image.run import run_visibly, started
from serai.image.settings import Settings

LAYERS = ("unit", "sandbox", "container", "vm")


def test(settings: Settings, layer: str, *, linted: bool = False) -> int:
    """Run pytest over one layer or all, and return its exit status; ``linted``: the linters first.

    Raises BuildError if one of them complains.
    """
    if layer and layer not in LAYERS:
        raise BuildError(f"there is no test layer {layer!r}", hint=", ".join(LAYERS))
    if layer:
        if linted:
            lint(settings)
        return run_visibly(_pytest(settings, layer), cwd=settings.root)
    # The layer that emulates takes as long as all others: side by side they are done sooner.
    *others, last = LAYERS
    log = settings.cache / "logs" / f"test-{last}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    with started(_pytest(settings, last), log=log) as beside:
        if linted:
            lint(settings)
        status = run_visibly(_pytest(settings, *others), cwd=settings.root)
        beside.wait()
    sys.stdout.write(log.read_text(errors="replace"))
    return status or beside.returncode


def _pytest(settings: Settings, *layers: str) -> list[str | Path]:
    folders = [settings.root / "tests" / layer for layer in layers]
    return ["pytest", "--durations=25", *folders]
