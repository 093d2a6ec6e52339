"""``serai backup`` and ``serai restore``: all sessions of a VM in a directory, and back.

A backup is complete when ``backup.json`` is there. Its parts are ``vm.tar``, the registry and the
audit log, and an export of each session.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from serai.common import files
from serai.common.errors import EXISTS, INVALID_PARAMS, NOT_FOUND, NOT_PERMITTED, SeraiError
from serai.common.paths import Paths
from serai.common.printing import say
from serai.runtime.cli import exports
from serai.runtime.cli.connect import connected
from serai.runtime.client import Client

INDEX, OWN, SESSIONS = "backup.json", "vm.tar", "sessions"
TRAVEL = ("moving", "arriving", "creating", "removing")
UNITS = ("serai-sessiond.service", "serai-gate.service")
PATIENCE = 60.0
CHUNK = 1 << 20


def add_to(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands to the parser of ``serai``."""
    backup = add("backup", "export all sessions, the registry and the audit log", named=False)
    backup.add_argument("directory", metavar="DIR", type=Path, help="a new directory")
    backup.add_argument("--plain", action="store_true", help="tar, not compressed by zstd")
    restore = add("restore", "have all of a backup on a blank sessions disk", named=False)
    restore.add_argument("directory", metavar="DIR", type=Path, help="what backup has made")


def run(client: Client, options: argparse.Namespace) -> int:
    """Make a backup; returns the exit status. Raises SeraiError or OSError."""
    folder: Path = options.directory
    if (folder / INDEX).exists():
        raise SeraiError(f"{folder} has a backup already", "name a new directory", EXISTS)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / SESSIONS).mkdir(mode=0o700, exist_ok=True)
    parts = {OWN: _written(folder / OWN, lambda file: client.send("backup", file))}
    suffix = "tar" if options.plain else "tar.zst"
    left: list[str] = []
    for session in client.call("list")["sessions"]:
        name = str(session["name"])
        where = f"{SESSIONS}/{name}.{suffix}"
        if session["state"] in TRAVEL:
            left.append(f"{name} is {session['state']}")
            continue
        try:
            give = partial(exports.export, client, name, plain=options.plain)
            parts[where] = _written(folder / where, give)
        except SeraiError as error:
            if error.code != NOT_FOUND:
                raise
            left.append(f"{name} was removed meanwhile")
    index = {"format": 1, "at": time.time(), "parts": parts, "left_out": left}
    files.write(folder / INDEX, json.dumps(index, indent=1).encode(), 0o600)
    for each in left:
        say(f"serai: left out: {each}", sys.stderr)
    if options.json:
        print(json.dumps({"directory": str(folder), "parts": len(parts), "left_out": left}))
    return 0


def restore(options: argparse.Namespace, vm: str) -> int:
    """Restore a backup in this VM. What is done already is not done again. Raises SeraiError."""
    if vm or os.geteuid() != 0:
        text = "a backup is restored in the VM itself, by root"
        raise SeraiError(text, "run it there", NOT_PERMITTED)
    from serai.runtime.sessions import restoring  # noqa: PLC0415  # of no use to any other

    folder: Path = options.directory
    parts = _checked(folder)
    paths = Paths()
    with _stopped(), (folder / OWN).open("rb") as file:
        count = restoring.put(paths, file, paths.state / "audit")
    come = bring(_patient, folder, parts)
    if options.json:
        print(json.dumps({"awaited": count, "restored": come}))
    else:
        say(f"{len(come)} sessions are restored; they are stopped, or archived as they were")
    return 0


def bring(connect: Callable[[], Client], folder: Path, parts: dict[str, str]) -> list[str]:
    """Import each session that is awaited; returns their names. Raises SeraiError."""
    from serai.runtime.sessions.restoring import token  # noqa: PLC0415  # of no use to any other

    come = []
    for session in connect().call("list")["sessions"]:
        if session["state"] != "arriving":
            continue
        name = session["name"]
        found = [each for each in parts if each.startswith(f"{SESSIONS}/{name}.tar")]
        with connect() as client:
            if not found:
                say(f"serai: session {name} is not in the backup, and removed", sys.stderr)
                client.call("remove", name=name)
                continue
            with (folder / found[0]).open("rb") as file, exports.unpacked(file.fileno()) as source:
                client.send("import", source, token=token(session["uid"]))
        come.append(name)
    return come


def _written(path: Path, give: Callable[[int], Any]) -> str:
    """Have a file written whole, or not at all; returns its digest."""
    with files.draft(path) as name:
        with name.open("xb") as file:
            os.fchmod(file.fileno(), 0o600)
            give(file.fileno())
            os.fsync(file.fileno())
        digest = _digest(name)
    files.fsync(path.parent)
    return digest


def _digest(path: Path) -> str:
    total = sha256()
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            total.update(data)
    return total.hexdigest()


def _checked(folder: Path) -> dict[str, str]:
    """The parts of a complete backup, each verified. Raises SeraiError."""
    try:
        index = json.loads((folder / INDEX).read_bytes())
        parts = {str(name): str(digest) for name, digest in index["parts"].items()}
    except FileNotFoundError:
        text = f"{folder} has no complete backup"
        raise SeraiError(text, "'serai backup' writes backup.json last", INVALID_PARAMS) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SeraiError(f"{folder / INDEX} is not what 'serai backup' writes") from None
    for name, digest in parts.items():
        if ".." in name or name.startswith("/") or _digest(folder / name) != digest:
            raise SeraiError(f"{folder / name} is not as it was backed up", "take another backup")
    if OWN not in parts:
        raise SeraiError(f"{folder / INDEX} names no {OWN}")
    return parts


@contextmanager
def _stopped() -> Iterator[None]:
    """No daemon of Serai's runs meanwhile."""
    _systemctl("stop")
    try:
        yield
    finally:
        _systemctl("start")


def _systemctl(verb: str) -> None:
    done = subprocess.run(["/usr/bin/systemctl", verb, *UNITS], check=False)
    if done.returncode != 0:
        raise SeraiError(f"'systemctl {verb}' failed for {' and '.join(UNITS)}", "see their logs")


def _patient() -> Client:
    """A connection to a daemon that is being started."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return connected("")
        except SeraiError:
            if time.monotonic() > end:
                raise
        time.sleep(0.1)
