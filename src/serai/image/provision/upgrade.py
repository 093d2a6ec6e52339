"""What a run will do to what runs on a VM, said before its first change."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serai.common.versions import label, written
from serai.image import digest
from serai.image.definition import pins, variables
from serai.image.errors import BuildError
from serai.image.provision import look
from serai.image.provision.chosen import PLAYBOOK
from serai.image.settings import Settings
from serai.install.install import folder_of

PROGRAM = Path(look.__file__)


def sources(settings: Settings) -> str:
    """A digest of the roles, the playbook, and the versions that roles read."""
    files = [settings.root / PLAYBOOK, settings.root / pins.FILE]
    roles = digest.of_tree(settings.root / "roles")
    return digest.of_value([roles, *map(digest.of_file, files)])


def inputs(found: Mapping[str, Any], folder: str, source: str) -> str:
    """A digest of all that a run makes a VM of; '' where that cannot be told.

    ``found`` are the variables of the VM, ``folder`` has the wheel, ``source`` is of ``sources``.
    """
    known = variables.options(Settings.of())
    chosen = {name: found[name] for name in sorted(known) if name in found}
    if not source or chosen.get("project_files"):
        return ""
    try:
        contents = variables.contents(Settings.of(), chosen)
    except (BuildError, OSError):
        return ""
    (wheel,) = Path(folder).glob("*.whl")
    return digest.of_value([source, digest.of_file(wheel), repr(contents)])


def is_right(looked: str, given: str) -> bool:
    """Whether a VM was found right, and looks the same since, and so does what is here."""
    there = json.loads(looked)
    return bool(given) and not there["cut_off"] and there["right"] == right(looked, given)


def right(looked: str, given: str) -> str:
    """What is written down of a VM that is right."""
    return f"{given} {json.loads(looked)['witness']}"


def plan(looked: str, folder: str, only: Sequence[str] = ()) -> dict[str, Any]:
    """From what look.py printed, the folder of the new wheel, and the roles that are played.

    ``upgrades``: another version is installed. ``ends``: how many connected commands that ends.
    ``words``: all of it in a line; '' if nothing happens to what runs.
    """
    there = json.loads(looked)
    (wheel,) = Path(folder).glob("*.whl")
    modules = folder_of(wheel)
    if not there["modules"]:
        return {"upgrades": False, "ends": 0, "words": ""}
    upgrades = there["modules"] != modules and (not only or "runtime" in only)
    ends = there["connected"] if upgrades or there["cut_off"] else 0
    if upgrades:
        words = f"Serai {label(there['version'], there['modules'])} becomes "
        words += label(_version(wheel), modules)
    elif there["cut_off"]:
        words = "the run before was cut off, so sessiond and the gate are restarted"
    else:
        return {"upgrades": False, "ends": 0, "words": ""}
    return {"upgrades": upgrades, "ends": ends, "words": f"{words}; {ended(there)}"}


def plan_back(looked: str) -> dict[str, Any]:
    """The same for one step back."""
    there = json.loads(looked)
    if not there["kept"]:
        return {"upgrades": False, "ends": 0, "words": ""}
    words = f"Serai {label(there['version'], there['modules'])} becomes {there['kept']}"
    return {"upgrades": True, "ends": there["connected"], "words": f"{words}; {ended(there)}"}


def ended(there: dict[str, Any]) -> str:
    """What a restart of the daemons ends, and what goes on."""
    stays = [
        _count(there["sessions"], "session"),
        _count(there["jobs"], "job"),
        _count(there["detached"], "detached command"),
    ]
    kept = ", ".join(stays)
    ends = f"{_count(there['connected'], 'connected command')} and connections through the gate"
    return f"{kept} go on; {ends} end"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _version(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read("serai/__init__.py").decode()
    return written(text) or "?"
