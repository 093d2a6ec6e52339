"""What runs on a VM, as far as an upgrade is concerned, as one line of JSON.

It is sent to the VM and run there by the Python that it has, so it imports nothing of ours. What it
reads of Serai has been the same since 0.1.

A VM that was found right is witnessed: by when each file that roles may have to do with was changed
last (its ctime, which nobody can set), by units and by the kernel's settings. ``--fast`` leaves it
alone while its witness is the same. These lists are kept by hand, and roles look at more: so that
is less than a run of the roles, and nobody gets it who has not asked for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

SLICES = ("sys/fs/cgroup", "sys/fs/cgroup/systemd", "sys/fs/cgroup/unified")
"""Where cgroup v2 may be, or v1's name=systemd."""

PLACES = (
    *(
        "etc",
        "usr/local",
        "usr/lib/serai",
        "usr/lib/serai-fleet",
        "usr/bin/serai",
        "usr/bin/bwrap",
        "usr/bin/snap",
    ),
    *("var/lib/dpkg/status", "var/lib/extrausers", "lib/systemd/systemd-resolved"),
)
"""Where all is that roles read, write or remove, but for what a project lays elsewhere."""
NOT_OURS = frozenset({"etc/resolv.conf", "etc/adjtime"})
"""What a VM writes by itself, and no role."""
UNITS = (
    *("serai-gate.service", "serai-sessiond.service", "sessions.mount", "serai-metrics.socket"),
    *("serai-vsock.socket", "serai-audit-syslog.service", "serai-fleet.service"),
    "systemd-journald.service",
    *("apt-daily.timer", "apt-daily-upgrade.timer", "swap.target", "ssh.service", "ssh.socket"),
)
STATES = ("Id", "LoadState", "ActiveState", "UnitFileState", "NeedDaemonReload")


def look(root: Path) -> dict[str, object]:
    """Which version there is ('' without one), the one before, and what runs with it.

    ``connected``: commands that a client waits for. ``detached`` and ``jobs``: those that need
    nobody. ``cut_off``: the run before did not come to its end.
    """
    link = root / "usr/lib/serai/python"
    found: dict[str, set[str]] = {"sessions": set(), "exec": set(), "detached": set(), "job": set()}
    for top in SLICES:
        for unit in root.glob(f"{top}/serai.slice/serai-session@*.service"):
            found["sessions"].add(unit.name)
            for path in unit.iterdir():
                kind = path.name.partition("-")[0]
                if kind in found and path.is_dir():
                    found[kind].add(f"{unit.name}/{path.name}")
    try:
        kept = json.loads((root / "var/lib/serai/previous/about.json").read_text())["version"]
    except (OSError, ValueError, KeyError):
        kept = ""
    return {
        "version": _version(link),
        "modules": link.resolve().name if link.is_symlink() else "",
        "kept": kept,
        "sessions": len(found["sessions"]),
        "connected": len(found["exec"]),
        "detached": len(found["detached"]),
        "jobs": len(found["job"]),
        "cut_off": (root / "var/lib/serai/provisioning").exists(),
        "right": _read(root / "var/lib/serai/right"),
        "witness": witness(root),
    }


def witness(root: Path) -> str:
    """A digest that stays the same while nothing changes that roles have to do with."""
    seen = hashlib.sha256()
    for line in (*_files(root), *_kernel(root), *_units()):
        seen.update(line.encode("utf-8", "surrogateescape") + b"\0")
    return seen.hexdigest()


def _files(root: Path) -> Iterator[str]:
    for place in PLACES:
        top = root / place
        paths = [str(top)]
        for folder, folders, names in os.walk(top):
            folders.sort()
            paths += [f"{folder}/{name}" for name in sorted({*folders, *names})]
        for path in paths:
            name = path.removeprefix(str(root)).lstrip("/")
            if name in NOT_OURS:
                continue
            try:
                found = os.lstat(path)
            except FileNotFoundError:
                yield f"{name} absent"
                continue
            # A directory changes with whatever is in it, and that is looked at itself.
            stamp = 0 if stat.S_ISDIR(found.st_mode) else found.st_ctime_ns
            yield f"{name} {found.st_mode} {found.st_uid} {found.st_gid} {stamp} {found.st_ino}"


def _kernel(root: Path) -> Iterator[str]:
    """The kernel, its name for the VM, and the settings that we give it."""
    told = os.uname()
    yield f"{told.release} {told.nodename} {os.path.ismount(root / 'sessions')}"
    for path in sorted((root / "etc/sysctl.d").glob("*serai*")):
        for key in re.findall(r"^-?([a-z0-9_./-]+) *=", path.read_text(), re.MULTILINE):
            yield f"{key} {_read(root / 'proc/sys' / key.replace('.', '/'))}"


def _units() -> Iterator[str]:
    argv = ["systemctl", "show", *(f"--property={state}" for state in STATES), *UNITS]
    try:
        yield subprocess.run(argv, check=False, capture_output=True, text=True).stdout
    except OSError:
        yield "no systemd"


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _version(link: Path) -> str:
    try:
        text = (link / "serai/__init__.py").read_text()
    except OSError:
        return ""
    match = re.search(r'__version__ = "([^"]*)"', text)
    return match[1] if match else "?"


if __name__ == "__main__":
    print(json.dumps(look(Path("/"))))
