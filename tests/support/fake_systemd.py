"""A stand-in for systemd: starts and kills real sandboxes in real cgroups, and outlives sessiond.

Run as a program, ``standin.py ROOT BRIDGE``, it is the manager. ``StandIn`` speaks to it.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import socketserver
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serai.common.errors import SeraiError
from serai.runtime.sessions.supervising.supervisor import Property
from serai.runtime.settings import SessionSettings

CGROUPS = Path("/sys/fs/cgroup/unified")
DEADLINE = 20.0


class StandIn:
    """A supervisor as serai.runtime.sessions.supervising.systemd describes it."""

    def __init__(self, root: Path) -> None:
        self._socket = root / "manager.sock"

    async def apply(self, settings: SessionSettings) -> None:
        """Limits are systemd's business, and tested with it."""

    async def limit(self, name: str, limits: Sequence[Property], *, own: bool) -> None:
        """Only note them."""
        text = json.dumps({key: value for key, (_, value) in limits if own})
        (self._socket.parent / f"limits-{name}").write_text(text)

    async def start(self, name: str) -> int:
        return int(await self._ask("start", name))

    async def stop(self, name: str) -> None:
        await self._ask("stop", name)

    async def start_folder(self, name: str, role: str, program: Sequence[str]) -> int:
        return int(await self._ask("start_folder", [name, role, *program]))

    async def stop_folder(self, name: str, role: str) -> None:
        await self._ask("stop", f"{name}.{role}")

    async def running(self) -> dict[str, int]:
        return dict(await self._ask("running", ""))

    async def _ask(self, what: str, name: str | list[str]) -> Any:
        reader, writer = await asyncio.open_unix_connection(self._socket)
        try:
            writer.write(json.dumps([what, name]).encode() + b"\n")
            answer = json.loads(await reader.readline())
        finally:
            writer.close()
        if "error" in answer:
            raise SeraiError(answer["error"])
        return answer["result"]


class Manager:
    """The units: a cgroup and a bubblewrap each."""

    def __init__(self, root: Path, bridge: Path) -> None:
        self.root = root
        self.bridge = bridge
        # Not named by our PID: that comes again, and a killed run leaves its directory.
        self.cgroup = Path(tempfile.mkdtemp(prefix="serai-test-", dir=CGROUPS))
        self.units: dict[str, subprocess.Popen[bytes]] = {}
        self.served: list[subprocess.Popen[bytes]] = []

    def start(self, name: str) -> int:
        if name in self.running(""):
            return self.units[name].pid
        if (self.root / "break-start").exists():
            raise RuntimeError("told to fail")
        state = self.root / "run/serai/sessions" / name
        uid = (state / "users/passwd").read_text().split(":")[2]
        cgroup = self.cgroup / name
        cgroup.mkdir(exist_ok=True)
        baseline = self.root / "usr/lib/serai/seccomp" / platform.machine() / "baseline.bpf"
        script = (
            'echo $$ >"$1/cgroup.procs"; exec setpriv --reuid="$2" --regid="$2" --groups="$6" '
            '--no-new-privs bwrap --args 4 --seccomp 3 3<"$3" 4<"$4" '
            '-- /bin/bash --noprofile --norc -c "$5"'
        )
        # The bridge's alone, if this session's sandbox asks for it.
        group = (self.root / "run/serai/gate" / name).stat().st_gid
        arguments = [cgroup, uid, baseline, state / "args", self.bridge.read_text(), group]
        self.units[name] = subprocess.Popen(
            ["/bin/sh", "-c", script, "sh", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={"PATH": os.environ["PATH"]},
        )
        # As Type=exec: the program that is the main process has been executed.
        end = time.monotonic() + DEADLINE
        while Path(f"/proc/{self.units[name].pid}/exe").readlink().name != "bwrap":
            assert time.monotonic() < end, "bubblewrap is not executed"
            time.sleep(0.001)
        return self.units[name].pid

    def start_folder(self, words: list[str]) -> int:
        cgroup = self.cgroup / f"{words[0]}.{words[1]}"
        cgroup.mkdir()
        script = 'echo $$ >"$0/cgroup.procs" && exec "$@"'  # or it is stopped already
        process = subprocess.Popen(
            ["/bin/sh", "-c", script, cgroup, *words[2:]], stdin=subprocess.DEVNULL
        )
        self.served.append(process)
        return process.pid

    def stop(self, name: str) -> None:
        """End a unit, and what is bound to it."""
        for bound in self.cgroup.glob(f"{name}.*"):
            self.stop(bound.name)
        cgroup = self.cgroup / name
        end = time.monotonic() + DEADLINE
        while cgroup.exists():
            assert time.monotonic() < end, "the unit does not end"
            (cgroup / "cgroup.kill").write_text("1")
            self.running("")
            for folder, _, _ in os.walk(cgroup, topdown=False):
                try:
                    Path(folder).rmdir()
                except OSError:
                    time.sleep(0.001)

    def running(self, _name: str) -> dict[str, int]:
        self.served = [each for each in self.served if each.poll() is None]
        self.units = {name: unit for name, unit in self.units.items() if unit.poll() is None}
        return {name: unit.pid for name, unit in self.units.items()}


def main(root: Path, bridge: Path) -> None:
    """Serve until stdin is closed, then end everything."""
    manager = Manager(root, bridge)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            try:
                what, name = json.loads(self.rfile.readline())
                answer = {"result": getattr(manager, what)(name)}
            except Exception as error:
                answer = {"error": f"stand-in: {error!r}"}
            try:
                self.wfile.write(json.dumps(answer).encode() + b"\n")
            except OSError:
                return  # sessiond was killed while it waited

    class Server(socketserver.UnixStreamServer):
        request_queue_size = 128  # with 5, who asks while others wait is cut off

    with Server(str(root / "manager.sock"), Handler) as server:
        server.timeout = 0.05
        parent = os.getppid()
        print(manager.cgroup, flush=True)
        while os.getppid() == parent and not (root / "end").exists():
            server.handle_request()
            manager.running("")
    for name in [folder.name for folder in manager.cgroup.iterdir() if folder.is_dir()]:
        manager.stop(name)
    manager.cgroup.rmdir()
    shutil.rmtree(root / "run", ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
