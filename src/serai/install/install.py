"""Puts the VM half of Serai where the VM runs it from, out of its wheel, without pip.

Run as ``PYTHONPATH=WHEEL /usr/bin/python3 -m serai.install WHEEL``: Python reads modules
from a wheel as it is. Prints what it did, or nothing where this very wheel is installed already.
"""

from __future__ import annotations

import argparse
import compileall
import hashlib
import os
import py_compile
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from serai.common import files

HERE = "serai/install"
HOSTS = "serai/mcp/"
"""What only a host can use, as it takes a package that no VM has."""


@dataclass(frozen=True)
class File:
    """A file of the wheel's ``serai/install`` that belongs somewhere else, and is not a module."""

    source: str
    target: str
    mode: int


FILES = (
    File("programs/serai", "usr/bin/serai", 0o755),
    File("programs/session-start", "usr/lib/serai/session-start", 0o755),
    File("programs/bridge", "usr/lib/serai/bridge", 0o755),
    File("programs/sessiond", "usr/lib/serai/sessiond", 0o755),
    File("programs/gate", "usr/lib/serai/gate", 0o755),
    File("programs/gate-key", "usr/lib/serai/gate-key", 0o755),
    File("programs/share", "usr/lib/serai/share", 0o755),
    File("programs/audit-syslog", "usr/lib/serai/audit-syslog", 0o755),
    File("programs/session-disk", "usr/lib/serai/session-disk", 0o755),
    File("units/serai.slice", "etc/systemd/system/serai.slice", 0o644),
    File("units/serai-session@.service", "etc/systemd/system/serai-session@.service", 0o644),
    File("units/serai-sessiond.service", "etc/systemd/system/serai-sessiond.service", 0o644),
    File("units/serai-gate.service", "etc/systemd/system/serai-gate.service", 0o644),
    File(
        "units/serai-audit-syslog.service", "etc/systemd/system/serai-audit-syslog.service", 0o644
    ),
    File("units/serai-metrics.socket", "etc/systemd/system/serai-metrics.socket", 0o644),
    File("units/serai-metrics@.service", "etc/systemd/system/serai-metrics@.service", 0o644),
    File("units/serai-vsock.socket", "etc/systemd/system/serai-vsock.socket", 0o644),
    File("units/serai-vsock@.service", "etc/systemd/system/serai-vsock@.service", 0o644),
    File("units/serai-share@.service", "etc/systemd/system/serai-share@.service", 0o644),
    *(
        File(f"units/{name}.service", f"etc/systemd/system/{name}.service", 0o644)
        for name in ("serai-session-disk", "serai-session-disk-grow")
    ),
    # Which of the two a VM has is decided when it is provisioned: the role session_disk.
    *(
        File(f"units/{kind}/sessions.mount", f"usr/lib/serai/{kind}/sessions.mount", 0o644)
        for kind in ("disk", "folder")
    ),
)


def install(wheel: Path, root: Path) -> bool:
    """Install ``wheel`` below ``root`` ('/' but in tests); False if it is installed already.

    Modules are in a folder named after the wheel's content, to which a link points: they change in
    one step, and last. Cut off anywhere, the next run begins again. Raises OSError or
    zipfile.BadZipFile.
    """
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()[:16]
    link = root / "usr/lib/serai/python"
    fresh = link.with_name(f"python-{digest}")
    if link.is_symlink() and link.readlink() == Path(fresh.name) and _complete(link / HERE, root):
        _remove_others(fresh)  # of an installation that was cut off after its last step but this
        return False
    shutil.rmtree(fresh, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        found = (name for name in archive.namelist() if not name.startswith(HOSTS))
        modules = [name for name in found if ".dist-info/" not in name]
        archive.extractall(fresh, modules)
    compileall.compile_dir(
        fresh,
        stripdir=fresh,
        prependdir="/usr/lib/serai/python",
        quiet=1,
        # Without dates, so that the same wheel gives the same bytes and no clock makes them stale.
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    for file in FILES:
        target = root / file.target
        target.parent.mkdir(parents=True, exist_ok=True)
        files.write(target, (fresh / HERE / file.source).read_bytes(), file.mode)
    files.link(link, fresh.name)
    _remove_others(fresh)
    return True


def _remove_others(kept: Path) -> None:
    for old in kept.parent.glob("python-*"):
        if old != kept:
            shutil.rmtree(old)


def _complete(here: Path, root: Path) -> bool:
    """Whether every file is where it belongs, as it was installed."""
    for file in FILES:
        target = root / file.target
        if not target.is_file() or target.stat().st_mode & 0o7777 != file.mode:
            return False
        if target.read_bytes() != (here / file.source).read_bytes():
            return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m serai.install", description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--root", type=Path, default=Path("/"), help="default: /")
    arguments = parser.parse_args()
    os.umask(0o022)
    if install(arguments.wheel, arguments.root):
        print(f"installed {arguments.wheel.name}")


if __name__ == "__main__":
    main()
