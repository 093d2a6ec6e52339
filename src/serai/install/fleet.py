"""Puts a fleet's member and its unit where they belong, without pip.

It gets a virtual environment of its own, /usr/lib/serai-fleet/venv. Run as
``PYTHONPATH=WHEEL /usr/bin/python3 -m serai.install.fleet WHEEL...`` with Serai's wheel and those
that it needs. Prints what it did, or nothing where these very wheels are installed already.
"""

from __future__ import annotations

import argparse
import compileall
import hashlib
import os
import py_compile
import shutil
import sys
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

from serai.common import files

PLACE = "usr/lib/serai-fleet"
LINK = "venv"
UNIT = "etc/systemd/system/serai-fleet.service"
SOURCE = "serai/install/units/fleet/serai-fleet.service"


def install(root: Path, wheels: Sequence[Path]) -> bool:
    """Install the wheels below ``root`` ('/' but in tests); False if they are installed already.

    Each environment is named after its content, and a link points to the one that counts: it
    changes in one step, and last. Cut off anywhere, the next run begins again. Raises OSError or
    zipfile.BadZipFile.
    """
    place, unit = root / PLACE, root / UNIT
    place.mkdir(parents=True, exist_ok=True)
    link = place / LINK
    fresh = place / f"{LINK}-{_digest(wheels)}"
    if link.is_symlink() and link.readlink() == Path(fresh.name) and unit.exists():
        (source,) = fresh.glob(f"lib/python*/site-packages/{SOURCE}")
        if unit.read_bytes() == source.read_bytes():
            _remove_others(fresh)
            return False
    shutil.rmtree(fresh, ignore_errors=True)
    # Of the VM's packages only Python 3.10 needs one: tomli.
    builder = venv.EnvBuilder(symlinks=True, system_site_packages=sys.version_info < (3, 11))
    builder.create(fresh)
    modules = next(fresh.glob("lib/python*/site-packages"))
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(modules)
    compileall.compile_dir(
        modules, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    unit.parent.mkdir(parents=True, exist_ok=True)
    files.write(unit, (modules / SOURCE).read_bytes())
    files.link(link, fresh.name)
    _remove_others(fresh)
    return True


def _digest(wheels: Sequence[Path]) -> str:
    """Also of Python: an environment is one version's."""
    found = hashlib.sha256(sys.version.encode())
    for wheel in wheels:
        found.update(hashlib.sha256(wheel.read_bytes()).digest())
    return found.hexdigest()[:16]


def _remove_others(kept: Path) -> None:
    for old in kept.parent.glob(f"{LINK}-*"):
        if old != kept:
            shutil.rmtree(old)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m serai.install.fleet", description=__doc__)
    parser.add_argument("wheel", type=Path, nargs="+")
    parser.add_argument("--root", type=Path, default=Path("/"), help="default: /")
    arguments = parser.parse_args()
    os.umask(0o022)
    if install(arguments.root, arguments.wheel):
        print(f"installed {', '.join(wheel.name for wheel in arguments.wheel)}")


if __name__ == "__main__":
    main()
