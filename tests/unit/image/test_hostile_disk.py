"""Disks as a hostile guest leaves them: what reads them neither obeys them nor goes on for ever."""

from __future__ import annotations

import shutil
import stat
import struct
from pathlib import Path

import pytest

from serai.image import ext4, offline, run
from serai.image.errors import BuildError
from serai.image.release import inspect, tree
from serai.image.verify import shipped
from tests.support.disks import PASSWD, clean, packed, put

_ROOT_AT = 1 << 20
_DISK, _ROOT_BLOCKS = 16 << 20, "14M"
_PLACEHOLDER, _UP = "AAAAAAAAAAAAAAAAAAA", "../../../escaped_01"


def a_raw_disk(folder: Path, root: Path) -> Path:
    """A disk whose ext4 has nothing that would notice that it was changed."""
    disk = folder / "hostile.raw"
    with disk.open("wb") as stream:
        stream.truncate(_DISK)
    run.run(["sgdisk", "-n", "1:2048:0", disk])
    features = "^metadata_csum,^has_journal,^dir_index"
    where = f"offset={_ROOT_AT}"
    run.run(
        ["mke2fs", "-q", "-t", "ext4", "-O", features, "-d", root, "-E", where, disk, _ROOT_BLOCKS]
    )
    return disk


def changed(disk: Path, *commands: str) -> None:
    for command in commands:
        run.run(["debugfs", "-w", "-R", command, f"{disk}?offset={_ROOT_AT}"])


