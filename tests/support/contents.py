"""Two builds of an image that differ in everything that a comparison tells."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from serai.image import layout
from serai.image.release import tree
from serai.image.release.diff import Contents
from serai.image.release.tree import Entry

WANTS = "etc/systemd/system/multi-user.target.wants"


def entry(path: str, **values: Any) -> Entry:
    return replace(Entry(path, "f", 0o644, 0, 0, 3, "aa"), **values)


OLD = Contents(
    image="debian-12-amd64",
    version="0.1.0-aaaaaaaa",
    revision="aaaa",
    packages={
        "bash": "5.2-1",
        "curl": "7.88-10+deb12u9",
        "git": "1:2.39",
        "old": "1",
        "tzdata": "5",
    },
    entries=(
        entry("etc/hosts"),
        entry("etc/gone"),
        entry("etc/kind"),
        entry("etc/link", type="l", mode=0o777, size=0, digest="a"),
        entry("usr/bin/su", mode=0o4755),
        entry("usr/bin/ping"),
        entry(f"{WANTS}/ssh.service", type="l"),
    ),
    image_bytes=100 << 20,
    boot_seconds=60.04,
    checks={"swap is off": True, "no logs are shipped": True, "it boots": True},
)
NEW = replace(
    OLD,
    version="0.2.0-bbbbbbbb",
    revision="bbbb",
    packages={
        "bash": "5.2-1",
        "curl": "7.88-10+deb12u12",
        "git": "2.40",
        "tzdata": "5~rc1",
        "zstd": "1.5",
    },
    entries=(
        entry("etc/hosts", mode=0o600, owner=1),
        entry("etc/kind", type="d", digest="", size=0),
        entry("etc/link", type="l", mode=0o777, size=0, digest="b"),
        entry("usr/bin/su", mode=0o4755, digest="bb"),
        entry("usr/bin/new`|\n", mode=0o2755, group=42),
        entry("usr/bin/ping", capabilities="0100"),
        *(entry(f"usr/share/doc/x/{number:02}") for number in range(25)),
        entry(f"{WANTS}/ssh.service", type="l"),
        entry(f"{WANTS}/gate.service", type="l"),
        entry("etc/systemd/system/sockets.target.wants/x.socket", type="l"),
    ),
    image_bytes=110 << 20,
    boot_seconds=57.0,
    checks={"swap is off": False, "no logs are shipped": True, "a new one": True},
)


def a_build(parent: Path) -> Path:
    """The directory of a build with the paths of ``OLD``, below ``parent``."""
    made = parent / "0.1.0-a"
    made.mkdir()
    manifest = {"image": "x", "version": "0.1.0-a", "revision": "r", "stages": []}
    (made / layout.MANIFEST).write_text(json.dumps(manifest))
    (made / layout.PACKAGES).write_text("bash 5 amd64\nlibc6 2 amd64\nlibc6 2 i386\n")
    (made / layout.disk("x")).write_bytes(b"12345")
    tree.write(made / layout.FILES, OLD.entries)
    return made
