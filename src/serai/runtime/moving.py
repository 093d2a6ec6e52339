"""Moves a session from one VM to another, at most once, whoever dies meanwhile.

The mover keeps nothing. Both VMs know the move by its token: the source has it before it stops the
session, and the target before the first byte. So whoever does the same again goes on where it was.

1. The source stops the session, locks it away, and cannot start it any more.
2. The target gets an export, verifies it, and keeps it where nobody can start it.
3. The target is told to have it for good. From here on it is there, and nowhere else.
4. The source removes it.

Until the third step the target can be told to never take it; then the source has it back.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator, Mapping
from typing import IO, Any, Protocol

from serai.common.errors import (
    BUSY,
    CONFLICT,
    GONE,
    INVALID_PARAMS,
    NOT_FOUND,
    OTHER_VERSION,
    TIMEOUT,
    SeraiError,
)
from serai.common.jsonrpc import CHUNK
from serai.common.paths import Paths
from serai.runtime import address, packing
from serai.runtime.client import Client

GIVES = frozenset({"export", "export.describe", "move.begin"})
TAKES = frozenset({"import", "import.check", "move.commit"})
"""What the Serai of the source has to know, and that of the target."""
OPEN = frozenset({GONE, BUSY, TIMEOUT})
"""Errors after which nobody knows what became of it, or somebody else is at it."""
TOKEN = re.compile(r"[0-9a-f]{32}")
MOST = 1 << 62
HERE = f"unix://{Paths().control}"
"""How a move names the VM of this program."""
RAN = ("ready", "active", "frozen")


class MovingVm(Protocol):
    """A VM, as the library has it."""

    address: str

    def call(self, method: str, /, **params: Any) -> Any:
        """Call a method. Raises SeraiError."""

    def another(self) -> Client:
        """A connection of its own. Raises SeraiError."""


def move(
    source: MovingVm,
    target: MovingVm,
    name: str,
    *,
    new_name: str | None = None,
    bindings: bool = False,
) -> dict[str, Any]:
    """Move a session; returns it as the target has it. May be repeated. Raises SeraiError.

    With ``bindings`` it may use secrets of the target, as its policy and its profile there say.
    """
    _check(source, GIVES)
    _check(target, TAKES)
    params = wanted(new_name or name, bindings=bindings)
    _check_session(source, target, name, params)
    begun = source.call("move.begin", name=name, to=target.address or HERE)
    token = _token(begun)
    try:
        if begun["stage"] != "left":
            _send(source, target, name, {**params, "token": token})
        moved: dict[str, Any] = target.call("move.commit", token=token)
    except SeraiError as error:
        if error.code in OPEN:
            hint = f"'serai move {name}' again goes on with it, and --cancel has it back"
            raise SeraiError(error.message, hint, error.code) from None
        with contextlib.suppress(SeraiError):  # unless the target has it: then that was no end
            cancel(source, target, name)
        raise
    if moved["name"] != (new_name or name):
        # Also what a source may do that says the token of another move.
        hint = f"if that is the one, finish it with: --name {moved['name']}"
        raise SeraiError(f"the target has {moved['name']} by this move", hint, CONFLICT)
    source.call("move.end", name=name, token=token, moved=True)
    if begun["was"] in RAN:
        target.call("reopen", name=moved["name"])
    elif begun["was"] == "archived":
        target.call("archive", name=moved["name"])
    return dict(target.call("show", name=moved["name"]))


def cancel(source: MovingVm, target: MovingVm | None, name: str) -> None:
    """Have a session back, if the target says that it never takes it. Raises SeraiError.

    Without a target nobody is asked: it may be there, too.
    """
    found = source.call("move.show", name=name)
    token = _token(found)
    if target is not None:
        target.call("move.cancel", token=token)
    source.call("move.end", name=name, token=token, moved=False)
    if found["was"] in RAN:
        source.call("reopen", name=name)


def _token(told: Mapping[str, Any]) -> str:
    """The token of a move, which the source made up. Raises SeraiError for any other.

    The target knows what a restore brings by tokens of another form, which all can guess.
    """
    token = told["token"]
    if not isinstance(token, str) or not TOKEN.fullmatch(token):
        raise SeraiError("the source says what is no token of a move", code=CONFLICT)
    return token


def _check(end: MovingVm, needed: frozenset[str]) -> None:
    met = end.call("version")
    if not set(met.get("capabilities", ())) >= needed:
        if end.address and (fleet := address.parse(end.address)).nats and not fleet.vm:
            what = f"{end.address} is a whole fleet, and no VM to move to"
            hint = f"name one of its VMs: {end.address.rstrip('/')}/VM"
            raise SeraiError(what, hint, INVALID_PARAMS)
        raise SeraiError(
            f"the Serai {met['version']} at {end.address or 'this VM'} cannot move sessions",
            "upgrade it",
            OTHER_VERSION,
        )


def _check_session(source: MovingVm, target: MovingVm, name: str, params: dict[str, Any]) -> None:
    """Have the target refuse a session before the move stops it. Raises SeraiError.

    It would come back without its processes. One that is on its way already goes on.
    """
    try:
        told = source.call("export.describe", name=name)
    except SeraiError as error:
        if error.code != NOT_FOUND:
            raise
        return  # it has left, or move.begin says what is wrong
    if isinstance(told, dict) and told.get("state") in (*RAN, "stopped", "archived"):
        try:
            target.call("import.check", session=told, **params)
        except SeraiError as error:
            what = f"{target.address or 'this VM'} does not take it: {error.message}"
            raise SeraiError(what, error.hint, error.code) from None


def _send(source: MovingVm, target: MovingVm, name: str, params: dict[str, Any]) -> None:
    """Have the target get it, unless it has it already."""
    token = params["token"]
    stage = target.call("move.status", token=token)["stage"]
    if stage in ("arrived", "committed"):
        return
    if stage == "arriving":
        raise SeraiError(f"somebody else moves session {name} just now", code=BUSY)
    if stage == "cancelled":
        raise SeraiError(f"the move of session {name} was cancelled", code=CONFLICT)
    read, write = packing.pipe()
    failed: list[SeraiError] = []

    def give() -> None:
        # The end goes whatever happens, so that the target does not wait for more.
        with os.fdopen(write, "wb") as end, contextlib.suppress(OSError):
            try:
                with contextlib.closing(source.another()) as client:
                    client.send("export", end.fileno(), name=name, token=token)
            except SeraiError as error:
                failed.append(error)

    thread = threading.Thread(target=give, name="export")
    thread.start()
    try:
        with os.fdopen(read, "rb") as end, contextlib.closing(target.another()) as client:
            client.send("import", end.fileno(), **params)
    except SeraiError:
        thread.join()
        if failed and failed[0].code != GONE:
            raise failed[0] from None
        raise
    finally:
        thread.join()


def wanted(name: str | None, *, bindings: bool) -> dict[str, Any]:
    """The parameters of an import. What is not asked for, an older VM need not know."""
    return {**({"name": name} if name else {}), **({"bindings": True} if bindings else {})}


def export(client: Client, name: str, file: IO[bytes]) -> None:
    """Write a session's export to ``file``. Raises SeraiError."""
    no_input = iter((b"",))
    client.carry("export", {"name": name}, no_input, lambda _, data: _keep(file, data), MOST)


def take(client: Client, file: IO[bytes], params: Mapping[str, Any]) -> dict[str, Any]:
    """Make a session of what ``file`` has. Raises SeraiError."""
    found = client.carry("import", dict(params), _parts(file), lambda *_: None, 0)
    return dict(found)


def _parts(file: IO[bytes]) -> Iterator[bytes]:
    while data := file.read(CHUNK):
        yield data
    yield b""


def _keep(file: IO[bytes], data: bytes) -> None:
    file.write(data)
