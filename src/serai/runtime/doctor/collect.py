"""Collects what there is to judge of the VM, part by part. It judges and changes nothing."""

from __future__ import annotations

import grp
import os
import platform
import pwd
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from serai.common import linux, proc
from serai.common.errors import SeraiError
from serai.common.paths import Paths
from serai.install import install, table
from serai.runtime import settings
from serai.runtime.client import Client
from serai.runtime.doctor import installation, system
from serai.runtime.sessions import numbers
from serai.runtime.sessions.steps import publish
from serai.runtime.sessions.supervising import supervisor

PATIENCE = 60.0
Part = dict[str, Any]
ROOT = Path(__file__).resolve().parents[3]  # where our own modules are imported from
GATE = {
    "gate": "from serai.gate import settings; settings.load(pathlib.Path(sys.argv[2]))",
    "profiles": "from serai.gate import profiles; profiles.load(pathlib.Path(sys.argv[2]))",
}
SYSCTLS = (
    *("user.max_user_namespaces", "kernel.unprivileged_userns_clone"),
    "kernel.apparmor_restrict_unprivileged_userns",
)
# Tried with arguments that are wrong for each: it fails, and with ENOSYS only where it is missing.
CALLS = {
    "openat2": (-1, 0, 0, 0),
    "clone3": (0, 0),
    "pidfd_open": (-1, 0),
    "close_range": (2, 1, 0),
    "mount_setattr": (-1, 0, 0, 0, 0),
    "open_tree": (-1, 0, 0),
}


def gather(paths: Paths, took: dict[str, float]) -> Part:
    """Every part of the VM's; one that cannot be collected is the reason why."""
    parts: dict[str, Callable[[Paths], Part]] = {
        "units": units,
        "installed": installed,
        "sockets": sockets,
        "sessiond": sessiond,
        "filters": filters,
        "users": users,
        "disks": disks,
        "registry": registry,
        "settings": settings_read,
        "kernel": kernel,
        "clock": clock,
        "versions": versions,
        "resources": resources_of,
    }
    return {name: timed(name, partial(part, paths), took) for name, part in parts.items()}


def timed(name: str, part: Callable[[], Part], took: dict[str, float]) -> Part | str:
    """What a part finds, or why it finds nothing."""
    begin = time.monotonic()
    try:
        return part()
    except (SeraiError, OSError, ValueError, LookupError, ImportError, sqlite3.Error) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        took[name] = time.monotonic() - begin


def said(*argv: str) -> str:
    """What a program prints to either output. Raises OSError if it is not there."""
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE,
        check=False,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
    )
    return done.stdout.decode(errors="replace").strip()


def text(path: str | Path) -> str:
    """A file's text without the white space around it, '' if it is not there."""
    with suppress(OSError):
        return Path(path).read_text(errors="replace").strip()
    return ""


def units(_paths: Paths) -> Part:
    """systemctl(1)."""
    names = list(installation.SERVICES)
    shown = "Id,ActiveState,UnitFileState,NRestarts"
    blocks = said("systemctl", "show", f"--property={shown}", *names).split("\n\n")
    found = [
        dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in blocks
    ]
    listing = (
        "list-units",
        "--failed",
        "--plain",
        "--no-legend",
        "--no-pager",
        "serai*",
        "sessions.mount",
    )
    return {
        "units": {each["Id"]: each for each in found},
        "failed": [line.split()[0] for line in said("systemctl", *listing).splitlines() if line],
    }


def installed(paths: Paths) -> Part:
    """What the wheel put beside its modules; the drop-in that sessiond wrote."""
    folder = ROOT / install.HERE
    different = []
    for file in table.FILES:
        target = paths.root / file.target
        try:
            same = target.read_bytes() == (folder / file.source).read_bytes()
            mode = stat.S_IMODE(target.stat().st_mode)
        except OSError as error:
            different.append(f"{target}: {error.strerror}")
            continue
        if not same or mode != file.mode:
            different.append(f"{target} {'differs' if not same else f'has mode {mode:04o}'}")
    wanted = supervisor.drop_in(settings.load(paths.settings))
    return {
        "different": different,
        "count": len(table.FILES),
        "drop_in": text(supervisor.DROP_IN) == wanted.strip(),
    }


def sockets(paths: Paths) -> Part:
    """Modes and owners of the two control sockets."""
    control, gate = paths.control.stat(), paths.gate_control.stat()
    return {
        "control": [
            f"{stat.S_IMODE(control.st_mode):04o}",
            pwd.getpwuid(control.st_uid).pw_name,
            grp.getgrgid(control.st_gid).gr_name,
        ],
        "gate": [f"{stat.S_IMODE(gate.st_mode):04o}", pwd.getpwuid(gate.st_uid).pw_name],
    }


