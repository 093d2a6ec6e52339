"""A booted VM: a disk under QEMU on a throwaway overlay, with ssh into it as root."""

from __future__ import annotations

import asyncio
import re
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from qemu.qmp import QMPClient, QMPError

from serai.image import console, qcow2
from serai.image.definition.definition import Image, Size, megabytes
from serai.image.errors import BuildError
from serai.image.run import bounded, last_lines, run, started
from serai.image.settings import Settings
from serai.image.vm import accelerator, firmware, seed, share
from serai.image.vm.qemu import (
    ROOT_SERIAL,
    SESSIONS_SERIAL,
    Bus,
    Drive,
    Format,
    Guest,
    Share,
    command,
)
from serai.image.vm.ssh import Ssh

BOOT_DEADLINE = 900.0  # seconds; a loaded host that emulates everything needs 300
_STOP_DEADLINE = 180.0
_POLL = 0.1


@dataclass
class VM:
    """A running guest.

    ``overlay`` takes what the guest writes to its root disk, ``sessions`` is its second disk (None
    without one), ``serial_log`` what it said on its console, ``serial_socket`` the console itself.
    """

    ssh: Ssh
    guest: Guest
    overlay: Path
    sessions: Path | None
    serial_log: Path
    qemu_log: Path
    serial_socket: Path
    qmp_socket: Path
    deadline: float  # seconds, for each boot
    # set by start(), anew at each reboot; closing ``running`` ends QEMU
    process: subprocess.Popen[bytes] = field(init=False)
    running: ExitStack = field(default_factory=ExitStack)
    power_on: float = 0.0
    boot_seconds: float = 0.0  # from power on to the first ssh command

    @property
    def ssh_port(self) -> int:
        """The port on 127.0.0.1 that leads to the guest's ssh."""
        return self.ssh.port

    def reboot(self) -> float:
        """Reboot from inside; returns the seconds until ssh works in the new boot.

        At the guest's reset QEMU ends and another one is started on the same disks: it would go
        through all that it has translated of the old boot as soon as the firmware writes there,
        which takes minutes after some work (docs/decisions/0015). Raises BuildError if it fails.
        """
        begin = time.monotonic()
        try:
            self.qmp("set-action", {"reboot": "shutdown"})
        except (OSError, QMPError, asyncio.TimeoutError) as error:
            self.check()
            raise BuildError(f"QEMU does not answer: {error}", log=self.qemu_log) from None
        # The connection may break before the command's status comes back.
        self.ssh.run("systemctl reboot", check=False)
        self.ssh.disconnect()
        try:
            status = self.process.wait(self.deadline)
        except subprocess.TimeoutExpired:
            text = f"the guest did not reboot within {self.deadline:g} s"
            raise BuildError(text, log=self.serial_log) from None
        if status != 0:
            self.check()
        self.running.close()
        self.start()
        self._wait_for_ssh(begin + self.deadline)
        return time.monotonic() - begin

    def start(self) -> None:
        """Power on. Raises BuildError if QEMU does not run."""
        work = self.serial_log.parent
        served = share.served(self.guest.shares, self.qmp_socket.parent, work)
        guest = replace(self.guest, shares=self.running.enter_context(served))
        self.power_on = time.monotonic()
        emulator = started(command(guest), log=self.qemu_log)
        self.process = self.running.enter_context(emulator)
        self.ssh = replace(self.ssh, port=_forwarded_port(self))

    def shutdown(self, seconds: float = _STOP_DEADLINE) -> bool:
        """Press the power button and wait; a guest that has not ended by then is killed.

        Returns whether it ended by itself.
        """
        self.ssh.disconnect()
        with suppress(OSError, QMPError, asyncio.TimeoutError):
            self.qmp("system_powerdown")
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            console.warn(f"{self.guest.name} did not switch off in {seconds:g} s and was killed")
            self.process.kill()
            self.process.wait()
            return False
        return True

    def wait(self) -> None:
        """Wait until the guest has switched itself off."""
        self.process.wait()

    def qmp(self, name: str, arguments: Mapping[str, object] | None = None) -> object:
        """What ``ask`` says."""
        return ask(self.qmp_socket, name, arguments)

    def check(self) -> None:
        """Raise BuildError, with the last that was said, if QEMU is gone."""
        status = self.process.poll()
        if status is None:
            return
        said = last_lines(_text(self.qemu_log))
        if said == last_lines(""):
            said = "its console's last lines: " + last_lines(_text(self.serial_log))
        raise BuildError(f"QEMU ended with {status}: {said}", log=self.serial_log)

    def wait_for_ssh(self) -> None:
        """Wait for the first boot; notes ``boot_seconds``, raises BuildError if it fails."""
        self._wait_for_ssh(self.power_on + self.deadline)
        self.boot_seconds = time.monotonic() - self.power_on

    def _wait_for_ssh(self, until: float) -> None:
        try:
            self.ssh.wait_until_up(until, self.check)
        except BuildError as error:
            if error.log is not None:
                raise
            said = last_lines(_text(self.serial_log))
            raise BuildError(
                f"{error.message}; the console's last lines: {said}", log=self.serial_log
            ) from None


