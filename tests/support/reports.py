"""Inputs of reports, for the tests of their text and those in a browser."""

from __future__ import annotations

from dataclasses import replace

from serai.image.release import diff
from serai.image.release.diff import Changes, CheckChange, File, Side
from serai.image.release.report.report import Component, Inputs, Package

HOSTILE = (
    "</script></style><img src=x onerror='window.hacked=1'>\"'>&amp;{{7*7}}]]>"
    "<svg onload=hacked()>\u202e\x00"
)

BOOT = """<?xml version="1.0" standalone="no"?>
<svg width="1017px" height="200px" version="1.1" xmlns="http://www.w3.org/2000/svg">
<text x="20" y="50">Startup finished in 4.735s (userspace) 
multi-user reached after 4.6s.</text><text x="20" y="30">Debian</text>
<g transform="translate(20.000,100)">
<rect class="box" x="0" y="0" width="500.000" height="60.000" />
  <rect class="activating" x="100.000" y="0.000" width="20.000" height="19.000" />
  <rect class="active" x="120.000" y="0.000" width="380.000" height="19.000" />
  <rect class="deactivating" x="500.000" y="0.000" width="0.000" height="19.000" />
  <text class="left" x="105.000" y="14.000">a&amp;b.service (200ms)</text>
  <rect class="activating" x="55.000" y="20.000" width="400.000" height="19.000" />
  <rect class="active" x="455.000" y="20.000" width="45.000" height="19.000" />
  <text class="right" x="50.000" y="34.000">dev-vda.device (4.000s)</text>
  <rect class="activating" x="58.000" y="40.000" width="0.000" height="19.000" />
  <text class="left" x="60.000" y="54.000">tmp.mount</text>
</g>
<g transform="translate(20,100)">
  <rect class="activating" x="0.000" y="100.000" width="30.000" height="19.000" />
  <text class="left" x="45.000" y="114.000">Activating</text>
</g>
</svg>
"""  # noqa: W291 - as systemd 252 writes it


def an_inputs() -> Inputs:
    """A small image of which all is known."""
    stages = [
        {"stage": "base", "key": "a" * 64, "seconds": 25.0, "tasks": []},
        {
            "stage": "system",
            "key": "b" * 64,
            "seconds": 100.0,
            "tasks": [
                {"role": "", "name": "Gathering Facts", "status": "ok", "seconds": 20.0},
                {
                    "role": "base",
                    "name": "Install the packages",
                    "status": "changed",
                    "seconds": 60.0,
                },
            ],
        },
    ]
    manifest = {
        "image": "debian-12-arm64",
        "version": "0.1.0-abc",
        "definition": {
            "summary": "Debian 12 for aarch64",
            "distribution": "debian",
            "release": "12",
            "arch": "arm64",
            "base": {"kind": "bootstrap", "suite": "bookworm", "mirror": "", "packages": ["bash"]},
            "disk": {"size": "10G", "sessions": "10G", "bus": "nvme"},
            "machine": {"cpus": 2, "memory": "2G"},
        },
        "base": {"key": "a" * 64, "sha256": "c" * 64},
        "tools": {"packer": "1.6.6"},
        "roles": "d" * 64,
        "revision": "e" * 40,
        "packages": 3,
        "stages": stages,
    }
    checks = [
        {"name": "swap is off", "ok": True, "detail": "none", "seconds": 2.0},
        {"name": "it boots", "ok": True, "detail": "ssh after 193 s", "seconds": 192.8},
    ]
    facts = {"packages": 3, "root_bytes": 10 << 30, "root_used": 774524928, "kernel": "6.1"}
    packages = [
        Package("linux-image", "6.1", "arm64", 300 << 20),
        Package("libc6", "2.36", "arm64", 20 << 20),
        Package("bash", "5.2", "arm64", 7 << 20),
    ]
    return Inputs(
        manifest=manifest,
        verify={"boot_seconds": 192.8, "facts": facts, "checks": checks, "passed": 2, "failed": 0},
        packages=packages,
        folders={".": 1000, "usr": 900, "usr/lib": 700, "usr/share": 200, "boot": 100},
        boot_chart=BOOT,
        changes=some_changes(),
        components=[
            Component(
                package.name,
                package.version,
                "deb",
                "GPL-3.0-or-later",
                f"pkg:deb/debian/{package.name}@{package.version}?arch=arm64",
            )
            for package in packages
        ],
        download=255 << 20,
    )


def some_changes(text: str = "") -> Changes:
    """A comparison that found something of each kind, with ``text`` for every name if given."""

    def side(version: str, number: int) -> Side:
        return Side(
            image=text or "debian-12-arm64",
            version=text or version,
            revision=text or "e" * 40,
            image_bytes=number << 20,
            files_bytes=number << 21,
            files=number,
            packages=3,
            boot_seconds=float(number),
            passed=2,
            checks=2,
        )

    folder = text.replace("/", "|") or "usr/lib/python3/dist-packages/x"
    package = diff.Package(text or "bash", text or "5.1", text or "5.2")
    return Changes(
        old=side("0.0.9", 190),
        new=side("0.1.0", 193),
        privileged=(text or "/usr/bin/su",),
        sockets=(text or "ssh.socket",),
        units=(),
        added=(replace(package, old=""),),
        removed=(),
        upgraded=(package,),
        downgraded=(),
        files=(
            File(f"{folder}/y", "added", ""),
            File("usr/lib/python3/dist-packages/z", "changed", "content"),
            File("initrd", "removed", ""),
        ),
        checks=(CheckChange(text or "swap is off", None, True),),
    )


def hostile(text: str) -> Inputs:
    """``text`` in every place that something of an image or its build gets to."""
    task = {"role": text, "name": text, "status": text, "seconds": 1.0}
    keys = ("distribution", "release", "arch", "summary")
    manifest = {
        "image": text,
        "version": text,
        "definition": {
            **dict.fromkeys(keys, text),
            "base": {"kind": text},
            "disk": {"size": text, "sessions": text, "bus": text},
            "machine": {"cpus": text, "memory": text},
        },
        "base": {"sha256": text},
        "tools": {text: text},
        "roles": text,
        "revision": text,
        "packages": 1,
        "stages": [{"stage": text, "key": text, "seconds": 2.0, "tasks": [task]}],
    }
    verify = {
        "boot_seconds": 1.0,
        "facts": {"kernel": text, "root_used": 5},
        "checks": [
            {"name": text, "ok": True, "detail": text, "seconds": 1.0},
            {"name": text, "ok": False, "detail": text, "seconds": 1.0},
        ],
    }
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("\x00", "")
    return Inputs(
        manifest=manifest,
        verify=verify,
        packages=[Package(text, text, text, 1000), Package("b", "1", "all", 500)],
        folders={".": 100, text.replace("/", "|"): 90},
        boot_chart=BOOT.replace("a&amp;b.service", f"{escaped}.service"),
        changes=some_changes(text),
        components=[Component(text, text, text, text, text)],
        download=1,
    )
