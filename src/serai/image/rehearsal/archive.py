"""The stand-in's own archive: small packages with the names that only Ubuntu has.

Those that do something are directories in data/packages, as dpkg-deb(1) takes them. The
others are in releases.py: of a kernel that does not boot, the roles see files and dependencies.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from serai.image.rehearsal.releases import Small, Ubuntu
from serai.image.run import run

COMPONENTS = ("main", "restricted", "universe", "multiverse")

_PACKAGES = Path(__file__).with_name("data") / "packages"


def make(folder: Path, release: Ubuntu) -> None:
    """Make its archive in ``folder``, in which each package is in the component main."""
    pool = folder / "pool"
    pool.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="serai-") as work:
        for source in sorted(_PACKAGES.iterdir()):
            _build(source, pool)
        for package in release.small:
            _build(_unpacked(package, Path(work)), pool)
    index = "\n".join(_entry(path, folder) for path in sorted(pool.iterdir()))
    for suite in release.suites:
        _suite(folder / "dists" / suite, release, index if suite == release.codename else "")


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


def _suite(folder: Path, release: Ubuntu, index: str) -> None:
    """Packages in main, nothing in the other components, and the Release file over both."""
    lines = [
        *("Origin: Ubuntu", "Label: Ubuntu", f"Suite: {folder.name}"),
        *(f"Codename: {release.codename}", f"Version: {release.version}"),
        *("Architectures: amd64 arm64", f"Components: {' '.join(COMPONENTS)}"),
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
