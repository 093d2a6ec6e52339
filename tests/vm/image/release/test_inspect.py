"""The built image may be released, and its manifest tells what its package database does."""

from __future__ import annotations

from pathlib import Path

from serai.image.definition.definition import Image
from serai.image.release import inspect


def test_the_built_image_may_be_released(image: Image, built: Path, tmp_path: Path) -> None:
    disk = inspect.read(built / f"{image.name}.qcow2", tmp_path)
    assert inspect.inspect(disk, image.budget) == []
    paths = {entry.path for entry in disk.entries}
    packages = [line.split() for line in (built / "packages.txt").read_text().splitlines()]
    lists = {path.removesuffix(".list") for path in paths if path.startswith("var/lib/dpkg/info/")}
    for name, _, arch in packages:
        at = "var/lib/dpkg/info"
        assert {f"{at}/{name}", f"{at}/{name}:{arch}"} & lists, name
    assert {"usr/bin/serai", "boot/efi/EFI/debian/grub.cfg"} <= paths
