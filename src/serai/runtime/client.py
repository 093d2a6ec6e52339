"""A small synchronous client of the control socket, for Python programs in the VM.

with Client() as client:
    session = client.call("create", labels={"task": "42"})
    done = client.exec(session["name"], ["make", "test"])
    print(done.status, done.stdout)
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from serai.common import jsonrpc
from serai.common.errors import GONE, TOO_LARGE, SeraiError
from serai.common.paths import Paths
from serai.runtime.dialogue import Dialogue, whole

OUTPUTS = ("stdout", "stderr")
MOST_OUTPUT = 64 << 20
"""Bytes of a session's that are kept in the caller's memory."""
FOLLOW = 20.0
"""Seconds that one call waits for a job's output: a connection that is dead is noticed after it."""


@dataclass(frozen=True)
class Completed:
    """A payload that has ended; ``status`` is 128 + n for signal n, 124 if it was timed out.

    ``out_of_memory``: while it ran, the kernel killed a process of the session for want of memory.
    ``left`` processes were still running, and were ended with it. ``refused`` has what the sandbox
    refused and how often, as docs/rpc.md says.
    """

    status: int
    signal: int | None
    timed_out: bool
    stdout: bytes
    stderr: bytes
    out_of_memory: bool = False
    left: int = 0
    refused: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, answer: Mapping[str, Any], stdout: bytes, stderr: bytes) -> Completed:
        """What sessiond said, also a newer one that says more."""
        known = {each.name for each in fields(cls)} & answer.keys()
        return cls(**{name: answer[name] for name in known}, stdout=stdout, stderr=stderr)

    def answer(self) -> dict[str, Any]:
        """What sessiond said about its end: all but its output."""
        return {name: said for name, said in vars(self).items() if name not in OUTPUTS}


def unreachable(path: object, error: OSError) -> SeraiError:
    """What to say when connecting to sessiond's socket ``path`` failed."""
    hint = "'systemctl start serai-sessiond' starts it; its journal says why it ended"
    if error.errno == errno.ENOENT and not Path(str(path)).parent.is_dir():
        hint = "Serai does not run here: --vm or SERAI_VM names a VM where it does"
    if error.errno == errno.EACCES:
        hint = "this takes root or the group serai"
    return SeraiError(f"cannot reach sessiond at {path}: {error.strerror or error}", hint, GONE)