def _sessions(paths: Paths) -> list[Part]:
    with Client(paths.control, timeout=PATIENCE) as client:
        found: list[Part] = client.call("list")["sessions"]
        return found


def sessiond(paths: Paths) -> Part:
    """What the daemon tells of its sessions."""
    found, now = _sessions(paths), time.time()
    return {
        "sessions": [each["name"] for each in found],
        "stuck": [
            f"{each['name']}: {each['state']}, on its way to {each['goal']}"
            for each in found
            if each["goal"] and now - each["changed_at"] > PATIENCE
        ],
    }


def filters(paths: Paths) -> Part:
    """Each filter as it is installed, compared with what the generator makes."""
    from serai.runtime.sandbox import seccomp  # noqa: PLC0415  # takes a package that may be missing

    folder, arch = paths.filters(), platform.machine()
    found = {}
    for name in seccomp.FILTERS:
        try:
            same = (folder / f"{name}.bpf").read_bytes() == seccomp.build(name, arch)
            found[name] = "the same" if same else "another one"
        except OSError as error:
            found[name] = str(error.strerror)
    return found


def users(paths: Paths) -> Part:
    """Sessions' users, for the registry, in the files and for the system."""
    nsswitch = {
        line.split(":")[0]: line.partition(":")[2]
        for line in text(paths.root / "etc/nsswitch.conf").splitlines()
        if ":" in line
    }
    known = {each["name"]: each["uid"] for each in _sessions(paths) if each["state"] != "removing"}
    before = _pooled(paths)
    rows = [line.split(":") for line in text(paths.users / "passwd").splitlines()]
    after = _pooled(paths)
    waiting = {name: uid for name, uid in before.items() if uid and after.get(name) == uid}
    moving = (before.keys() | after.keys()) - waiting.keys() - known.keys()
    known |= waiting
    unknown = []
    for name, uid in known.items():
        try:
            if pwd.getpwnam(name).pw_uid != uid:
                unknown.append(f"{name} has another UID")
        except KeyError:
            unknown.append(name)
    gate = pwd.getpwnam("serai-gate")
    return {
        "nsswitch": nsswitch,
        "link": os.path.realpath(paths.root / "var/lib/extrausers"),
        "folder": str(paths.users),
        "listed": [row[0] for row in rows if row[0] not in moving],
        "known": list(known),
        "unknown": unknown,
        "clashes": clashes(known, paths.root),
        "gate": [gate.pw_uid, gate.pw_shell],
        "members": grp.getgrnam("serai").gr_mem,
        "bridge": grp.getgrnam(publish.BRIDGE_GROUP).gr_mem,
    }


def clashes(known: dict[str, int], root: Path) -> list[str]:
    """Accounts, groups and ranges of the VM's that came to have a session's number."""
    own = {*known, *(f"user {name}" for name in known), *(f"group {name}" for name in known)}
    found = []
    for number in known.values():
        for what in (numbers.taken(number, root), numbers.subordinate(number, root)):
            if what and what not in own:
                found.append(f"{what} has {number}")
    return list(dict.fromkeys(found))


def disks(paths: Paths) -> Part:
    """statvfs(3) and proc_pid_mountinfo(5) of what sessions need."""
    mounts = {each.place: each for each in proc.mounts_of()}
    sessions = mounts.get(str(paths.sessions))
    places = {"sessions": paths.sessions, "root": paths.root, "run": paths.run}
    rooms = {name: os.statvfs(path) for name, path in places.items()}
    free = {name: 100.0 * each.f_bavail / max(each.f_blocks, 1) for name, each in rooms.items()}
    inodes = rooms["sessions"]
    free["sessions files"] = 100.0 * inodes.f_favail / inodes.f_files if inodes.f_files else 100.0
    return {
        "mounted": sessions is not None,
        "source": sessions.source if sessions else "none",
        "kind": sessions.kind if sessions else "none",
        "options": list(sessions.options) if sessions else [""],
        "top": _owned(paths.sessions),
        "state": _owned(paths.state),
        "audit": _owned(paths.state / "audit"),
        "gate": pwd.getpwnam("serai-gate").pw_uid,
        "free": free,
    }


def _owned(path: Path) -> list[Any]:
    status = path.stat()
    return [f"{stat.S_IMODE(status.st_mode):04o}", status.st_uid, status.st_gid]


