"""A verified build in miniature, with a real disk, to make releases of."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from serai.image import digest, sign
from serai.image.run import run
from serai.image.settings import Settings

IMAGE = "debian-12-amd64"
VERSION = "0.1.0-0123abcd"
REVISION = "a" * 40
KEY = "b" * 64
# What a release has, signed.
NAMES = (
    "CHANGES.md",
    "SHA256SUMS",
    "SHA256SUMS.sig",
    f"{IMAGE}.cmdline",
    f"{IMAGE}.initrd",
    f"{IMAGE}.oci.tar",
    f"{IMAGE}.qcow2",
    f"{IMAGE}.raw.zst",
    f"{IMAGE}.vhdx",
    f"{IMAGE}.vmlinuz",
    "files.tsv.zst",
    "manifest.json",
    "packages.txt",
    "provenance.json",
    "report.html",
    "sbom.cdx.json",
    "verify.json",
)
NODE = "usr/local/lib/nodejs/22.23.3-official/node-v22.23.3-linux-x64"

STATUS = """\
Package: bash
Status: install ok installed
Architecture: amd64
Version: 5.2.15-2+b13

Package: libnode
Status: install ok installed
Architecture: amd64
Version: 1:2.0~rc1-1

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""
COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
License: GPL-3+

Files: a
License: MIT
 The text.
"""
GRUB = """\
menuentry 'Debian' {
\tlinux\t/boot/vmlinuz-6.1 root=UUID=1 ro  console=ttyS0 $vt_handoff
\tinitrd\t/boot/initrd.img-6.1
}
menuentry 'recovery' {
\tlinux /boot/vmlinuz-6.0 single
\tinitrd /boot/initrd.img-6.0
}
"""
FILES = {
    "boot/grub/grub.cfg": GRUB,
    "boot/initrd.img-6.1": "the initrd",
    "boot/vmlinuz-6.1": "the kernel",
    "etc/machine-id": "uninitialized\n",
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\n",
    f"{NODE}/bin/node": "#!node\n",
    f"{NODE}/lib/node_modules/@a/b/package.json": '{"name": "@a/b", "version": "1.0.0"}',
    f"{NODE}/lib/node_modules/broken/package.json": "{",
    f"{NODE}/lib/node_modules/npm/package.json": json.dumps(
        {"name": "npm", "version": "10.9.9", "license": "Artistic-2.0"}
    ),
    "usr/lib/python3/dist-packages/h11-0.14.0.dist-info/METADATA": (
        "Metadata-Version: 2.1\nName: h11\nVersion: 0.14.0\nLicense: MIT\n\nName: not this\n"
    ),
    "usr/lib/python3/dist-packages/Some_Thing-2.egg-info": "Name: Some_Thing\nVersion: 2\n",
    "usr/share/doc/bash/copyright": COPYRIGHT,
    "var/lib/dpkg/status": STATUS,
}


def build(folder: Path, files: dict[str, str] | None = None) -> Settings:
    """Make dist/ with a verified build in ``folder``; ``files`` are on the disk beside FILES."""
    settings = Settings.of({"SERAI_DIST": str(folder / "dist"), "SERAI_CACHE": str(folder / "c")})
    built = settings.dist / IMAGE / VERSION
    built.mkdir(parents=True)
    (built.parent / "latest").symlink_to(VERSION)
    disk(built / f"{IMAGE}.qcow2", folder, {**FILES, **(files or {})})
    (built / "packages.txt").write_text("bash 5.2.15-2+b13 amd64\nlibnode 1:2.0~rc1-1 amd64\n")
    (built / "build.log").write_text("built\n")
    (built / "manifest.json").write_text(json.dumps(manifest(), indent=2))
    (built / "SHA256SUMS").write_text(sign.sums(sign.digests(built)))
    verdict(built)
    return settings


def manifest() -> dict[str, Any]:
    """What a build says of itself."""
    return {
        "image": IMAGE,
        "version": VERSION,
        "started": "2026-11-21T10:00:00Z",
        "finished": "2026-11-21T11:00:00Z",
        "definition": {
            "name": IMAGE,
            "summary": "a small one",
            "distribution": "debian",
            "release": "12",
            "arch": "amd64",
            "base": {"kind": "bootstrap", "suite": "bookworm", "mirror": "", "packages": ["bash"]},
            "variables": {"toolchain_profile": "standard"},
        },
        "base": {"key": KEY, "sha256": "c" * 64},
        "tools": {"packer": "1.6.6"},
        "revision": f"{REVISION}-dirty",
        "packages": 2,
        "stages": [
            {
                "stage": "base",
                "key": KEY,
                "inputs": {"sources": "d" * 64, "suite": "bookworm"},
                "seconds": 1.5,
                "tasks": [],
            }
        ],
    }


def verdict(built: Path, **changed: Any) -> None:
    """Write verify.json of the disk in ``built``, with some of it ``changed``."""
    content = {
        "image": IMAGE,
        "version": VERSION,
        "sha256": digest.of_file(built / f"{IMAGE}.qcow2"),
        "boot_seconds": 60.0,
        "facts": {},
        "checks": [{"name": "it boots", "ok": True, "detail": "", "seconds": 60.0}],
        "passed": 1,
        "failed": 0,
    }
    (built / "verify.json").write_text(json.dumps({**content, **changed}))


def disk(target: Path, scratch: Path, files: dict[str, str]) -> None:
    """A qcow2 whose partition 1 holds ``files``, all of them root's."""
    root, raw = scratch / "root", scratch / "disk.raw"
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    (root / "usr/lib/serai").mkdir(parents=True)
    (root / "usr/share/doc/libnode").symlink_to("bash")
    with zipfile.ZipFile(root / "usr/lib/serai/serai.whl", "w") as wheel:
        wheel.writestr("serai-0.1.0.dist-info/METADATA", "Name: serai\nVersion: 0.1.0\n")
    with raw.open("wb") as stream:
        stream.truncate(48 << 20)
    run(["sgdisk", "-n", "1:2048:0", raw])
    run(["mke2fs", "-q", "-t", "ext4", "-d", root, "-E", "offset=1048576", raw, "44M"])
    owners = [
        f'sif "/{path.relative_to(root)}" {field} 0\n'
        for path in root.rglob("*")
        for field in ("uid", "gid")
    ]
    modes = [
        f'sif "/{path.relative_to(root)}" mode 0{0o40755 if path.is_dir() else 0o100644:o}\n'
        for path in root.rglob("*")
        if not path.is_symlink()
    ]
    device = f"{raw}?offset=1048576"
    run(["debugfs", "-w", "-f", "-", device], stdin="".join([*owners, *modes]))
    run(["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", raw, target])
    raw.unlink()


def keys(folder: Path) -> tuple[Path, Path]:
    """A private key, and the file that allows it to sign releases."""
    key, allowed = folder / "key", folder / "allowed_signers"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key])
    public = (folder / "key.pub").read_text()
    allowed.write_text(f'release@example.org namespaces="{sign.NAMESPACE}" {public}')
    return key, allowed
