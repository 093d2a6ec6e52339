"""``serai backup``: all sessions of a VM in a directory.

A backup is complete when ``backup.json`` is there. Its parts are ``vm.tar``, the registry and the
audit log, and an export of each session.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from serai.common import files, labels
from serai.common.errors import EXISTS, GONE, NO_ROOM, NOT_FOUND, SeraiError
from serai.common.printing import say
from serai.runtime import packing
from serai.runtime.client import Client
from serai.runtime.restore import INDEX, NAME, OWN, SESSIONS, digest

TRAVEL = ("moving", "arriving", "creating", "removing")


def run(client: Client, options: argparse.Namespace) -> int:
    """Make a backup; returns the exit status. Raises SeraiError or OSError."""
    folder: Path = options.directory
    if (folder / INDEX).exists():
        raise SeraiError(f"{folder} has a backup already", "name a new directory", EXISTS)
    if not options.plain:
        packing.zstd()  # said before anything is written
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / SESSIONS).mkdir(mode=0o700, exist_ok=True)
    parts = {OWN: _written(folder / OWN, lambda file: client.send("backup", file))}
    suffix = "tar" if options.plain else "tar.zst"
    left: list[str] = []
    whole = True
    for session in client.call("list")["sessions"]:
        if labels.DOCTOR in session["labels"]:
            continue  # it is gone in a moment
        if not NAME.fullmatch(name := str(session["name"])):  # it becomes a path here
            raise SeraiError(f"{client.peer} has a session {ascii(name)[:80]}, which is no name")
        where = f"{SESSIONS}/{name}.{suffix}"
        if session["state"] in TRAVEL:
            left.append(f"{name} is {session['state']}")
            continue
        try:
            give = partial(packing.export, client, name, plain=options.plain)
            parts[where] = _written(folder / where, give)
        except SeraiError as error:
            if error.code in (GONE, NO_ROOM):
                raise
            if error.code == NOT_FOUND:
                left.append(f"{name} was removed meanwhile")
            else:  # what is in a session keeps no other one from being backed up
                left.append(f"{name} cannot be exported: {error}")
                whole = False
    index = {"format": 1, "at": time.time(), "parts": parts, "left_out": left}
    files.write(folder / INDEX, json.dumps(index, indent=1).encode(), 0o600)
    for each in left:
        say(f"serai: left out: {each}", sys.stderr)
    if options.json:
        print(json.dumps({"directory": str(folder), "parts": len(parts), "left_out": left}))
    return 0 if whole else 1


def _written(path: Path, give: Callable[[int], Any]) -> str:
    """Have a file written whole, or not at all; returns its digest."""
    with files.draft(path) as name:
        with name.open("xb") as file:
            os.fchmod(file.fileno(), 0o600)
            give(file.fileno())
            os.fsync(file.fileno())
        found = digest(name)
    files.fsync(path.parent)
    return found