def registry(paths: Paths) -> Part:
    """PRAGMA quick_check, https://www.sqlite.org/pragma.html."""
    with closing(_database(paths)) as database:
        return {"check": database.execute("PRAGMA quick_check").fetchone()[0]}


def _pooled(paths: Paths) -> dict[str, int]:
    """The UIDs of the pool's sessions by name; 0 for one that is being made or removed."""
    waits = "CASE WHEN state = 'ready' AND goal IS NULL THEN uid ELSE 0 END"
    with closing(_database(paths)) as database:
        return dict(database.execute(f"SELECT name, {waits} FROM sessions WHERE pooled"))  # noqa: S608  # ours


def _database(paths: Paths) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{paths.registry}?mode=ro", uri=True, timeout=PATIENCE)


def settings_read(paths: Paths) -> Part:
    """Why files of settings cannot be read, '' if they can; the gate's modules are its own."""
    found: Part = {"session": ""}
    try:
        settings.load(paths.settings)
    except SeraiError as error:
        found["session"] = str(error)
    for key, path in (("gate", paths.gate_settings), ("profiles", paths.profiles)):
        code = f"import pathlib, sys; sys.path.insert(0, sys.argv[1]); {GATE[key]}"
        lines = said(sys.executable, "-I", "-c", code, str(ROOT), str(path)).splitlines()
        found[key] = lines[-1].rpartition("SeraiError: ")[2] if lines else ""
    files = [paths.gate_settings, *paths.profiles.glob("*.toml")]
    shut = bool(paths.profiles.exists() and not stat.S_IMODE(paths.profiles.stat().st_mode) & 0o007)
    seen = [
        path for path in files if path.exists() and not (shut and path.parent == paths.profiles)
    ]
    found["modes"] = {str(path): stat.S_IMODE(path.stat().st_mode) for path in seen}
    return found


def audit(paths: Paths) -> Part:
    """What the gate says of its log."""
    with Client(paths.control, timeout=PATIENCE) as client:
        found: Part = client.call("audit.verify")
        return found


def kernel(_paths: Paths) -> Part:
    """What the kernel can do, by trying."""
    kinds = {each.place: each.kind for each in proc.mounts_of()}
    return {
        "release": os.uname().release,
        "calls": {name: linux.errno_of(name, *words) for name, words in CALLS.items()},
        "landlock": linux.landlock_version(),
        "ptrace_scope": int(text("/proc/sys/kernel/yama/ptrace_scope") or 0),
        "user_namespaces": {name: text(f"/proc/sys/{name.replace('.', '/')}") for name in SYSCTLS},
        "seccomp": text("/proc/sys/kernel/seccomp/actions_avail"),
        "cgroup": kinds.get("/sys/fs/cgroup", "nothing"),
        "swaps": [line.split()[0] for line in text("/proc/swaps").splitlines()[1:]],
        "bwrap": stat.S_IMODE(Path("/usr/bin/bwrap").stat().st_mode),
    }


def clock(paths: Paths) -> Part:
    """The clock beside times that were written, and beside the battery's."""
    battery = text("/sys/class/rtc/rtc0/since_epoch")
    written = [Path("/var/lib/dpkg/status"), paths.registry, paths.audit]
    try:
        os.getrandom(16, os.GRND_NONBLOCK)
        random = True
    except BlockingIOError:
        random = False
    return {
        "now": time.time(),
        "newest": max((path.stat().st_mtime for path in written if path.exists()), default=0.0),
        "battery": float(battery) if battery else None,
        "entropy": int(text("/proc/sys/kernel/random/entropy_avail") or 0),
        "random": random,
    }


def versions(_paths: Paths) -> Part:
    """Versions of programs, and whether modules of the distribution's can be imported."""
    socat = [line for line in said("socat", "-V").splitlines() if line.startswith("socat version")]
    modules = {}
    for name in system.MODULES:
        try:
            import_module(name)
            modules[name] = ""
        except ImportError as error:
            modules[name] = str(error)
    return {
        "programs": {
            "systemd": said("systemctl", "--version").splitlines()[0],
            "bwrap": said("bwrap", "--version"),
            "socat": socat[0] if socat else "",
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
        },
        "modules": modules,
    }


def resources_of(paths: Paths) -> Part:
    """What sessions are limited to, and how many pages of memory there are."""
    resources = settings.load(paths.settings).resources
    return {**vars(resources), "pages": os.sysconf("SC_PHYS_PAGES")}
