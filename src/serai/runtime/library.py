"""The library for programs on a host, or in the VM: ``from serai import connect``.

with connect("ssh://root@vm") as vm:
    session = vm.create(labels={"task": "42"})
    done = session.run(["make", "test"])
    print(done.status, done.stdout)

A connection that broke is made again for a call that may be repeated. ``create`` may be, because it
carries an ID of its own. A command is run at most once: if its connection breaks, it ends.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any
from urllib.parse import quote

from serai.common.errors import GONE, SeraiError
from serai.common.paths import Paths
from serai.runtime import forward, moving
from serai.runtime.client import FOLLOW, Client, Completed
from serai.runtime.dialogue import parts
from serai.runtime.forward import Forward
from serai.runtime.local_files import Files
from serai.runtime.process import Process
from serai.runtime.remote import VmClient

ONCE = frozenset({"remove", "job.input", "job.signal", "secret.remove"})
"""The calls that are not made again: the first may have been carried out."""
RESTART = 5.0
"""Seconds for which others are made again: sessiond may be starting anew, as at an upgrade."""


class Vm:
    """A VM. One call at a time; use another one beside it for another thread."""

    def __init__(self, address: str = "", timeout: float | None = None) -> None:
        """See ``connect``."""
        self.address = address or os.environ.get("SERAI_VM", "")
        self._timeout = timeout
        self.abandoned = False
        self._client = self.another()
        self._forwards: list[Forward] = []

    def __enter__(self) -> Vm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up. Commands that run and forwards end by that; sessions and jobs stay."""
        self.abandoned = True
        for each in self._forwards:
            each.close()
        self._client.close()

    def abandon(self) -> None:
        """Have a call that another thread waits for fail, and every later one."""
        self.abandoned = True
        with contextlib.suppress(OSError):
            self._client.socket.shutdown(socket.SHUT_RDWR)

    def create(
        self,
        name: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        profile: str | None = None,
        limits: Mapping[str, object] | None = None,
        env: Mapping[str, str] | None = None,
        sandbox: str | None = None,
        request_id: str | None = None,
    ) -> Session:
        """Make a session and start it; with the ``request_id`` of another, that. Raises SeraiError.

        Give one that your program knows again after it was killed. For ``limits`` and ``env`` see
        ``Session.set``. ``sandbox`` is ``strict`` or ``sockets``; None: the VM's default.
        """
        # An older VM knows none of them.
        more = {"limits": _texts(limits), "env": dict(env or {}), "sandbox": sandbox}
        made = self.call(
            "create",
            name=name,
            labels=dict(labels or {}),
            profile=profile,
            request_id=request_id or uuid.uuid4().hex,
            **{key: value for key, value in more.items() if value},
        )
        return Session(self, made["name"])

    def session(self, name: str) -> Session:
        """The session ``name``, which exists. Raises SeraiError."""
        return Session(self, self.call("show", name=name)["name"])

    def sessions(self, labels: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        """Every session that has these labels, all without its ``usage``. Raises SeraiError."""
        which = {"labels": dict(labels)} if labels else {}  # an older VM knows no such parameter
        return list(self.call("list", **which)["sessions"])

    def import_(
        self, file: IO[bytes], name: str | None = None, *, bindings: bool = False
    ) -> Session:
        """Make a session of what ``Session.export`` wrote; it is stopped. Raises SeraiError.

        All of it, or nothing. ``name``: another one than it had. ``bindings``: it may use secrets
        of this VM, as its policy and its profile here say.
        """
        with contextlib.closing(self.another()) as client:
            found = moving.take(client, file, moving.wanted(name, bindings=bindings))
        return Session(self, found["name"])

    def set_secret(self, name: str, value: str) -> None:
        """Have the gate keep a secret, in the place of another of that name. Raises SeraiError."""
        self.call("secret.set", name=name, value=value)

    def secrets(self) -> list[dict[str, Any]]:
        """Every secret without its value: see docs/rpc.md. Raises SeraiError."""
        return list(self.call("secret.list")["secrets"])

    def remove_secret(self, name: str, *, force: bool = False) -> None:
        """Forget a secret; with ``force`` also if a session is bound to it. Raises SeraiError."""
        self.call("secret.remove", name=name, force=force)

    def call(self, method: str, /, **params: Any) -> Any:
        """Call any method of docs/rpc.md that does not stream. Raises SeraiError."""
        try:
            return self.client().call(method, **params)
        except SeraiError as error:
            if error.code != GONE or method in ONCE:
                raise
        until = time.monotonic() + RESTART
        while True:
            try:
                return self.client().call(method, **params)
            except SeraiError as error:
                if error.code != GONE or time.monotonic() > until or self.abandoned:
                    raise
            time.sleep(0.2)

    def client(self) -> Client:
        """The connection, made again if it is known to be broken. Raises SeraiError."""
        if self.abandoned:
            raise SeraiError(f"the connection to {self._client.peer} was given up", code=GONE)
        if self._client.hung_up():
            fresh = self.another()  # while that fails, the broken one stays and is tried again
            self._client.close()
            self._client = fresh
        return self._client

    def forward(self, name: str, port: int, local: int = 0, *, rewrite_host: bool) -> Forward:
        """See ``Session.forward``."""
        made = forward.opened(self.another(), name, port, local, rewrite_host=rewrite_host)
        self._forwards = [*(each for each in self._forwards if each.carries), made]
        return made

    def another(self) -> Client:
        """A connection of its own, which is the caller's to close. Raises SeraiError."""
        if self.address:
            return VmClient(self.address, self._timeout)
        path = os.environ.get("SERAI_CONTROL") or str(Paths().control)
        return VmClient(f"unix://{quote(os.path.abspath(path))}", self._timeout)  # noqa: PTH100  # a text


class Session:
    """A session of a VM."""

    def __init__(self, vm: Vm, name: str) -> None:
        self.vm = vm
        self.name = name
        self.files = Files(name, vm.client, vm.another)

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        timeout: float | None = None,
    ) -> Completed:
        """Run a command with ``input`` on its stdin; returns when it has ended. Raises SeraiError.

        That it failed is no error: see ``status`` of what is returned.
        """
        return self.vm.client().exec(
            self.name, argv, input=input, env=dict(env or {}), cwd=cwd, timeout=timeout
        )

    def stream(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        timeout: float | None = None,
        tty: bool = False,
    ) -> Process:
        """A command whose output comes piece by piece. Use it in ``with``. Raises SeraiError."""
        params = command(self.name, argv, env, cwd, timeout)
        return Process(self.vm.another(), {**params, "tty": tty})

    def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        timeout: float | None = None,
        stdin: bool = False,
        request_id: str | None = None,
    ) -> Job:
        """Start a command that goes on without this program. Raises SeraiError.

        With the ``request_id`` of another job of the session, it is that one.
        """
        made = self.vm.call(
            "job.start",
            name=self.name,
            argv=list(argv),
            env=dict(env or {}),
            cwd=cwd,
            timeout=timeout,
            stdin=stdin,
            request_id=request_id or uuid.uuid4().hex,
        )
        return Job(self.vm, made["job"])

    def jobs(self) -> list[Job]:
        """Its jobs, the newest last. Raises SeraiError."""
        found = self.vm.call("job.list", name=self.name)["jobs"]
        return [Job(self.vm, each["job"]) for each in found]

    def forward(self, port: int, *, local: int = 0, rewrite_host: bool = False) -> Forward:
        """The URL of a port here that leads to ``port`` in the session. Raises SeraiError.

        It ends with ``close``, with the VM's, and when the session stops. Nobody need listen in the
        session yet; a connection is refused until somebody does. ``local`` is the port here; 0: any
        that is free. With ``rewrite_host``, HTTP requests say that they are for localhost.
        """
        return self.vm.forward(self.name, port, local, rewrite_host=rewrite_host)

    def set(
        self,
        *,
        labels: Mapping[str, str | None] | None = None,
        limits: Mapping[str, object] | None = None,
        env: Mapping[str, str | None] | None = None,
    ) -> dict[str, Any]:
        """Change what it has of its own, at once; returns the session. Raises SeraiError.

        ``limits`` are ``memory``, ``cpus``, ``tasks`` and ``quota``: numbers, or texts such as
        "1G"; and ``idle_freeze`` and ``ttl``: texts such as "10m". ``env`` is for commands that are
        started from now on. What is None it has no longer.
        """
        changes = {"labels": dict(labels or {}), "limits": _texts(limits), "env": dict(env or {})}
        return dict(self.vm.call("set", name=self.name, **changes))

    def export(self, file: IO[bytes]) -> None:
        """Write it to ``file`` as a tar archive; if it runs, it is frozen meanwhile.

        Without an error it is whole. Raises SeraiError.
        """
        with contextlib.closing(self.vm.another()) as client:
            moving.export(client, self.name, file)

    def move(self, target: Vm, *, name: str | None = None, bindings: bool = False) -> Session:
        """Move it to another VM, where it may have another name. Raises SeraiError.

        It is in one of the two VMs whatever happens. After an error the same again goes on with it.
        ``bindings``: it may use secrets of that VM, as its policy and its profile there say.
        """
        moved = moving.move(self.vm, target, self.name, new_name=name, bindings=bindings)
        return Session(target, moved["name"])

    def show(self) -> dict[str, Any]:
        """What docs/rpc.md calls a session. Raises SeraiError."""
        return dict(self.vm.call("show", name=self.name))

    def stop(self) -> None:
        """End everything in it; its home stays. Raises SeraiError."""
        self.vm.call("stop", name=self.name)

    def reopen(self) -> None:
        """Start it again. Raises SeraiError."""
        self.vm.call("reopen", name=self.name)

    def archive(self) -> None:
        """Stop it and lock its home away. Raises SeraiError."""
        self.vm.call("archive", name=self.name)

    def remove(self) -> None:
        """End it for good and delete its data. Raises SeraiError."""
        self.vm.call("remove", name=self.name)


