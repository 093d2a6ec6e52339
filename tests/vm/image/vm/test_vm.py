"""A VM's life: up, in, down; what is said when it does not come up; and nothing left over."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serai.image.definition import definition
from serai.image.definition.definition import Image
from serai.image.errors import BuildError
from serai.image.run import run
from serai.image.settings import Settings
from serai.image.vm.firmware import Firmware
from serai.image.vm.vm import booted
from tests.support.waiting import wait_for

DEADLINE = 60.0
# A person's command: it boots the disk argv[2] as the image argv[1] with its work in argv[3].
PARENT = """
import sys
from pathlib import Path
from serai.image.definition import definition
from serai.image.vm.vm import booted
from serai.image.settings import Settings
settings = Settings.of()
image = definition.load(settings, sys.argv[1])
with booted(image, Path(sys.argv[2]), settings=settings, work=Path(sys.argv[3])):
    pass
"""

# movz w0,#0x0008; movk w0,#0x8400,lsl #16; hvc #0; b .  - PSCI's SYSTEM_OFF (Arm DEN 0022).
SWITCHES_OFF = b"".join(
    word.to_bytes(4, "little") for word in (0x52800100, 0x72B08000, 0xD4000002, 0x14000000)
)


@pytest.fixture
def blank(tmp_path: Path) -> Path:
    """A disk with nothing on it: its guest stays in the firmware's shell."""
    disk = tmp_path / "blank.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"])
    return disk


def _gone(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"  # only its parent's wait() is missing


def _emulators_of(parent: int) -> set[int]:
    """The process ids of all QEMUs that run below ``parent``."""
    found = set()
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        try:
            # A dead one may be an orphan that this process inherited from an earlier test.
            name = Path(f"/proc/{child}/comm").read_text()
            if name.startswith("qemu-system") and not _gone(int(child)):
                found.add(int(child))
        except OSError:
            continue
    return found


@contextmanager
def _parent(image: Image, disk: Path, work: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that waits for a guest to come up, and its QEMU's process id."""
    argv = [sys.executable, "-c", PARENT, image.name, str(disk), str(work)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as parent:
        try:
            # The firmware speaks: this QEMU is not the accelerator's probe, and past its start.
            log = work / "serial.log"
            wait_for(lambda: log.exists() and log.stat().st_size > 0, DEADLINE)
            (emulator,) = _emulators_of(parent.pid)
            yield parent, emulator
        finally:
            parent.kill()


def test_nothing_outlives_a_killed_parent(image: Image, blank: Path, tmp_path: Path) -> None:
    with _parent(image, blank, tmp_path / "work") as (parent, emulator):
        assert not _gone(emulator)
        parent.send_signal(signal.SIGKILL)
        wait_for(lambda: _gone(emulator), DEADLINE)


def test_ctrl_c_leaves_logs_only(image: Image, blank: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    with _parent(image, blank, work) as (parent, emulator):
        parent.send_signal(signal.SIGINT)
        parent.wait(60)
        assert _gone(emulator)
    assert sorted(path.name for path in work.iterdir()) == ["qemu.log", "serial.log"]


def test_a_guest_that_does_not_come_up(
    image: Image, settings: Settings, blank: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    others = _emulators_of(os.getpid())  # a VM that other tests share may be up
    said = rf"in time: no answer; the console's last lines: .+; details: {work / 'serial.log'}$"
    with (
        pytest.raises(BuildError, match=said) as caught,
        booted(image, blank, settings=settings, work=work, deadline=8),
    ):
        pass
    assert "\x1b" not in str(caught.value)
    assert sorted(path.name for path in work.iterdir()) == ["qemu.log", "serial.log"]
    assert _emulators_of(os.getpid()) == others


def test_a_guest_that_ends_is_not_waited_for(
    settings: Settings, blank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Firmware that switches the VM off at once; as flash it has to fill 64 MiB.
    flash = tmp_path / "flash"
    flash.write_bytes(SWITCHES_OFF)
    os.truncate(flash, 64 * 1024**2)
    monkeypatch.setattr("serai.image.vm.firmware.find", lambda _: Firmware(flash, flash))
    with (
        pytest.raises(BuildError, match="QEMU ended with 0"),
        booted(
            definition.load(settings, "debian-12-arm64"),
            blank,
            settings=settings,
            work=tmp_path / "work",
        ),
    ):
        pass


def test_a_port_in_use_is_told(
    image: Image, settings: Settings, blank: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(BuildError, match=f"QEMU ended with 1.*forwarding rule .*{port}"),
            booted(image, blank, settings=settings, work=tmp_path / "work", ssh_port=port),
        ):
            pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no disk .*; build the image first"),
        (b"QFI\xfb\0\0\0\x09", "is not a qcow2"),
    ],
)
def test_a_disk_that_is_none(
    content: bytes | None, message: str, image: Image, settings: Settings, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    if content is not None:
        disk.write_bytes(content)
    with (
        pytest.raises(BuildError, match=message),
        booted(image, disk, settings=settings, work=tmp_path / "work"),
    ):
        pass