def everything_below(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return clean(tmp_path / "root")


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """Where copies may be made, three levels below ``tmp_path``, into which names lead."""
    made = tmp_path / "a/b/scratch"
    made.mkdir(parents=True)
    return made


def test_names_on_a_disk_are_no_paths_of_ours(root: Path, tmp_path: Path, scratch: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    put(root, f"etc/{_PLACEHOLDER}", "evil")
    (root / "root/linkname1").symlink_to(victim)
    put(root, "root/linkname2", "written by the guest")
    disk = a_raw_disk(tmp_path, root)
    content = disk.read_bytes().replace(b"linkname2", b"linkname1")
    disk.write_bytes(content.replace(_PLACEHOLDER.encode(), _UP.encode()))
    image = packed(disk)
    before = everything_below(tmp_path)
    for read in (shipped.gather, tree.of_disk, inspect.read):
        try:
            read(image, scratch)
        except BuildError as error:
            assert "\n" not in str(error)
    assert everything_below(tmp_path) == before
    assert victim.read_text() == "mine"


def test_a_name_that_is_told_twice_is_a_name_and_no_path(
    root: Path, tmp_path: Path, scratch: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (root / "root/linkname1").symlink_to(victim)
    put(root, "root/linkname2", "written by the guest")
    disk = a_raw_disk(tmp_path, root)
    disk.write_bytes(disk.read_bytes().replace(b"linkname2", b"linkname1"))
    assert shipped.gather(packed(disk), scratch).homes == ["/root/linkname1"]
    assert victim.read_text() == "mine"


def test_debugfs_itself_would_write_where_the_disk_says(root: Path, tmp_path: Path) -> None:
    """The counterpart: what a name of the disk does to who makes a path of it."""
    put(root, f"etc/{_PLACEHOLDER}", "evil")
    disk = a_raw_disk(tmp_path, root)
    disk.write_bytes(disk.read_bytes().replace(_PLACEHOLDER.encode(), _UP.encode()))
    target = tmp_path / "x/y/z"
    target.mkdir(parents=True)
    device = f"{disk}?offset={_ROOT_AT}"
    command = ["debugfs", "-R", f'rdump "/etc" "{target}"', device]
    run.run(command)
    escaped = [path for path in tmp_path.rglob("escaped_01") if target not in path.parents]
    assert escaped, "debugfs no longer does it"
    escaped[0].unlink()
    (tmp_path / "again").mkdir()
    confined = ["debugfs", "-R", f'rdump "/etc" "{tmp_path}/again"', device]
    run.run_confined(confined, read=[disk], write=[tmp_path / "again"])
    assert not [path for path in tmp_path.rglob("escaped_01") if target not in path.parents]


def test_files_are_copied_by_inode_and_no_path_is_a_command(
    root: Path, tmp_path: Path, scratch: Path
) -> None:
    odd = 'root/a" "b; dump <2>/x'
    put(root, odd, "content")
    put(root, "root/huge", "")
    (root / "root/link").symlink_to("/etc/passwd")
    disk = a_raw_disk(tmp_path, root)
    changed(disk, "set_inode_field /root/huge size 8796093022208")
    with offline.opened(packed(disk), scratch) as opened:
        reader = ext4.Reader(opened, scratch)
        for path in (odd, f"/{odd}"):
            reader.copy({path: scratch / "one", "/etc/passwd": scratch / "two"})
            assert (scratch / "one").read_text() == "content"
            assert (scratch / "two").read_text() == PASSWD
        for path in ("root/link", "root", "root/nothing", "../etc/passwd", "root/huge"):
            with pytest.raises(BuildError, match="cannot be read"):
                reader.copy({path: scratch / "three"})
    assert not (scratch / "three").exists()


def test_a_directory_that_is_in_itself_is_listed_once(
    root: Path, tmp_path: Path, scratch: Path
) -> None:
    (root / "root/a/b").mkdir(parents=True)
    disk = a_raw_disk(tmp_path, root)
    changed(disk, "link /root/a /root/a/b/loop")
    paths = [entry.path for entry in tree.of_disk(packed(disk), scratch)]
    assert "root/a/b/loop" in paths
    assert not [path for path in paths if path.startswith("root/a/b/loop/")]


@pytest.mark.parametrize("size", ["8796093022208", "100000000", "18446744073709551615"])
def test_files_that_cannot_be_on_the_disk_are_refused(
    root: Path, tmp_path: Path, scratch: Path, size: str
) -> None:
    disk = a_raw_disk(tmp_path, root)
    changed(disk, f"set_inode_field /var/log/dpkg.log size {size}")
    image = packed(disk)
    for read in (shipped.gather, tree.of_disk):
        with pytest.raises(BuildError, match=r"its files hold [0-9]+ MiB, on a disk of 16"):
            read(image, scratch)


def test_a_link_longer_than_any_path_is_refused(root: Path, tmp_path: Path, scratch: Path) -> None:
    disk = a_raw_disk(tmp_path, root)
    changed(disk, "set_inode_field /var/lib/dbus/machine-id size 1000000")
    with pytest.raises(BuildError, match="a link is longer than any path"):
        tree.of_disk(packed(disk), scratch)


def test_an_inode_of_no_type_is_one_clear_error(root: Path, tmp_path: Path, scratch: Path) -> None:
    disk = a_raw_disk(tmp_path, root)
    changed(disk, "set_inode_field /var/log/dpkg.log mode 0000644")
    with pytest.raises(BuildError, match="of no type that there is"):
        tree.of_disk(packed(disk), scratch)


# --- the programs that read it


def test_a_confined_program_sees_what_it_is_given_and_nothing_else(tmp_path: Path) -> None:
    mine, given, room = tmp_path / "mine", tmp_path / "given", tmp_path / "room"
    mine.write_text("secret")
    given.write_text("disk")
    room.mkdir()
    script = f"cat {given}; cat {mine} /etc/passwd; echo x >{room}/made; echo x >>{given}"
    done = run.run_confined(["sh", "-c", script], read=[given], write=[room], check=False)
    assert done.stdout == "disk"
    assert done.stderr.count("No such file") == 2
    assert (room / "made").read_text() == "x\n"
    assert given.read_text() == "disk"
    alone = ["sh", "-c", "ls /proc /sys /home /root 2>/dev/null; cat /proc/net/dev"]
    assert run.run_confined(alone, check=False).stdout == ""


def test_no_program_is_mounted_where_it_is_already(tmp_path: Path) -> None:
    """It may be a link there, and bubblewrap of Debian 13 mounts nothing over one."""
    for program, bound in ((Path("/usr/bin/mdu"), 0), (tmp_path / "mdu", 2)):
        assert run._confinement(program, [], []).count(str(program)) == bound


def test_without_confinement_a_program_sees_everything(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("secret")
    assert run.run(["sh", "-c", f"cat {tmp_path}/mine"]).stdout == "secret"


def test_a_confined_program_writes_no_more_than_it_may(tmp_path: Path) -> None:
    grow = ["sh", "-c", f"head -c 100000 /dev/zero >{tmp_path}/file"]
    with pytest.raises(BuildError, match="sh failed with status"):
        run.run_confined(grow, write=[tmp_path], largest=5000)
    assert (tmp_path / "file").stat().st_size == 5000
    with pytest.raises(BuildError, match="sh failed with status"):
        run.run_confined(["sh", "-c", "yes"], log=tmp_path / "log", largest=5000)
    assert (tmp_path / "log").stat().st_size == 5000


def test_nothing_is_read_where_bubblewrap_is_not_installed(
    root: Path, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = packed(a_raw_disk(tmp_path, root))
    found = shutil.which
    monkeypatch.setattr(
        shutil, "which", lambda name, **more: None if name == "bwrap" else found(name, **more)
    )
    with pytest.raises(BuildError, match=r"bwrap is not installed; .* the package bubblewrap"):
        tree.of_disk(image, scratch)


def test_nothing_is_read_where_bubblewrap_may_not_do_it(
    root: Path, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = packed(a_raw_disk(tmp_path, root))
    refusing = tmp_path / "bin/bwrap"
    put(tmp_path, "bin/bwrap", "#!/bin/sh\necho 'bwrap: setting up uid map: denied' >&2\nexit 1\n")
    refusing.chmod(0o755)
    before = run.search_path()
    monkeypatch.setattr(run, "search_path", lambda: f"{refusing.parent}:{before}")
    said = "bubblewrap cannot confine qemu-img: bwrap: setting up uid map: denied; nothing that"
    with pytest.raises(BuildError, match=said):
        tree.of_disk(image, scratch)


# --- headers


def a_header(**fields: int) -> bytes:
    """The first bytes of a qcow2 of version 3."""
    known = {"version": 3, "backing": 0, "size": 1 << 20, "encryption": 0, "features": 0} | fields
    first = struct.pack(
        ">4sIQIIQI",
        b"QFI\xfb",
        known["version"],
        known["backing"],
        10,
        16,
        known["size"],
        known["encryption"],
    )
    return first.ljust(72, b"\0") + struct.pack(">Q", known["features"]) + bytes(512)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (a_header(backing=600), "has a backing file"),
        (a_header(features=4), "keeps its data in another file"),
        (a_header(encryption=1), "is encrypted"),
        (a_header(version=9), "unknown version 9"),
        (a_header(size=1 << 50), "is a disk of 1048576 GiB"),
        (b"", "is not a qcow2"),
        (bytes(4096), "is not a qcow2"),
    ],
)
def test_a_disk_that_names_another_file_is_not_opened(
    tmp_path: Path, scratch: Path, content: bytes, said: str
) -> None:
    disk = tmp_path / "disk.qcow2"
    disk.write_bytes(content)
    with pytest.raises(BuildError, match=said), offline.opened(disk, scratch):
        pytest.fail("it was opened")


def test_a_raw_disk_with_a_header_of_qcow2_opens_no_file_of_the_host(
    tmp_path: Path, scratch: Path
) -> None:
    """What a guest's root does to its raw disk, to read the host's file at the next boot."""
    (tmp_path / "secret").write_text("the host's")
    disk = tmp_path / "sessions.raw"
    with disk.open("wb") as stream:
        stream.truncate(1 << 20)
    forged = tmp_path / "forged.qcow2"
    backing = ["-b", str(tmp_path / "secret"), "-F", "raw"]
    run.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, forged, "1M"])
    disk.write_bytes(forged.read_bytes())
    assert "backing file" in run.run(["qemu-img", "info", disk]).stdout, "what probing would do"
    with pytest.raises(BuildError, match="has a backing file"), offline.opened(disk, scratch):
        pytest.fail("it was opened")


# --- any bytes


@pytest.mark.parametrize(
    "told",
    [b"/2/040755/0/0/./-1/", b"/2/77777777777777777777777/0/0/./0/", b"/-2/040755/0/0/./0/"],
)
def test_a_listing_with_numbers_that_no_inode_has_is_refused(told: bytes) -> None:
    with pytest.raises(BuildError, match="the directories of the disk cannot be read"):
        list(ext4._listings(told, [2]))


def test_the_scratch_directory_is_nobodys_else(root: Path, tmp_path: Path, scratch: Path) -> None:
    with offline.opened(packed(a_raw_disk(tmp_path, root)), scratch) as found:
        assert stat.S_IMODE(found.raw.parent.stat().st_mode) == 0o700
    assert not list(scratch.iterdir())