@contextmanager
def booted(
    image: Image,
    disk: Path,
    *,
    settings: Settings,
    work: Path,
    sessions: Path | None = None,
    sessions_format: Format = "qcow2",
    sessions_size: Size | None = None,
    no_sessions: bool = False,
    bus: Bus | None = None,
    cpus: int | None = None,
    memory: Size | None = None,
    ssh_port: int = 0,
    shares: Sequence[Share] = (),
    deadline: float = BOOT_DEADLINE,
) -> Iterator[VM]:
    """Boot ``disk`` and yield the VM once ssh works; it is killed on leaving the block.

    ``disk`` is a qcow2 and only read. ``sessions`` is a second disk to use and keep, in
    ``sessions_format``: what a guest wrote to it never decides that. Without it the guest gets
    a blank one of ``sessions_size`` (the image's own size), or none with ``no_sessions``. The logs
    serial.log and qemu.log stay in ``work``, all else that is made here goes. ``ssh_port`` 0 is
    any free port; the guest finds ``shares`` by their tags; ``deadline`` is in seconds, for the
    boot.

    Raises BuildError when the guest does not come up.
    """
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".guest.", dir=work.absolute()) as scratch_name:
        scratch = Path(scratch_name)
        overlay = _overlay(disk, scratch / "root.qcow2")
        if not no_sessions and sessions is None:
            sessions = _blank(scratch / "sessions.qcow2", sessions_size or image.disk.sessions)
        disks = [Drive(overlay, ROOT_SERIAL)]
        if sessions is not None and not no_sessions:
            if sessions_format == "qcow2":
                qcow2.require_alone(sessions, hint=f"a raw disk is '--sessions {sessions}:raw'")
            disks.append(Drive(sessions.absolute(), SESSIONS_SERIAL, sessions_format))
        key = seed.new_key(scratch)
        guest = Guest(
            name=image.name,
            arch=image.arch,
            accelerator=accelerator.choose(image.arch, settings),
            firmware=firmware.find(image.arch),
            disks=tuple(disks),
            cpus=cpus or image.machine.cpus,
            memory_mib=megabytes(memory or image.machine.memory),
            bus=bus or image.disk.bus,
            ssh_port=ssh_port,
            seed=seed.write(
                scratch / "seed.img", seed.user_data(root_keys=[key.public]), seed.meta_data()
            ),
            shares=tuple(shares),
        )
        with running(guest, key.private, work, deadline) as vm:
            vm.wait_for_ssh()
            yield vm


@contextmanager
def running(guest: Guest, key: Path, work: Path, deadline: float) -> Iterator[VM]:
    """Start QEMU and yield the VM at once, before it has booted."""
    serial_log, qemu_log = work.absolute() / "serial.log", work.absolute() / "qemu.log"
    for log in (serial_log, qemu_log):
        log.unlink(missing_ok=True)
    # Sockets' paths must be short (unix(7): 108 bytes), so they cannot be in ``work``.
    with ExitStack() as stack:
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="serai-")))
        guest = replace(
            guest,
            serial_log=serial_log,
            serial_socket=sockets / "serial",
            qmp_socket=sockets / "qmp",
        )
        vm = VM(
            ssh=Ssh(0, "root", key, str(sockets / "ssh")),
            guest=guest,
            serial_log=serial_log,
            qemu_log=qemu_log,
            serial_socket=sockets / "serial",
            qmp_socket=sockets / "qmp",
            overlay=guest.disks[0].file,
            sessions=guest.disks[1].file if len(guest.disks) > 1 else None,
            deadline=deadline,
        )
        stack.enter_context(bounded(serial_log, qemu_log))
        stack.callback(vm.running.close)
        vm.start()
        stack.callback(vm.ssh.disconnect)
        yield vm


def _overlay(disk: Path, target: Path) -> Path:
    if not disk.is_file():
        raise BuildError(f"there is no disk {disk}", hint="build the image first")
    qcow2.require_alone(disk)
    backing = ["-b", str(disk.resolve()), "-F", "qcow2"]
    run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, target])
    return target


def _blank(target: Path, size: Size) -> Path:
    run(["qemu-img", "create", "-q", "-f", "qcow2", target, size])
    return target


def _forwarded_port(vm: VM) -> int:
    """The port that the kernel chose for the guest's ssh: asked of QEMU, so nobody can race us."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        vm.check()
        with suppress(OSError, QMPError, asyncio.TimeoutError):
            told = vm.qmp("human-monitor-command", {"command-line": "info usernet"})
            found = re.search(r"HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)", str(told))
            if found:
                return int(found.group(1))
        time.sleep(_POLL)
    raise BuildError("QEMU did not say which port leads to the guest's ssh", log=vm.qemu_log)


def ask(socket: Path, name: str, arguments: Mapping[str, object] | None = None) -> object:
    """One command of QEMU's machine protocol (qemu-qmp-ref(7)) and its answer.

    Raises OSError, QMPError or asyncio.TimeoutError.
    """
    return asyncio.run(_qmp(socket, name, arguments))


async def _qmp(path: Path, name: str, arguments: Mapping[str, object] | None) -> object:
    async with _connected(path) as client:
        return await asyncio.wait_for(client.execute(name, arguments), 30)


@asynccontextmanager
async def _connected(path: Path) -> AsyncIterator[QMPClient]:
    client = QMPClient("serai")
    try:
        await asyncio.wait_for(client.connect(str(path)), 10)
    except (AssertionError, EOFError):
        # The library asserts its own state where QEMU ends in the middle of the greeting.
        raise ConnectionResetError("QEMU ended while it was greeted") from None
    try:
        yield client
    except EOFError:
        raise ConnectionResetError("QEMU ended while it was asked") from None
    finally:
        with suppress(QMPError, OSError, EOFError):
            await client.disconnect()


def _text(path: Path) -> str:
    """What a log says, without the console's colours and cursor movements (ECMA-48)."""
    text = path.read_text(errors="replace") if path.exists() else ""
    return re.sub(r"\x1b\[[0-9;?=]*[A-Za-z]|[^\n\t -~]", "", text)
