"""``serai restore``: what ``serai backup`` has made, on a VM with a blank sessions disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from serai.common.errors import GONE, INVALID_PARAMS, NOT_PERMITTED, SeraiError
from serai.common.paths import Paths
from serai.common.printing import say
from serai.runtime import packing
from serai.runtime.client import Client
from serai.runtime.sessions import names
from serai.runtime.sessions.moves import restoring

INDEX, OWN, SESSIONS = "backup.json", "vm.tar", "sessions"
NAME = names.PATTERN
UNITS = ("serai-sessiond.service", "serai-gate.service")
PATIENCE = 60.0
CHUNK = 1 << 20


def main(folder: Path, vm: str) -> list[str]:
    """Restore a backup in this VM; returns the sessions that came now. Raises SeraiError.

    What is done already is not done again.
    """
    if vm or os.geteuid() != 0:
        text = "a backup is restored in the VM itself, by root"
        raise SeraiError(text, "run it there", NOT_PERMITTED)
    parts = _checked(folder)
    look(Client, parts)
    paths = Paths()
    with _stopped(), (folder / OWN).open("rb") as file:
        restoring.put(paths, file, paths.state / "audit")
    return bring(_patient, folder, parts)


def look(connect: Callable[[], Client], parts: dict[str, str]) -> None:
    """Refuse a VM in use before a daemon is stopped there. Raises SeraiError.

    What restoring.put() looks at tells more, and is looked at where this sees nothing.
    """
    try:
        there = connect().call("list")["sessions"]
    except SeraiError:  # sessiond does not run
        return
    known = [each for each in there if any(_is_of(each["name"], part) for part in parts)]
    if there and not known:
        raise restoring.in_use([each["name"] for each in there])


def _is_of(session: str, part: str) -> bool:
    return part.startswith(f"{SESSIONS}/{session}.tar")


def bring(connect: Callable[[], Client], folder: Path, parts: dict[str, str]) -> list[str]:
    """Import each session that is awaited; returns their names. Raises SeraiError.

    One that cannot be imported is told of, and keeps no other one from coming.
    """
    come, failed = [], []
    for session in connect().call("list")["sessions"]:
        if session["state"] != "arriving":
            continue
        name = session["name"]
        found = [each for each in parts if _is_of(name, each)]
        with connect() as client:
            if not found:
                say(f"serai: session {name} is not in the backup, and removed", sys.stderr)
                client.call("remove", name=name)
                continue
            try:
                _send(client, folder / found[0], restoring.token(session["uid"]))
            except SeraiError as error:
                if error.code == GONE:
                    raise
                say(f"serai: session {name} is not restored: {error}", sys.stderr)
                failed.append(name)
                continue
        come.append(name)
    if failed:
        text = f"{len(come)} sessions came now, and these did not: {', '.join(failed)}"
        hint = "the same again tries them; 'serai remove NAME' gives one up"
        raise SeraiError(text[:1000], hint)
    return come


def _send(client: Client, part: Path, token: str) -> None:
    with part.open("rb") as file, packing.unpacked(file.fileno()) as source:
        client.send("import", source, token=token)


def digest(path: Path) -> str:
    """A file's SHA-256."""
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
    for name, wanted in parts.items():
        try:
            whole = ".." not in name and not name.startswith("/")
            whole = whole and digest(folder / name) == wanted
        except OSError as error:
            text = f"{folder / name} cannot be read: {error.strerror}"
            raise SeraiError(text, "take another backup") from None
        if not whole:
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
            return Client()
        except SeraiError:
            if time.monotonic() > end:
                raise
        time.sleep(0.1)
