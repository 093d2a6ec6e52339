"""The disk for /sessions: real e2fsprogs and util-linux on image files, no root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from serai.disk import prepare
from serai.disk.choice import RefusedError

MIB = 1 << 20
SIZE = 16 * MIB

os.environ["PATH"] += ":/usr/sbin:/sbin"


class Machine:
    """A machine's disks: image files, and the sysfs that would tell of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("sys/block", "dev", "run", "var"):
            (folder / name).mkdir(parents=True)
        (folder / "mountinfo").write_text("26 1 259:1 / / rw - ext4 /dev/nvme0n1p1 rw\n")
        self.places = prepare.Locations(
            sys=folder / "sys",
            dev=folder / "dev",
            mounts=folder / "mountinfo",
            quotas=folder / "no-quotas",
            link=folder / "run/serai/session-disk",
            note=folder / "var/serai/session-disk.formatting",
        )

    def attach(self, name: str, *, serial: str = "", number: str = "254:16") -> Path:
        """A blank disk, found under /sys/block as the kernel shows it."""
        block = self.folder / "sys/block" / name
        (block / "device").mkdir(parents=True)
        (block / "size").write_text(f"{SIZE // 512}\n")
        (block / "ro").write_text("0\n")
        (block / "dev").write_text(f"{number}\n")
        # virtio-blk has its serial on the disk, NVMe on the controller, padded with blanks
        place = block / "device" if name.startswith("nvme") else block
        (place / "serial").write_text(f"{serial:20}\n")
        image = self.folder / "dev" / name
        with image.open("wb") as disk:
            disk.truncate(SIZE)
        return image

    def prepare(self, *, quotas: bool = False) -> str:
        """The name of the disk that the link points at, '' for none."""
        disk = prepare.prepare(self.places, quotas=quotas, wait=0)
        if disk is None:
            assert not self.places.link.exists()
            return ""
        assert self.places.link.resolve() == disk.path
        assert not self.places.note.exists()
        return str(disk.path.name)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def _run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _header(disk: Path) -> dict[str, str]:
    lines = (line.partition(":") for line in _run("dumpe2fs", "-h", disk).splitlines())
    return {key: value.strip() for key, _, value in lines}


def _ext4(disk: Path, label: str) -> None:
    _run("mke2fs", "-q", "-F", "-t", "ext4", "-L", label, disk)


def _ext2(disk: Path) -> None:
    _run("mke2fs", "-q", "-F", "-t", "ext2", "-L", "sessions", disk)


def _gpt(disk: Path) -> None:
    _run("sgdisk", "--new=1:2048:0", disk)


def _write(offset: int, content: bytes) -> Callable[[Path], None]:
    def write(disk: Path) -> None:
        with disk.open("r+b") as stream:
            stream.seek(offset)
            stream.write(content)

    return write


def _vfat(label: str) -> Callable[[Path], None]:
    def write(disk: Path) -> None:
        _run("mkfs.vfat", "-n", label, disk)

    return write


LVM = b"LABELONE" + b"\1" + b"\0" * 7
MD_10 = 0xA92B4EFC.to_bytes(4, "little") + (1).to_bytes(4, "little")  # md(4), version 1.0


# --- what a disk holds


@pytest.mark.parametrize("serial", ["sessions", ""])
@pytest.mark.parametrize("name", ["nvme1n1", "vdb"])
def test_a_blank_disk_is_formatted(machine: Machine, name: str, serial: str) -> None:
    disk = machine.attach(name, serial=serial)
    assert machine.prepare() == name
    header = _header(disk)
    assert header["Filesystem volume name"] == "sessions"
    assert "Mode:  0711" in _run("debugfs", "-R", "stat /", disk)
    assert int(header["Block count"]) * int(header["Block size"]) == SIZE
    _run("e2fsck", "-fn", disk)


