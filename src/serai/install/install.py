"""Puts the VM half of Serai where the VM runs it from, out of its wheel, without pip.

Run as ``PYTHONPATH=WHEEL /usr/bin/python3 -m serai.install WHEEL``: Python reads modules
from a wheel as it is. Prints what it did, or nothing where this very wheel is installed already.
In the VM ``/usr/lib/serai/install --rollback`` goes back to the version before.
"""

from __future__ import annotations

import argparse
import compileall
import hashlib
import os
import py_compile
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from serai.common import files
from serai.install import back
from serai.install.previous import LINK, Previous
from serai.install.services import Daemons, FailedError, Services
from serai.install.table import FILES
from serai.install.turn import alone

HERE = "serai/install"
HOSTS = ("serai/mcp/", "serai/fleet/")
"""What takes packages that VMs do not have: a host uses it, or a VM with an environment for it."""


def install(
    wheel: Path, root: Path, services: Services, fault: Callable[[str], None] = lambda _: None
) -> bool:
    """Install ``wheel`` below ``root`` ('/' but in tests); False if it is installed already.

    Modules are in a folder named after the wheel's content, to which a link points: they change in
    one step, and last. The version before stays, as ``Previous`` has it. Cut off anywhere, the next
    run begins again; ``fault`` is called before each step. Raises OSError or zipfile.BadZipFile.
    """
    link = root / LINK
    fresh = link.with_name(folder_of(wheel))
    previous = Previous(root)
    if previous.current == fresh.name and _complete(link / HERE, root):
        _remove_others(fresh, previous)  # of an installation that was cut off after its last step
        return False
    if previous.current != fresh.name:
        shutil.rmtree(fresh, ignore_errors=True)
    fault("unpack")
    _unpack(wheel, fresh)
    fault("keep")
    is_well = bool(previous.current) and not services.wrong(whole=True, patience=0)
    previous.keep(fresh.name, well=is_well)
    fault("files")
    for file in FILES:
        target = root / file.target
        target.parent.mkdir(parents=True, exist_ok=True)
        files.write(target, (fresh / HERE / file.source).read_bytes(), file.mode)
    fault("modules")
    os.sync()  # a link to modules that a power cut has emptied would be worse than the one before
    files.link(link, fresh.name)
    fault("others")
    previous.went_back.unlink(missing_ok=True)
    _remove_others(fresh, previous)
    return True


def folder_of(wheel: Path) -> str:
    """The name of the folder that its modules are put into."""
    return f"python-{hashlib.sha256(wheel.read_bytes()).hexdigest()[:16]}"


def _unpack(wheel: Path, fresh: Path) -> None:
    """Unpack and compile the wheel's modules."""
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


def _remove_others(fresh: Path, previous: Previous) -> None:
    about = previous.about()
    kept = {fresh.name, about.modules if about else ""}
    for old in fresh.parent.glob("python-*"):
        if old.name not in kept:
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


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m serai.install", description=__doc__)
    parser.add_argument("wheel", type=Path, nargs="?")
    parser.add_argument("--rollback", action="store_true", help="go back to the version before")
    parser.add_argument(
        "--settle",
        action="store_true",
        help="restart the daemons; go back if a new version is not well",
    )
    parser.add_argument("--root", type=Path, default=Path("/"), help="default: /")
    arguments = parser.parse_args()
    if bool(arguments.wheel) + arguments.rollback + arguments.settle != 1:
        parser.error("say one of WHEEL, --rollback, --settle")
    os.umask(0o022)
    if arguments.settle:
        what = "the restart after an upgrade"
    else:
        what = "a step back" if arguments.rollback else "an upgrade"
    try:
        with alone(arguments.root, what):
            said = _changed(arguments, Daemons())
    except (FailedError, OSError, zipfile.BadZipFile) as error:
        told = error if isinstance(error, FailedError) else f"{what} failed: {error}"
        print(f"serai: {told}", file=sys.stderr)
        return 1
    if said:
        print(said)
    return 0


def _changed(arguments: argparse.Namespace, services: Services) -> str:
    """Do what is asked for; returns what was done, '' if nothing was to do. Raises FailedError."""
    if arguments.settle:
        if wrong := back.settle(arguments.root, services):
            raise FailedError(wrong)
        return ""
    if arguments.rollback:
        return back.back(arguments.root, services)
    fresh = install(arguments.wheel, arguments.root, services)
    return f"installed {arguments.wheel.name}" if fresh else ""


if __name__ == "__main__":
    sys.exit(main())
