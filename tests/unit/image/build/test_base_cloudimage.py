"""A pinned cloud image becomes a base disk."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import pytest

from serai.image import qcow2
from serai.image.build import base_cloudimage
from serai.image.definition import definition
from tests.support.cloud_image_site import FILE, NAME, OLD, PATTERN, Site, qemu_img


def test_the_base_is_the_pinned_disk_grown(site: Site, disk: Path) -> None:
    site.pin(disk.read_bytes())
    made = site.make()
    info = json.loads(qemu_img("info", "--output=json", made))
    assert info["format"] == "qcow2"
    assert info["virtual-size"] == 8 << 20
    assert "backing-filename" not in info
    raw = site.folder / "raw"
    qemu_img("convert", "-O", "raw", made, raw)
    assert raw.read_bytes() == PATTERN + bytes((8 << 20) - len(PATTERN))
    assert site.files("stage") == ["disk.qcow2"]


def test_the_download_is_kept_by_digest(site: Site, disk: Path) -> None:
    site.pin(disk.read_bytes())
    site.make()
    site.make("disk.size=16M")
    assert len(site.origin.requests) == 1
    sha256 = hashlib.sha256(disk.read_bytes()).hexdigest()
    assert site.files("cache/downloads") == [f"{sha256}.img"]


def test_a_download_gone_bad_is_not_used(site: Site, disk: Path) -> None:
    site.pin(disk.read_bytes())
    first = site.make().read_bytes()
    [kept] = (site.folder / "cache/downloads").iterdir()
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    assert site.make().read_bytes() == first
    assert len(site.origin.requests) == 2


def test_a_flipped_byte_is_refused(site: Site, disk: Path) -> None:
    site.pin(disk.read_bytes())
    path = f"/jammy/{OLD}/{FILE}"
    site.origin.files[path] = site.origin.files[path][:-1] + b"x"
    assert "is not the file that was pinned" in site.failure()
    assert site.files("cache/downloads") == []


def test_a_release_that_vanished(site: Site, disk: Path) -> None:
    site.pin(disk.read_bytes())
    site.origin.files.clear()
    message = site.failure()
    assert "answered 404" in message
    assert f"invoke update-base --image {NAME}" in message
    assert "--set base.url=" in message


def test_a_network_that_fails_tells_of_copies(site: Site, disk: Path) -> None:
    site.pin(disk.read_bytes())
    message = site.failure(f"base.url=http://no-such-host.invalid/{FILE}")
    assert f"cannot get {FILE} from no-such-host.invalid" in message
    assert "use a copy: --set base.url=" in message


def test_a_local_copy_will_do(site: Site, disk: Path) -> None:
    site.pin(disk.read_bytes())
    site.make(f"base.url={disk.as_uri()}")
    assert site.origin.requests == []


def test_a_disk_larger_than_asked_for(site: Site, disk: Path) -> None:
    site.pin(disk.read_bytes(), size="1M")
    assert "is a disk of 2 MiB, larger than disk.size 1M" in site.failure()
    assert site.files("cache/downloads") == []


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"<html>" + bytes(1000)])
def test_what_is_no_qcow2(site: Site, content: bytes) -> None:
    site.pin(content)
    assert "is not a qcow2" in site.failure()


def test_a_backing_file_is_refused(site: Site, disk: Path) -> None:
    secret = site.folder / "secret"
    secret.write_bytes(b"of this machine" * 1000)
    hostile = site.folder / "hostile.img"
    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", secret, hostile)
    site.pin(hostile.read_bytes())
    assert "has a backing file" in site.failure()


def test_an_external_data_file_is_refused(site: Site) -> None:
    hostile = site.folder / "hostile.img"
    data = site.folder / "data"
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={data},data_file_raw=on", hostile, "1M")
    site.pin(hostile.read_bytes())
    assert "keeps its data in another file" in site.failure()
    # … and before qemu-img, which would open that file, sees it.
    assert "keeps its data in another file" in qcow2.fault(hostile.read_bytes())


def test_a_header_of_the_future_is_refused(site: Site, disk: Path) -> None:
    content = bytearray(disk.read_bytes())
    content[4:8] = struct.pack(">I", 4)
    site.pin(bytes(content))
    assert "unknown version 4" in site.failure()


def test_what_qemu_img_says_is_looked_at_too(site: Site, disk: Path) -> None:
    site.pin(disk.read_bytes())
    image = definition.load(site.settings, NAME)
    info = json.loads(qemu_img("info", "--output=json", disk))
    assert base_cloudimage.info_fault(info, image) == ""
    assert "raw" in base_cloudimage.info_fault({**info, "format": "raw"}, image)
    assert "/etc/shadow" in base_cloudimage.info_fault(
        {**info, "backing-filename": "/etc/shadow"}, image
    )
    hostile = {"data": {"data-file": "x"}}
    assert "another file" in base_cloudimage.info_fault({**info, "format-specific": hostile}, image)


def test_a_failing_conversion_leaves_nothing(site: Site, disk: Path) -> None:
    content = disk.read_bytes()
    tables = 5 * 65536  # header, refcounts, L1, L2; compressed data follow
    site.pin(content[:tables] + b"\xff" * (len(content) - tables))
    assert "qemu-img failed with status 1: " in site.failure()


def test_what_determines_the_base(site: Site, disk: Path) -> None:
    site.pin(disk.read_bytes())
    image = definition.load(site.settings, NAME)
    elsewhere = definition.load(site.settings, NAME, [f"base.url={disk.as_uri()}"])
    larger = definition.load(site.settings, NAME, ["disk.size=16M"])
    other = definition.load(site.settings, NAME, [f"base.sha256={'0' * 64}"])
    assert base_cloudimage.inputs(image) == base_cloudimage.inputs(elsewhere)
    assert base_cloudimage.inputs(image) != base_cloudimage.inputs(larger)
    assert base_cloudimage.inputs(image) != base_cloudimage.inputs(other)