class Job:
    """A command that belongs to its session. Keep ``id``, and any program finds it again."""

    def __init__(self, vm: Vm, id: str) -> None:
        self.vm = vm
        self.id = id

    def show(self) -> dict[str, Any]:
        """What docs/rpc.md calls a job. Raises SeraiError."""
        return dict(self.vm.call("job.show", job=self.id))

    def output(self, offset: int = 0, *, follow: bool = False) -> Iterator[bytes]:
        """What it has written, from a byte on; with ``follow`` until it ends. Raises SeraiError."""
        while True:
            wait = FOLLOW if follow else 0.0
            found = self.vm.call("job.read", job=self.id, offset=offset, wait=wait)
            data, offset = base64.b64decode(found["data"]), found["next"]
            if data:
                yield data
            elif not follow or found["job"]["state"] != "running":
                return

    def write(self, data: bytes, *, eof: bool = False) -> None:
        """Give it input, if it was started with ``stdin``. Raises SeraiError."""
        for each in parts(data):
            self.vm.call("job.input", job=self.id, data=base64.b64encode(each).decode())
        if eof:
            self.vm.call("job.input", job=self.id, eof=True)

    def kill(self, signal: str = "TERM") -> None:
        """Send a signal to its process group. Raises SeraiError."""
        self.vm.call("job.signal", job=self.id, signal=signal)

    def wait(self, timeout: float | None = None) -> dict[str, Any]:
        """The job when it has ended, or after ``timeout`` seconds. Raises SeraiError."""
        return dict(self.vm.call("job.wait", job=self.id, timeout=timeout))


def command(
    name: str,
    argv: Sequence[str],
    env: Mapping[str, str] | None,
    cwd: str,
    timeout: float | None,
) -> dict[str, Any]:
    """The parameters of ``exec``."""
    words = {"env": dict(env or {}), "cwd": cwd, "timeout": timeout}
    return {"name": name, "argv": list(argv), **words}


def _texts(limits: Mapping[str, object] | None) -> dict[str, str | None]:
    return {key: None if value is None else str(value) for key, value in (limits or {}).items()}


def connect(address: str = "", timeout: float | None = None) -> Vm:
    """Connect to a VM by its address, SERAI_VM's, or to the one that this program runs in.

    An address is ``ssh://[USER@]HOST[:PORT]``, ``vsock://CID:PORT``, ``unix:///PATH``, or
    ``nats://HOST[:PORT][/VM]`` for a fleet or one of its VMs.
    ``timeout`` (seconds) is for each wait on the connection. Raises SeraiError.
    """
    return Vm(address, timeout)
