"""A connection to the VM of an address: the same client, and what a host has to see to besides.

A connection that breaks is not made again here: what was asked may have been done. The library
repeats what may be repeated, and a command is never run twice.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from serai import __version__
from serai.common import jsonrpc, stdio
from serai.common.errors import GONE, INVALID_PARAMS, OTHER_VERSION, UNKNOWN_METHOD, SeraiError
from serai.common.jsonrpc import BYTES, CHUNK, PROTOCOL
from serai.runtime import address
from serai.runtime.client import Client, unreachable

PATIENCE = 5.0
"""Seconds in which ssh ends by itself when its connection is closed."""


class VmClient(Client):
    """A connection to a VM, from anywhere. ``version`` is its Serai's."""

    def __init__(self, where: str, timeout: float | None = None) -> None:
        """Connect to an address and greet. ``timeout`` is for each wait. Raises SeraiError."""
        place = address.parse(where)
        self.peer, self._hint, self._fleet = where, place.hint, bool(place.nats)
        self._child: subprocess.Popen[bytes] | None = None
        try:
            end, self._child = address.connect(place)
        except OSError as error:
            raise unreachable(place.path or where, error) from None
        jsonrpc.Client.__init__(self, end, timeout)
        self.version = ""
        try:
            self._greet()
        except BaseException:
            self.close()
            raise

    def call(self, method: str, /, **params: Any) -> Any:
        """As Client.call; what another version of Serai does not know is said to be that."""
        try:
            return super().call(method, **params)
        except SeraiError as error:
            raise self.explained(error) from None

    def ask(self, method: str, params: dict[str, Any], descriptors: Sequence[int] = ()) -> int:
        """As Client.ask; if ssh has ended, that is what is said."""
        try:
            return super().ask(method, params, descriptors)
        except SeraiError as error:
            raise self._broken(error) from None

    def receive(self) -> None:
        """As Client.receive; if ssh has ended, that is what is said."""
        try:
            super().receive()
        except SeraiError as error:
            raise self._broken(error) from None

    def send(self, method: str, descriptor: int, **params: Any) -> Any:
        """As Client.send, with every byte through the connection, in parts."""
        if method in ("put", "tree.put", "import"):
            return self.carry(method, params, _read(descriptor), lambda *_: None, 0)
        no_input = iter((b"",))
        return self.carry(
            method, params, no_input, lambda _, data: stdio.write_all(descriptor, data), sys.maxsize
        )

    def close(self) -> None:
        """Hang up; ssh ends by that."""
        super().close()
        if self._child is None:
            return
        try:
            self._child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def capabilities(self) -> Collection[str]:
        """As Client.capabilities, from the greeting."""
        return self._capabilities

    def explained(self, error: SeraiError) -> SeraiError:
        """The error, with both versions if it may come of their difference."""
        if error.code not in (UNKNOWN_METHOD, INVALID_PARAMS) or self.version == __version__:
            return error
        hint = f"the VM has Serai {self.version}, and this is {__version__}: upgrade the older one"
        return SeraiError(error.message, hint, error.code)

    def _greet(self) -> None:
        try:
            met = self.wait(self.ask("version", {"protocol": PROTOCOL}))
        except SeraiError as error:
            if error.code != UNKNOWN_METHOD:
                raise
            raise SeraiError(
                f"the Serai at {self.peer} is older than this one ({__version__}),"
                " and does not tell its version",
                "upgrade the VM's",
                OTHER_VERSION,
            ) from None
        self.version = str(met["version"])
        self._capabilities = list(met.get("capabilities", ()))
        if BYTES in self._capabilities:
            self.stdio = "bytes"

    def _broken(self, error: SeraiError) -> SeraiError:
        if error.code != GONE:
            return error
        if self._child is None:
            return SeraiError(error.message, error.hint or self._hint, GONE)
        try:
            status = self._child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            return error
        if self._fleet:
            hint = "what it wrote above says why"
            return SeraiError(f"the way to {self.peer} ended with status {status}", hint, GONE)
        hint = f"'serai stdio' is what it runs there: is Serai {__version__} installed?"
        if status in (125, 255):  # ours, and ssh's own: ssh(1), "EXIT STATUS"
            hint = "what it wrote above says why"
        return SeraiError(f"ssh, for {self.peer}, ended with status {status}", hint, GONE)


def _read(descriptor: int) -> Iterator[bytes]:
    while True:
        data = os.read(descriptor, CHUNK)
        yield data
        if not data:
            return
