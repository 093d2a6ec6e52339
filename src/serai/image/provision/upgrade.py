"""What a run will do to what runs on a VM, said before its first change."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from pathlib import Path
from typing import Any

from serai.image.provision import look

PROGRAM = Path(look.__file__)


def plan(looked: str, folder: str) -> dict[str, Any]:
    """From what look.py printed, and the folder of the new wheel.

    ``upgrades``: another version is installed. ``ends``: how many connected commands that ends.
    ``words``: all of it in a line; '' if nothing happens to what runs.
    """
    there = json.loads(looked)
    (wheel,) = Path(folder).glob("*.whl")
    modules = "python-" + hashlib.sha256(wheel.read_bytes()).hexdigest()[:16]
    if not there["modules"]:
        return {"upgrades": False, "ends": 0, "words": ""}
    upgrades = there["modules"] != modules
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
    return f"{kept} go on; {_count(there['connected'], 'connected command')} will end"


def label(version: str, modules: str) -> str:
    """'0.2.0 (1a2b3c4d)'."""
    return f"{version} ({modules.removeprefix('python-')[:8]})"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _version(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read("serai/__init__.py").decode()
    match = re.search(r'__version__ = "([^"]*)"', text)
    return match[1] if match else "?"
