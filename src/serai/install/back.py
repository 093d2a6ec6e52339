"""From one version to the next: whether the new one is well, and the one step back.

Each step can be done again. Killed at any of them, the same command finishes what it began: what
leads back is forgotten last.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from serai.common import files
from serai.common.paths import Paths
from serai.install import fleet
from serai.install.previous import LINK, About, Previous
from serai.install.services import FailedError, Services

Step = Callable[[], None]


def settle(root: Path, services: Services) -> str:
    """Start what is installed, and see whether it is well; if it is new and is not, go back.

    Returns '' or, in one line, what was wrong and what became of it.
    """
    previous = Previous(root)
    services.start()
    about = previous.about()
    new = previous.label(previous.current)
    why = services.wrong(whole=about is None or about.well)
    if not why:
        if about is not None:
            files.write(previous.proven, b"")
        return ""
    if about is None or previous.proven.exists():
        return f"Serai {new} is not well: {why}"
    try:
        went = back(root, services)
    except FailedError as error:
        return f"Serai {new} is not well: {why}; nor could it go back: {error}"
    return f"Serai {new} is not well: {why}; {went}"


def back(root: Path, services: Services, fault: Callable[[str], None] = lambda _: None) -> str:
    """Go back to the version before; returns what was done, '' if that has been done already.

    ``fault`` is called before each step, with its name. Raises FailedError.
    """
    previous = Previous(root)
    about = previous.about()
    if about is None:
        if previous.went_back.exists():
            return ""
        raise FailedError(f"no version before Serai {previous.label(previous.current)} is kept")
    newer = previous.by or previous.current
    steps: list[tuple[str, Step]] = [
        ("stop", services.stop),
        ("registry", lambda: _lower(previous, about, newer, services)),
        ("programs", previous.put_back_programs),
        ("modules", lambda: files.link(root / LINK, about.modules)),
        ("newer", previous.remove_newer),
        ("start", services.start),
    ]
    for name, step in steps:
        try:
            fault(name)
            step()
        except OSError as error:  # above all a full disk: daemons that run are better than none
            services.start()
            why = f"going back ended at the step {name!r}: {error.strerror}"
            raise FailedError(f"{why}; see that there is room, and do it again") from None
    words = f"went back to Serai {about.version} from {previous.label(newer)}"
    if services.wrong(whole=False):
        # It may not know a setting that is new. What was changed since is better kept than undone.
        fault("settings")
        previous.put_back_settings()
        services.start()
        words += ", and to its settings"
    if (root / fleet.UNIT).exists():
        words += "; the member of its fleet stays as it is"
    why = services.wrong(whole=about.well)
    fault("note")
    note = {"from": newer, "to": about.modules, "well": not why}
    files.write(previous.went_back, (json.dumps(note) + "\n").encode())
    fault("forget")
    previous.forget()
    if why:
        raise FailedError(f"{words}, which is not well either: {why}")
    return words


def _lower(previous: Previous, about: About, newer: str, services: Services) -> None:
    """Let the older version read the registry; where it cannot, all goes on as it was."""
    registry = Paths(previous.root).registry
    if about.schema and registry.exists():
        folder = str((previous.root / LINK).with_name(newer))
        module = "serai.runtime.sessions.schema"
        try:
            services.run(folder, module, str(registry), str(about.schema))
        except FailedError:
            services.start()
            raise
