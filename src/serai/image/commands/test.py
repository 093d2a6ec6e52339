"""What `invoke test` does: pytest over the layers of tests, three runs side by side."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serai.image.commands import LAYERS
from serai.image.commands.lint import lint
from serai.image.errors import BuildError
from serai.image.run import run_visibly, started
from serai.image.settings import Settings

HOST = "unit/image"


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
    # The two layers that boot something wait for it half of the time, so all goes on at once. The
    # build host's unit tests follow the shortest of the three.
    *quick, container, vm = LAYERS
    with _beside(settings, container) as provisioned, _beside(settings, vm, HOST) as booted:
        if linted:
            lint(settings)
        rest = [*_pytest(settings, *quick), f"--ignore={settings.root / 'tests' / HOST}"]
        statuses = [run_visibly(rest, cwd=settings.root)]
        for log, run in (provisioned, booted):
            statuses.append(run.wait())
            sys.stdout.write(log.read_text(errors="replace"))
    return next(filter(None, statuses), 0)


@contextmanager
def _beside(
    settings: Settings, layer: str, *more: str
) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """A layer's pytest, which goes on while we do other things, and the log that it writes."""
    log = settings.cache / "logs" / f"test-{layer}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    with started(_pytest(settings, layer, *more), log=log) as run:
        yield log, run


def _pytest(settings: Settings, *layers: str) -> list[str | Path]:
    folders = [settings.root / "tests" / layer for layer in layers]
    return ["pytest", "--durations=25", *folders]
