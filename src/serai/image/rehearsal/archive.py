"""The stand-in's own archive: small packages with the names that only Ubuntu has.

Those that do something are directories in data/packages, as dpkg-deb(1) takes them. The kernel's
are made here: files and dependencies are all that the roles see of a kernel that does not boot.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from serai.image.run import run

SUITES = ("jammy", "jammy-updates", "jammy-security")
COMPONENTS = ("main", "restricted", "universe", "multiverse")

_PACKAGES = Path(__file__).with_name("data") / "packages"


@dataclass(frozen=True)
class Small:
    """A package: what it depends on, its files with their content, and its postinst."""

    name: str
    version: str
    depends: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    postinst: str = ""


def _kernel(release: str, version: str, suffix: str) -> list[Small]:
    """A kernel as Ubuntu splits it: linux-modules-extra alone has quota_v2."""
    fs = f"lib/modules/{release}/kernel/fs"
    image, modules = f"linux-image-{release}", f"linux-modules-{release}"
    extra = f"linux-modules-extra-{release}"
    return [
        Small(modules, version, files={f"{fs}/9p/9p.ko": ""}),
        Small(extra, version, [modules], {f"{fs}/quota/quota_v2.ko": ""}),
        Small(image, version, [modules], {f"boot/vmlinuz-{release}": ""}, "exec update-grub"),
        Small(f"linux-image-virtual{suffix}", version, [image]),
        Small(f"linux-virtual{suffix}", version, [f"linux-image-virtual{suffix}"]),
        Small(f"linux-image-extra-virtual{suffix}", version, [image, extra]),
    ]


# The kernel of the cloud image, and the one of hardware enablement.
KERNELS = (
    *_kernel("5.15.0-190-generic", "5.15.0.190.187", ""),
    *_kernel("6.8.0-138-generic", "6.8.0-138.138~22.04.1", "-hwe-22.04"),
)


def make(folder: Path) -> None:
    """Make an archive in ``folder`` in which each package is in the component main."""
    pool = folder / "pool"
    pool.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="serai-") as work:
        for source in sorted(_PACKAGES.iterdir()):
            _build(source, pool)
        for package in KERNELS:
            _build(_unpacked(package, Path(work)), pool)
    index = "\n".join(_entry(path, folder) for path in sorted(pool.iterdir()))
    for suite in SUITES:
        _suite(folder / "dists" / suite, suite, index if suite == "jammy" else "")


def _build(source: Path, pool: Path) -> None:
    """In a copy: the modes of a checkout are its owner's."""
    with tempfile.TemporaryDirectory(prefix="serai-") as work:
        copy = Path(work) / source.name
        shutil.copytree(source, copy)
        for path in [copy, *copy.rglob("*")]:
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", copy, pool])


def _unpacked(package: Small, work: Path) -> Path:
    source = work / package.name
    (source / "DEBIAN").mkdir(parents=True)
    depends = f"Depends: {', '.join(package.depends)}\n" if package.depends else ""
    (source / "DEBIAN/control").write_text(
        f"Package: {package.name}\nVersion: {package.version}\nArchitecture: all\n{depends}"
        "Maintainer: Serai\nDescription: stands in for Ubuntu's\n"
    )
    if package.postinst:
        (source / "DEBIAN/postinst").write_text(f"#!/bin/sh\n{package.postinst}\n")
        (source / "DEBIAN/postinst").chmod(0o755)
    for name, content in package.files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(content)
    return source


def _entry(path: Path, folder: Path) -> str:
    """Its paragraph in a Packages file."""
    control = run(["dpkg-deb", "--field", path]).stdout
    content = path.read_bytes()
    return (
        f"{control}Filename: {path.relative_to(folder)}\nSize: {len(content)}\n"
        f"SHA256: {hashlib.sha256(content).hexdigest()}\n"
    )


def _suite(folder: Path, suite: str, index: str) -> None:
    """Packages in main, nothing in the other components, and the Release file over both."""
    lines = [
        *("Origin: Ubuntu", "Label: Ubuntu", f"Suite: {suite}", "Codename: jammy"),
        *("Version: 22.04", "Architectures: amd64 arm64", f"Components: {' '.join(COMPONENTS)}"),
        "Date: Thu, 21 Apr 2022 17:16:08 UTC",
        "SHA256:",
    ]
    for component in COMPONENTS:
        for arch in ("amd64", "arm64"):
            path = folder / component / f"binary-{arch}" / "Packages"
            path.parent.mkdir(parents=True)
            path.write_text(index if component == "main" else "")
            content = path.read_bytes()
            told = f"{hashlib.sha256(content).hexdigest()} {len(content)}"
            lines.append(f" {told} {path.relative_to(folder)}")
    (folder / "Release").write_text("\n".join(lines) + "\n")