def test_a_formatted_disk_is_kept(machine: Machine, tmp_path: Path) -> None:
    disk = machine.attach("vdb", serial="sessions")
    machine.prepare()
    (tmp_path / "file").write_text("kept")
    _run("debugfs", "-w", "-R", f"write {tmp_path / 'file'} file", disk)
    uuid = _header(disk)["Filesystem UUID"]
    machine.prepare()
    assert _header(disk)["Filesystem UUID"] == uuid
    assert _run("debugfs", "-R", "cat file", disk) == "kept"


def test_room_is_kept_that_sessions_can_not_take(machine: Machine) -> None:
    disk = machine.attach("vdb")
    machine.prepare()
    header = _header(disk)
    assert int(header["Reserved block count"]) == int(header["Block count"]) * 2 // 100


HOLDINGS: dict[str, tuple[Callable[[Path], None], str]] = {
    "ext4 of another name": (lambda disk: _ext4(disk, "data"), "ext4 labelled 'data'"),
    "ext2 of our name": (_ext2, "ext2 labelled 'sessions'"),
    "the start of an xfs": (_write(0, b"XFSB" + (4096).to_bytes(4, "big")), "unknown kind"),
    "vfat": (_vfat("DATA"), "vfat labelled 'DATA'"),
    "GPT": (_gpt, "gpt"),
    "LUKS": (_write(0, b"LUKS\xba\xbe\x00\x01"), "crypto_LUKS"),
    "LVM": (_write(512, LVM), ""),
    "swap": (_write(4086, b"SWAPSPACE2"), ""),
    "random bytes": (_write(0, b"\x5a" * 4096), "unknown kind"),
    "one byte in the middle": (_write(SIZE // 2, b"\1"), "unknown kind"),
    "one byte at the end": (_write(SIZE - 1, b"\1"), "unknown kind"),
}


@pytest.mark.parametrize("serial", ["sessions", ""])
@pytest.mark.parametrize("holding", HOLDINGS)
def test_a_disk_with_something_else_is_refused(machine: Machine, holding: str, serial: str) -> None:
    write, told = HOLDINGS[holding]
    disk = machine.attach("vdb", serial=serial)
    write(disk)
    before = disk.read_bytes()
    with pytest.raises(RefusedError, match=r"^refused for /sessions") as refusal:
        machine.prepare()
    assert told in str(refusal.value)
    assert str(disk) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert disk.read_bytes() == before
    assert not machine.places.link.is_symlink()


def test_what_a_session_writes_at_the_disks_end_does_not_matter(machine: Machine) -> None:
    disk = machine.attach("vdb", serial="sessions")
    machine.prepare()
    _write(SIZE - 8192, MD_10)(disk)
    _write(SIZE - 512, b"EFI PART")(disk)
    assert machine.prepare() == "vdb"


def test_a_damaged_file_system_is_refused(machine: Machine) -> None:
    disk = machine.attach("vdb", serial="sessions")
    machine.prepare()
    _run("debugfs", "-w", "-R", "clri <2>", disk)
    _run("tune2fs", "-E", "force_fsck", disk)
    before = disk.read_bytes()
    with pytest.raises(RefusedError, match="damaged"):
        machine.prepare()
    assert len(disk.read_bytes()) == len(before)


# --- which disk


def test_no_second_disk_is_no_failure(machine: Machine) -> None:
    machine.attach("nvme0n1", number="259:1")  # the root disk: mounted
    assert machine.prepare() == ""


def test_a_seed_is_not_a_candidate(machine: Machine) -> None:
    _vfat("CIDATA")(machine.attach("vdb", serial="seed"))
    assert machine.prepare() == ""
    machine.attach("vdc")
    assert machine.prepare() == "vdc"


def test_the_serial_decides(machine: Machine) -> None:
    machine.attach("vdb")
    machine.attach("vdc", serial="sessions")
    assert machine.prepare() == "vdc"


def test_a_labelled_disk_goes_before_a_blank_one(machine: Machine) -> None:
    machine.attach("vdb")
    _ext4(machine.attach("vdc"), "sessions")
    assert machine.prepare() == "vdc"


@pytest.mark.parametrize("label", ["", "sessions"])
def test_two_candidates_are_refused(machine: Machine, label: str) -> None:
    for name in ("vdb", "vdc"):
        disk = machine.attach(name)
        if label:
            _ext4(disk, label)
    with pytest.raises(RefusedError, match="each be the disk for /sessions"):
        machine.prepare()


def test_another_disk_than_the_labelled_one_with_the_serial_is_refused(machine: Machine) -> None:
    machine.attach("vdb", serial="sessions")
    _ext4(machine.attach("vdc"), "sessions")
    with pytest.raises(RefusedError, match="each be the disk for /sessions"):
        machine.prepare()


# --- power cuts


@pytest.mark.parametrize("program", ["mke2fs", "debugfs", "e2label"])
@pytest.mark.parametrize("after", [False, True])
def test_a_power_cut_while_formatting_heals(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, program: str, after: bool
) -> None:
    disk = machine.attach("vdb", serial="sessions")
    run = prepare.run

    def cut(*command: str | Path) -> str:
        if command[0] == program:
            if after:
                run(*command)
            raise KeyboardInterrupt
        return str(run(*command))

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "run", cut)
        with pytest.raises(KeyboardInterrupt):
            machine.prepare()
    assert machine.prepare() == "vdb"
    assert _header(disk)["Filesystem volume name"] == "sessions"
    assert "Mode:  0711" in _run("debugfs", "-R", "stat /", disk)


def test_a_file_system_without_its_superblock_yet_heals(machine: Machine) -> None:
    disk = machine.attach("vdb", serial="sessions")
    machine.places.note.parent.mkdir(parents=True)
    machine.places.note.write_text(f"sessions {SIZE}\n")
    _ext4(disk, "sessions-new")
    _write(1024, b"\0" * 1024)(disk)
    assert machine.prepare() == "vdb"


def test_a_note_about_another_disk_is_no_leave_to_format(machine: Machine) -> None:
    machine.places.note.parent.mkdir(parents=True)
    machine.places.note.write_text(f"sessions {SIZE * 2}\n")
    _write(MIB, b"precious")(machine.attach("vdb", serial="sessions"))
    with pytest.raises(RefusedError):
        machine.prepare()


# --- looking before a machine is provisioned


def test_looking_tells_of_a_disk_and_changes_nothing(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    def look(*, container: bool = False) -> tuple[int, str]:
        status = prepare.look(machine.places, container=container, wait=0)
        said = capsys.readouterr()
        return status, (said.out + said.err).strip()

    assert look() == (0, "none")
    disk = machine.attach("vdb")
    before = disk.read_bytes()
    assert look() == (0, "disk")
    assert look(container=True) == (0, "none")
    assert disk.read_bytes() == before
    assert not machine.places.link.exists()
    _write(MIB, b"precious")(disk)
    status, said = look()
    assert status == 1
    assert "refused for /sessions, not touched" in said


# --- quotas


def test_quotas_are_there_from_the_start(machine: Machine) -> None:
    disk = machine.attach("vdb")
    machine.prepare(quotas=True)
    header = _header(disk)
    assert "quota" in header["Filesystem features"].split()
    assert "User quota inode" in header
    assert "Group quota inode" not in header


def test_quotas_are_turned_on_when_the_kernel_learns_them(machine: Machine) -> None:
    disk = machine.attach("vdb")
    machine.prepare(quotas=False)
    assert "quota" not in _header(disk)["Filesystem features"].split()
    machine.prepare(quotas=True)
    assert "User quota inode" in _header(disk)


def test_a_kernel_without_quotas_goes_on_without(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = machine.attach("vdb")
    machine.prepare(quotas=True)
    uuid = _header(disk)["Filesystem UUID"]
    capsys.readouterr()
    assert machine.prepare(quotas=False) == "vdb"
    assert "no session's use is limited" in capsys.readouterr().err
    header = _header(disk)
    assert "quota" not in header["Filesystem features"].split()
    assert header["Filesystem UUID"] == uuid
    machine.prepare(quotas=True)
    assert "User quota inode" in _header(disk)
