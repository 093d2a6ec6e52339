"""File manifests: of a folder, of a disk that is not booted, and as a file."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from serai.image import ext4
from serai.image.errors import BuildError
from serai.image.release import tree
from serai.image.release.tree import Entry
from serai.image.run import run
from tests.support.disks import packed

# VFS_CAP_REVISION_2 with cap_net_raw, permitted and effective (linux/capability.h).
CAPABILITY = "0100000200200000000000000000000000000000"
STRANGE = os.fsdecode(b'\xff line\nand\ttab\\x0a "quoted" \xc3\xa9')
ROOT_FIRST, ESP_FIRST = 8192, 2048  # sectors


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with one of each kind."""
    made = tmp_path / "root"
    for folder in ("etc", "usr/bin", "tmp", "empty", STRANGE):
        (made / folder).mkdir(parents=True)
    (made / "tmp").chmod(0o1777)
    (made / "etc/hosts").write_text("127.0.0.1 localhost\n")
    (made / "etc/none").touch(mode=0o600)
    (made / "usr/bin/su").write_bytes(b"\x7fELF")
    (made / "usr/bin/su").chmod(0o4755)
    (made / "usr/bin/second").hardlink_to(made / "usr/bin/su")
    (made / STRANGE / STRANGE).write_text("debugfs: cat <12>\n")
    (made / "etc/link").symlink_to(STRANGE)
    (made / "etc/long").symlink_to("a/" * 100)
    (made / "etc/gone").symlink_to('/etc/nothing\nFast link dest: "hosts"\n')
    os.mkfifo(made / "etc/fifo", 0o644)
    with (made / "usr/sparse").open("wb") as stream:
        stream.write(b"begin")
        stream.truncate(3 << 20)
    (made / "usr/large").write_bytes(os.urandom(2_500_000))
    return made


def a_disk(folder: Path, root: Path) -> Path:
    """A disk with ``root`` on partition 1 and an EFI system partition with one file."""
    disk, loader = folder / "disk.raw", folder / "LOADER.EFI"
    with disk.open("wb") as stream:
        stream.truncate(64 << 20)
    loader.write_text("MZ")
    run(["sgdisk", f"-n15:{ESP_FIRST}:{ROOT_FIRST - 1}", f"-n1:{ROOT_FIRST}:0", disk])
    run(["mformat", "-i", f"{disk}@@{ESP_FIRST * 512}", "-T", str(ROOT_FIRST - ESP_FIRST), "::"])
    run(["mmd", "-i", f"{disk}@@{ESP_FIRST * 512}", "::/EFI"])
    run(["mcopy", "-i", f"{disk}@@{ESP_FIRST * 512}", loader, "::/EFI/LOADER.EFI"])
    where = f"offset={ROOT_FIRST * 512}"
    run(["mke2fs", "-q", "-t", "ext4", "-d", root, "-E", where, disk, "50M"])
    value = folder / "value"
    value.write_bytes(bytes.fromhex(CAPABILITY))
    command = f"ea_set -f {value} /usr/bin/su {tree.CAPABILITY}"
    run(["debugfs", "-w", "-R", command, f"{disk}?{where}"])
    return packed(disk)


def test_a_folder_is_told_path_by_path(root: Path) -> None:
    entries = {entry.path: entry for entry in tree.of_folder(root)}
    me = os.getuid(), os.getgid()
    assert entries["tmp"] == Entry("tmp", "d", 0o1777, *me)
    assert entries["usr/bin/su"] == Entry(
        "usr/bin/su", "f", 0o4755, *me, 4, hashlib.sha256(b"\x7fELF").hexdigest()
    )
    assert entries["etc/link"].digest == STRANGE
    assert entries["etc/fifo"].type == "p"
    assert entries[f"{STRANGE}/{STRANGE}"].size == 18
    assert list(entries)[:2] == [".", "empty"], "sorted by path"
    assert len(entries) == 18


def test_a_folder_in_which_files_come_and_go_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: [*listed(path), b"vanished"])
    assert len(tree.of_folder(root)) == 18
    with pytest.raises(BuildError, match="cannot be read: No such file"):
        tree.of_folder(root / "none")


def test_a_disk_is_told_as_the_folder_it_was_made_of(root: Path, tmp_path: Path) -> None:
    entries = tree.of_disk(a_disk(tmp_path, root), tmp_path)
    expected = [
        replace(entry, capabilities=CAPABILITY if entry.path.startswith("usr/bin/s") else "")
        for entry in tree.of_folder(root)
    ]
    esp = [entry for entry in entries if "boot/efi" in entry.path]
    found = [entry for entry in entries if entry not in esp and entry.path != "lost+found"]
    assert [found[0].path, *found[1:]] == [".", *expected[1:]]
    digest = hashlib.sha256(b"MZ").hexdigest()
    assert esp == [
        Entry("boot/efi/EFI", "d", 0o700, 0, 0),
        Entry("boot/efi/EFI/LOADER.EFI", "f", 0o700, 0, 0, 2, digest),
    ]
    assert not list(tmp_path.glob("tmp*")), "nothing is left"


def test_a_large_disk_is_read_in_batches(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = a_disk(tmp_path, root)
    whole = tree.of_disk(disk, tmp_path)
    monkeypatch.setattr(ext4, "_BATCH", 100_000)
    assert tree.of_disk(disk, tmp_path) == whole


def test_a_disk_without_a_root_is_one_clear_error(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as stream:
        stream.truncate(8 << 20)
    with pytest.raises(BuildError, match=r"disk\.qcow2 has no partition 1"):
        tree.of_disk(packed(disk), tmp_path)
    run(["sgdisk", "-n1:2048:0", disk])
    with pytest.raises(BuildError, match=r"disk\.qcow2's root cannot be read: .*Bad magic"):
        tree.of_disk(packed(disk), tmp_path)


@pytest.mark.parametrize("name", ["files.tsv", "files.tsv.zst"])
def test_what_is_written_is_what_is_loaded(root: Path, tmp_path: Path, name: str) -> None:
    entries = tree.of_folder(root)
    first, second = tmp_path / name, tmp_path / f"again-{name}"
    tree.write(first, entries)
    tree.write(second, reversed(entries))
    assert tree.load(first) == entries
    assert first.read_bytes() == second.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"root", name, f"again-{name}"}
    assert first.stat().st_mode & 0o777 == 0o644


def test_a_manifest_can_be_read_by_people_and_by_anything_that_splits_lines(
    tmp_path: Path,
) -> None:
    tree.write(tmp_path / "files.tsv", [Entry(STRANGE, "l", 0o777, 1, 2, 0, "\n", "")])
    assert (tmp_path / "files.tsv").read_bytes() == (
        b"path\ttype\tmode\towner\tgroup\tsize\tdigest\tcapabilities\n"
        b'\\xff line\\x0aand\\x09tab\\x5cx0a "quoted" \xc3\xa9\tl\t0777\t1\t2\t0\t\\x0a\t\n'
    )


@pytest.mark.parametrize(
    "content",
    ["", "path\n", "path\ttype\tmode\towner\tgroup\tsize\tdigest\tcapabilities\nx\tf\t0644\n"],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "files.tsv").write_text(content)
    with pytest.raises(BuildError, match=r"files\.tsv is no file manifest"):
        tree.load(tmp_path / "files.tsv")
