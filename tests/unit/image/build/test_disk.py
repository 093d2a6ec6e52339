"""Disks are assembled without root: a small folder stands in for a root file system."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from serai.image.build import disk
from serai.image.definition.arch import Arch
from serai.image.errors import BuildError

IDENTITY = disk.Identity.of("debian-12-amd64")


def _root(folder: Path, arch: Arch) -> Path:
    letters = {"amd64": "x64", "arm64": "aa64"}[arch]
    signed = {"amd64": "x86_64-efi-signed", "arm64": "arm64-efi-signed"}[arch]
    for name in (
        f"usr/lib/shim/shim{letters}.efi.signed",
        f"usr/lib/shim/mm{letters}.efi.signed",
        f"usr/lib/grub/{signed}/grub{letters}.efi.signed",
        "etc/fstab",
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"this is {path.name}\n", encoding="ascii")
    return folder


def _said(*argv: str | Path) -> str:
    return subprocess.run([str(a) for a in argv], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module", params=["amd64", "arm64"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk, and beside it the same as disk.raw."""
    folder = tmp_path_factory.mktemp("disk")
    root = _root(folder / "root", request.param)
    target = folder / f"{request.param}.qcow2"
    disk.assemble(
        root, target, arch=request.param, size="140M", identity=IDENTITY, log=folder / "log"
    )
    _said("qemu-img", "convert", "-O", "raw", target, folder / "disk.raw")
    return target


def test_the_layout_is_the_reference_s(made: Path) -> None:
    table = _said("sgdisk", "--print", made.parent / "disk.raw")
    rows = re.findall(r"^ +(\d+) +(\d+) +(\d+) .* ([0-9A-F]{4}) ", table, re.MULTILINE)
    assert rows == [("1", "206848", "284671", "8300"), ("15", "2048", "204799", "EF00")]
    assert "problem" not in _said("sgdisk", "--verify", made.parent / "disk.raw").replace(
        "No problems", ""
    )


def test_it_is_a_compressed_qcow2_of_the_size_asked_for(made: Path) -> None:
    info = json.loads(_said("qemu-img", "info", "--output=json", made))
    assert (info["format"], info["virtual-size"]) == ("qcow2", 140 << 20)
    assert info["format-specific"]["data"]["compression-type"] == "zstd"


def test_nothing_but_the_disk_is_left(made: Path) -> None:
    assert {path.name for path in made.parent.iterdir()} == {"root", "log", made.name, "disk.raw"}


def test_firmware_without_variables_finds_the_signed_loader(made: Path) -> None:
    letters, loader = {"amd64": ("x64", "BOOTX64.EFI"), "arm64": ("aa64", "BOOTAA64.EFI")}[
        made.stem
    ]
    drive = f"{made.parent}/disk.raw@@{2048 * 512}"
    for name, content in (
        (f"BOOT/{loader}", f"this is shim{letters}.efi.signed\n"),
        (f"BOOT/grub{letters}.efi", f"this is grub{letters}.efi.signed\n"),
        ("debian/grub.cfg", disk.esp_grub_cfg(IDENTITY)),
    ):
        assert _said("mtype", "-i", drive, f"::/EFI/{name}") == content


def test_the_loader_s_partition_holds_no_partition_table(made: Path) -> None:
    with (made.parent / "disk.raw").open("rb") as stream:
        stream.seek(2048 * 512)
        sector = stream.read(512)
    assert sector[510:] == b"\x55\xaa"
    assert not any(sector[0x1BE:510])


def test_the_root_file_system_is_whole_and_found_by_uuid(made: Path) -> None:
    root = f"{made.parent}/disk.raw?offset={206848 * 512}"
    _said("e2fsck", "-n", "-f", root)
    assert f"Filesystem UUID:          {IDENTITY.root}" in _said("debugfs", "-R", "stats -h", root)
    assert _said("debugfs", "-R", "cat /etc/fstab", root) == "this is fstab\n"


def test_grub_2_06_can_read_the_root(made: Path) -> None:
    """Neither metadata_csum_seed nor orphan_file, whatever the build host's mke2fs defaults are."""
    root = f"{made.parent}/disk.raw?offset={206848 * 512}"
    features = _said("debugfs", "-R", "stats -h", root)
    line = next(line for line in features.splitlines() if line.startswith("Filesystem features"))
    assert not {"metadata_csum_seed", "orphan_file"} & set(line.split())
    assert {"extent", "has_journal", "metadata_csum"} <= set(line.split())


def test_a_root_that_does_not_fit_is_one_clear_error(tmp_path: Path) -> None:
    root = _root(tmp_path / "root", "amd64")
    (root / "large").write_bytes(b"\xa5" * (50 << 20))
    with pytest.raises(BuildError, match="does not fit on a disk of 140M"):
        disk.assemble(
            root,
            tmp_path / "disk.qcow2",
            arch="amd64",
            size="140M",
            identity=IDENTITY,
            log=tmp_path / "log",
        )
    assert {path.name for path in tmp_path.iterdir()} == {"root", "log"}


def test_a_root_without_a_loader_is_one_clear_error(tmp_path: Path) -> None:
    root = _root(tmp_path / "root", "amd64")
    with pytest.raises(BuildError, match=r"no /usr/lib/shim/shimaa64\.efi\.signed"):
        disk.assemble(
            root,
            tmp_path / "disk.qcow2",
            arch="arm64",
            size="140M",
            identity=IDENTITY,
            log=tmp_path / "log",
        )


def test_identity_depends_on_the_name_alone() -> None:
    assert disk.Identity.of("a") == disk.Identity.of("a") != disk.Identity.of("b")
    assert re.fullmatch(r"[0-9A-F]{8}", disk.Identity.of("a").esp)
