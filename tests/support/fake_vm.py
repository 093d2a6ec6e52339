"""A VM for tests: a root folder, a stand-in for systemd, and a real sessiond that can be killed."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serai.common.errors import SeraiError
from serai.common.paths import Paths
from serai.runtime.client import Client
from serai.runtime.sandbox import cgroups
from tests.support.sandbox import build_filters
from tests.support.waiting import wait_for

CHECKOUT = Path(__file__).resolve().parents[2]
PROGRAMS = CHECKOUT / "src/serai/install/programs"
# The distribution's own Python, which has python3-seccomp and python3-jeepney, as in the VM.
PYTHON = "/usr/bin/python3"
DEADLINE = 30.0
KEY = bytes(range(32))
"""The VM's, for secrets."""


class Vm:
    """One stand-in VM below ``root``."""

    def __init__(
        self, root: Path, gate_prefix: Sequence[str] = (), gate_settings: str = ""
    ) -> None:
        """``gate_prefix`` is a command to start the gate with."""
        self.root = root
        self._gate_prefix = gate_prefix
        self.gate_patch = ""  # code that the gate runs first, from its next start on
        self.paths = Paths(root)
        self.env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{CHECKOUT}/src:{CHECKOUT}",
            "SERAI_CONTROL": str(self.paths.control),
            "TERM": "xterm",
        }
        self.daemon: subprocess.Popen[bytes] | None = None
        self._prepare()
        self.paths.gate_settings.write_text(gate_settings)
        self.paths.gate_settings.chmod(0o600)
        self.manager = subprocess.Popen(
            [PYTHON, "tests/support/fake_systemd.py", root, PROGRAMS / "bridge"],
            cwd=CHECKOUT,
            env=self.env,
            stdout=subprocess.PIPE,
        )
        assert self.manager.stdout is not None
        said = self.manager.stdout.readline().decode().strip()
        assert said, f"the stand-in for systemd does not start: {self.manager.wait(DEADLINE)}"
        self.cgroup = Path(said)
        self.gate: subprocess.Popen[bytes] | None = None
        self.start_gate()

    def _prepare(self) -> None:
        (self.root / "etc/serai").mkdir(parents=True)
        self.paths.audit.mkdir(parents=True)
        (self.root / "etc/passwd").write_text(
            "root:x:0:0::/root:/bin/sh\nparrot:x:7:7::/:/bin/sh\n"
        )
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        # However full this host's own disk is: that is no test's business, but where it says so.
        self.paths.settings.write_text(
            f'attachable = ["{self.root}/share"]\n'
            f"[limits]\nnofile = {min(524288, most)}\n"
            "[disk]\nreserve = 1\nwarn_free = 1\nact_free = 1\n"
        )
        folder = self.paths.filters()
        folder.mkdir(parents=True)
        for name, program in zip(("baseline", "unix-block"), build_filters(), strict=True):
            (folder / f"{name}.bpf").write_bytes(program)

    def start(self, fatal: int = 0, weaken: str = "") -> None:
        """Start sessiond; returns when it serves, or has died at fault number ``fatal``.

        ``weaken`` is code that the daemon runs before, as to take a step out.
        """
        (self.root / "faults").unlink(missing_ok=True)
        self.daemon = subprocess.Popen(
            [PYTHON, "tests/support/sessiond.py", str(self.root), str(fatal), weaken],
            cwd=CHECKOUT,
            env=self.env,
            stderr=(self.root / "sessiond.log").open("ab"),
        )
        wait_for(lambda: self.daemon is None or self.daemon.poll() is not None or self._serves())

    def start_gate(self) -> None:
        """Start the gate; sessiond waits for it."""
        self.paths.gate_key.write_bytes(KEY)  # as its unit does before each start
        code = "import sys\nfrom pathlib import Path\nfrom serai.gate import server\n"
        code += self.gate_patch
        code += "sys.exit(server.main(server.Paths(Path(sys.argv[1]))))"
        self.gate = subprocess.Popen(
            [*self._gate_prefix, PYTHON, "-c", code, str(self.root)],
            cwd=CHECKOUT,
            env=self.env,
            stderr=(self.root / "gate.log").open("ab"),
        )

    def kill_gate(self) -> None:
        """kill -9."""
        assert self.gate is not None
        self.gate.kill()
        self.gate.wait()

    def _serves(self) -> bool:
        try:
            Client(self.paths.control, timeout=DEADLINE).close()
        except SeraiError:
            return False
        return True

    def kill(self) -> None:
        """kill -9."""
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGTERM)
        return self.daemon.wait(DEADLINE)

    def client(self) -> Client:
        return Client(self.paths.control, timeout=DEADLINE)

    def call(self, method: str, /, **params: Any) -> Any:
        """One call on a connection of its own."""
        with self.client() as client:
            return client.call(method, **params)

    def sessions(self) -> dict[str, dict[str, Any]]:
        return {each["name"]: each for each in self.call("list")["sessions"]}

    def answered_by_http(self, request: bytes) -> str:
        """What ``serai metrics --http`` answers, started as systemd does it for a connection: the
        socket is standard input and output.
        """
        ours, theirs = socket.socketpair()
        with (
            ours,
            theirs,
            ours.makefile("rb") as response,
            subprocess.Popen(
                self.command("metrics", "--http"),
                env=self.env,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
            ),
        ):
            theirs.close()
            ours.settimeout(DEADLINE)
            ours.sendall(request)
            return response.read().decode()

    def serai(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """The command, as installed but for where its modules are."""
        return subprocess.run(
            self.command(*arguments),
            check=False,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            **{"env": self.env, "stdin": subprocess.DEVNULL, **options},
        )

    def command(self, *arguments: str) -> list[str]:
        return [PYTHON, "-IS", str(self.root / "serai"), *arguments]

    def install_command(self) -> None:
        text = (PROGRAMS / "serai").read_text()
        assert "/usr/lib/serai/python" in text
        (self.root / "serai").write_text(text.replace("/usr/lib/serai/python", f"{CHECKOUT}/src"))

    def processes(self) -> int:
        """How many processes there are in all sessions' cgroups."""
        return len(cgroups.members(self.cgroup))

    def descriptors(self) -> int:
        """How many descriptors the daemon has open."""
        assert self.daemon is not None
        return len(list(Path(f"/proc/{self.daemon.pid}/fd").iterdir()))

    def payloads(self, name: str) -> list[Path]:
        """The cgroups of a session's payloads."""
        return list(self.cgroup.glob(f"{name}/*-*"))

    def _left(self, name: str) -> str:
        running = {
            each.name: [Path(f"/proc/{pid}/status").read_text() for pid in cgroups.members(each)]
            for each in self.payloads(name)
        }
        return f"now: {self.processes()} processes, {self.descriptors()} descriptors; {running}"

    @contextmanager
    def unharmed(self, name: str) -> Iterator[None]:
        """Afterwards the same daemon still answers, and nothing runs that did not before.

        ``name`` is of a session that runs before and after.
        """
        idle, descriptors = self.processes(), self.descriptors()
        yield
        assert self.daemon is not None and self.daemon.poll() is None, "the daemon fell"
        assert self.sessions()[name]["state"] == "ready"
        self.call("list")  # the daemon has met every client that came before this one
        wait_for(
            lambda: (
                self.processes() <= idle  # what ended late counted before
                and self.descriptors() <= descriptors
                and not self.payloads(name)
            ),
            told=lambda: f"before: {idle} processes, {descriptors} descriptors; {self._left(name)}",
        )

    def close(self) -> None:
        if self.daemon is not None and self.daemon.poll() is None:
            self.kill()
        self.kill_gate()
        (self.root / "end").touch()
        status = self.manager.wait(DEADLINE)
        assert status == 0, f"the stand-in for systemd failed: {status}"
        if self.manager.stdout is not None:
            self.manager.stdout.close()


@contextmanager
def opened(gate_prefix: Sequence[str] = (), gate_settings: str = "") -> Iterator[Vm]:
    """A VM without a running sessiond; all of it is gone afterwards."""
    root = Path(tempfile.mkdtemp(prefix="serai-vm-"))
    root.chmod(0o755)
    machine = Vm(root, gate_prefix, gate_settings)
    machine.install_command()
    try:
        yield machine
    finally:
        try:
            machine.close()
        finally:
            for log in (root / "sessiond.log", root / "gate.log"):
                if log.exists():
                    sys.stderr.write(log.read_text())
            shutil.rmtree(root, ignore_errors=True)