class Client(jsonrpc.Client):
    """One connection. Use a second one for events while a call is under way."""

    peer = "sessiond"
    stdio = "stream"
    """How output comes."""

    def __init__(self, path: Path | None = None, timeout: float | None = None) -> None:
        """``timeout`` (seconds) is for each wait on the socket. Raises SeraiError."""
        where = path or Paths().control
        try:
            super().__init__(where, timeout)
        except OSError as error:
            raise unreachable(where, error) from None

    def exec(
        self,
        name: str,
        argv: Sequence[str],
        *,
        input: bytes = b"",
        limit: int = MOST_OUTPUT,
        **options: Any,
    ) -> Completed:
        """Run a command in a session with ``input`` on its stdin; returns when it has ended.

        ``options`` are those of the method ``exec``: env, cwd, timeout, tty. A command that writes
        more than ``limit`` bytes is ended. Raises SeraiError (then with TOO_LARGE).
        """
        output: dict[str, list[bytes]] = {name: [] for name in OUTPUTS}
        params = {"name": name, "argv": list(argv), **options}
        result = self.carry(
            "exec", params, whole(input), lambda name, data: output[name].append(data), limit
        )
        out, err = (b"".join(output[name]) for name in OUTPUTS)
        return Completed.of(result, out, err)

    def put(self, name: str, role: str, path: str, data: bytes) -> None:
        """Make ``data`` the file ``path`` in a path role's directory. Raises SeraiError."""
        params = {"name": name, "role": role, "path": path}
        self.carry("put", params, whole(data), lambda *_: None, 0)

    def get(self, name: str, role: str, path: str, *, limit: int = MOST_OUTPUT) -> bytes:
        """The content of the file ``path`` in a path role's directory. Raises SeraiError."""
        return self._output("get", name, role, path, limit)

    def capabilities(self) -> Collection[str]:
        """What the VM's Serai can do. Raises SeraiError."""
        return list(self.call("version")["capabilities"])

    def ls(self, name: str, role: str, path: str = "") -> list[dict[str, Any]]:
        """The entries of a path role's directory, or of one below it. Raises SeraiError."""
        return [
            json.loads(line)
            for line in self._output("ls", name, role, path, MOST_OUTPUT).splitlines()
        ]

    def batch(
        self, name: str, role: str, operations: Iterable[Mapping[str, Any]]
    ) -> list[Any | SeraiError]:
        """Carry out operations on files in a path role's directory, by one process.

        The result of each is what it gives, or its error. Raises SeraiError if none could be.
        """
        lines = b"".join(json.dumps(dict(each)).encode() + b"\n" for each in operations)
        output: list[bytes] = []
        params = {"name": name, "role": role}
        self.carry(
            "file.batch", params, whole(lines), lambda _, data: output.append(data), MOST_OUTPUT
        )
        return [_result(json.loads(line)) for line in b"".join(output).splitlines()]

    def lines(self, method: str, name: str, role: str, path: str = "") -> Iterator[Any]:
        """What ls or file.watch say, as they say it. Raises SeraiError."""
        params = {"name": name, "role": role, "path": path, "stdio": self.stdio}
        dialogue = Dialogue(self.ask(method, params))
        rest = b""
        while not dialogue.over:
            dialogue.take(self.message())
            if (piece := dialogue.piece()) is not None:
                *lines, rest = (rest + piece[1]).split(b"\n")
                yield from map(json.loads, lines)
        dialogue.result()

    def send(self, method: str, descriptor: int, **params: Any) -> Any:
        """Call a method for files with a descriptor to read or write; no byte passes through."""
        return self.wait(self.ask(method, {**params, "stdio": "fds"}, [descriptor]))

    def _output(self, method: str, name: str, role: str, path: str, limit: int) -> bytes:
        output: list[bytes] = []
        params = {"name": name, "role": role, "path": path}
        self.carry(method, params, whole(b""), lambda _name, data: output.append(data), limit)
        return b"".join(output)

    def carry(
        self,
        method: str,
        params: dict[str, Any],
        input: Iterable[bytes],
        take: Callable[[str, bytes], None],
        limit: int,
    ) -> Any:
        """Call a method that streams: give it ``input``, and ``take`` what comes, up to ``limit``.

        What comes is a session's, which may write for ever: it is killed, and no byte more is kept.
        """
        dialogue = Dialogue(self.ask(method, {**params, "stdio": self.stdio}))
        chunks, room = iter(input), limit
        while not dialogue.over:
            message = self.message()
            if not dialogue.take(message) and "method" in message:
                self._events.append(message)
            if (piece := dialogue.piece()) is not None and room >= 0:
                room -= len(piece[1])
                if room >= 0:
                    take(*piece)
                else:
                    self.ask("exec.signal", {"exec": dialogue.exec, "signal": "KILL"})
            while dialogue.exec and not (dialogue.over or dialogue.full):
                if (data := next(chunks, None)) is None:
                    break
                dialogue.sent(self.ask("exec.input", dialogue.input(data)))
        if room < 0:
            raise SeraiError(
                f"more than {limit} bytes were written; the {method} was ended",
                "have large output written to a file, or read it from a pipe",
                TOO_LARGE,
            )
        return dialogue.result()

    def events(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Subscribe, and yield (event, session) for as long as the daemon runs."""
        self.call("subscribe")
        while True:
            message = self._events.pop(0) if self._events else self.message()
            if "method" in message:
                yield message["method"], message["params"]


def _result(answer: dict[str, Any]) -> Any | SeraiError:
    try:
        return jsonrpc.answered(answer)
    except SeraiError as error:
        return error
