"""A guest that does not reboot when it is asked to; the image layer verifies one that does."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from serai.image.definition import definition
from serai.image.errors import BuildError
from serai.image.run import run
from serai.image.settings import Settings
from serai.image.vm.vm import VM, booted
from tests.support.waiting import DEADLINE


class Asked:
    """In the place of ssh and of QMP: notes what they are asked for."""

    def __init__(self, deaf: bool = False) -> None:
        self.what: list[str] = []
        self._deaf = deaf

    def run(self, command: str, *, check: bool) -> None:
        assert not check, "the connection may break before the status comes back"
        self.what.append(command)

    def qmp(self, name: str, arguments: dict[str, str]) -> None:
        if self._deaf:
            raise ConnectionResetError("QEMU ended while it was greeted")
        self.what.append(f"{name} {arguments}")

    def disconnect(self) -> None:
        self.what.append("disconnect")


def a_vm(tmp_path: Path, asked: Asked, emulator: list[str], deadline: float = DEADLINE) -> VM:
    anything: Any = asked
    found = VM(
        ssh=anything,
        guest=anything,
        serial_log=tmp_path / "serial.log",
        qemu_log=tmp_path / "qemu.log",
        serial_socket=tmp_path / "serial",
        qmp_socket=tmp_path / "qmp",
        overlay=tmp_path / "overlay",
        sessions=None,
        deadline=deadline,
    )
    found.qmp = asked.qmp  # type: ignore[method-assign, assignment]
    found.process = subprocess.Popen(emulator)
    found.running.callback(found.process.wait)
    found.running.callback(found.process.kill)
    return found


def test_one_that_goes_on_is_one_clear_error(tmp_path: Path) -> None:
    asked = Asked()
    guest = a_vm(tmp_path, asked, ["sleep", "60"], 0.3)
    with guest.running, pytest.raises(BuildError, match=r"did not reboot within 0\.3 s") as error:
        guest.reboot()
    assert error.value.log == guest.serial_log
    assert asked.what == ["set-action {'reboot': 'shutdown'}", "systemctl reboot", "disconnect"]


def test_an_emulator_that_dies_is_no_reboot(tmp_path: Path) -> None:
    (tmp_path / "qemu.log").write_text("qemu-system: it broke\n")
    guest = a_vm(tmp_path, Asked(), ["false"])
    with guest.running, pytest.raises(BuildError, match="QEMU ended with 1: qemu-system: it broke"):
        guest.reboot()


@pytest.mark.parametrize(
    ("emulator", "said"), [("false", "QEMU ended with 1"), ("sleep", "QEMU does not answer: ")]
)
def test_one_that_cannot_be_asked(tmp_path: Path, emulator: str, said: str) -> None:
    guest = a_vm(tmp_path, Asked(deaf=True), [emulator, "60"])
    with guest.running, pytest.raises(BuildError, match=said):
        if emulator == "false":
            guest.process.wait()
        guest.reboot()


def a_disk(folder: Path, name: str, *options: str) -> Path:
    run(["qemu-img", "create", "-q", "-f", "qcow2", *options, folder / name, "8M"])
    return folder / name


def refused(disk: Path, work: Path, sessions: Path) -> str:
    """Why a VM is not started on these disks."""
    image = definition.load(Settings.of({}), "debian-12-amd64")
    started = booted(image, disk, settings=Settings.of({}), work=work, sessions=sessions)
    with pytest.raises(BuildError) as caught, started:
        pytest.fail("it was started")
    return str(caught.value)


def test_a_raw_sessions_disk_that_a_guest_made_a_qcow2_opens_nothing(tmp_path: Path) -> None:
    """The guest's root writes a header with a backing file to its raw disk, and waits."""
    root = a_disk(tmp_path, "root.qcow2")
    (tmp_path / "secret").write_bytes(b"the host's" * 1000)
    backing = ("-b", str(tmp_path / "secret"), "-F", "raw")
    forged = a_disk(tmp_path, "sessions.img", *backing)
    assert "has a backing file" in refused(root, tmp_path, forged)
    data = f"data_file={tmp_path / 'data'}"
    outside = a_disk(tmp_path, "outside.img", "-o", data)
    assert "keeps its data in another file" in refused(root, tmp_path, outside)


def test_a_raw_disk_that_is_not_declared_is_one_clear_line(tmp_path: Path) -> None:
    root, raw = a_disk(tmp_path, "root.qcow2"), tmp_path / "s.raw"
    raw.write_bytes(bytes(1 << 20))
    said = refused(root, tmp_path, raw)
    assert said == f"{raw} is not a qcow2; a raw disk is '--sessions {raw}:raw'"


def test_an_image_that_names_another_file_is_not_booted(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"the host's" * 1000)
    image = a_disk(tmp_path, "image.qcow2", "-b", str(secret), "-F", "raw")
    assert "has a backing file" in refused(image, tmp_path, image)
