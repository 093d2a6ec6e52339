"""What `invoke boot` does: a throwaway VM to look into, or to run one command in."""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from serai.image import console
from serai.image.definition.definition import Image, Size
from serai.image.errors import BuildError
from serai.image.guest.probe import WHOLE_BOOT
from serai.image.settings import Settings
from serai.image.vm.qemu import Bus, Format, Share
from serai.image.vm.vm import VM, booted

_ANSWER = 60.0  # seconds that ssh itself may take


def boot(
    settings: Settings,
    image: Image,
    disk: Path,
    *,
    sessions: Path | None = None,
    sessions_format: Format = "qcow2",
    run: str | None = None,
    copy: Sequence[Path] = (),
    ssh_port: int = 0,
    cpus: int | None = None,
    memory: Size | None = None,
    bus: Bus | None = None,
    shares: Sequence[Share] = (),
    as_json: bool = False,
) -> int:
    """Boot ``disk``, copy ``copy`` to /root, and run ``run`` there or wait until it switches off.

    ``run`` starts when the boot has finished, as services (sessiond's too) come up beside ssh.
    Returns the command's exit status, or 0. Nothing that the guest writes is kept but what is on
    ``sessions``, a second disk of somebody's own, for which the VM is switched off in order
    in the end. Raises BuildError when the guest does not come up or a file cannot be copied.
    """
    for path in copy:
        if not path.exists():
            raise BuildError(f"there is no {path} to copy into the guest")
    if sessions is not None and not sessions.is_file():
        hint = f"make one with 'qemu-img create -f qcow2 {sessions} 20G'"
        raise BuildError(f"there is no disk {sessions}", hint=hint)
    with (
        _work() as work,
        booted(
            image,
            disk,
            settings=settings,
            work=work,
            sessions=sessions,
            sessions_format=sessions_format,
            ssh_port=ssh_port,
            cpus=cpus,
            memory=memory,
            bus=bus,
            shares=shares,
        ) as vm,
    ):
        if copy:
            vm.ssh.copy(copy, "/root")
        status = _look(vm, as_json=as_json) if run is None else _run(vm, run)
        if sessions is not None:
            vm.shutdown()
        return status


def parse_sessions(text: str) -> tuple[Path | None, Format]:
    """The second disk of 'FILE' or 'FILE:raw', and its format; none of ''."""
    name, colon, kind = text.rpartition(":")
    if colon and kind in ("raw", "qcow2"):
        return Path(name), "raw" if kind == "raw" else "qcow2"
    return (Path(text) if text else None), "qcow2"


def _run(vm: VM, command: str) -> int:
    """Run ``command`` once the boot has finished; returns its exit status."""
    if (state := finish_boot(vm)) != "running":
        console.warn(f"{vm.guest.name} is {state}")
    return vm.ssh.stream(command)


def _look(vm: VM, *, as_json: bool) -> int:
    """Tell how to get in, and wait until it switches off or somebody has seen enough."""
    _tell(vm)
    if as_json:
        console.tell_program(told(vm))
        sys.stdout.flush()  # who reads it has something to do while we wait
    try:
        vm.wait()
    except KeyboardInterrupt:
        console.say("switching it off")
    return 0


def finish_boot(vm: VM) -> str:
    """Wait until systemd has no job left; returns how the boot went, as systemctl(1) says it."""
    # timeout(1), because a command that ssh leaves behind goes on in the guest.
    wait = f"timeout {WHOLE_BOOT:g} systemctl is-system-running --wait"
    said = vm.ssh.run(wait, check=False, timeout=WHOLE_BOOT + _ANSWER).stdout
    return said.strip() or "still starting"


def told(vm: VM) -> dict[str, object]:
    """How to get in, for a program."""
    return {
        "image": vm.guest.name,
        "boot_seconds": round(vm.boot_seconds, 1),
        "ssh": replace(vm.ssh, control="").argv(),
        "port": vm.ssh.port,
        "user": vm.ssh.user,
        "key": str(vm.ssh.key),
        "console": str(vm.serial_socket),
        "log": str(vm.serial_log),
    }


def _tell(vm: VM) -> None:
    console.say(f"{vm.guest.name} is up after {console.seconds(vm.boot_seconds)}")
    # A shared connection would end with ours, and the person's shell with it.
    login = replace(vm.ssh, control="")
    console.say(f"  ssh:     {shlex.join(login.argv())}")
    console.say(f"  console: socat -,rawer,escape=0x1d UNIX-CONNECT:{vm.serial_socket}")
    console.say(f"  log:     {vm.serial_log}")
    console.say("it is thrown away when it switches off, or at Ctrl-C")


@contextmanager
def _work() -> Iterator[Path]:
    """A folder for the guest's files that stays only if the guest does not come up."""
    work = Path(tempfile.mkdtemp(prefix="serai-boot-"))
    try:
        yield work
    except BuildError:
        raise  # its message names the log in there
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(work, ignore_errors=True)
