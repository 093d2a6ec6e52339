"""What the doctor collects of a VM in which all is well."""

from __future__ import annotations

import os
from errno import EBADF, EINVAL
from typing import Any

from serai.common import sizes
from serai.runtime.doctor import collect, installation, lifetime, system
from serai.runtime.doctor.checks import CHECKS as ALL

ACTIVE = {"ActiveState": "active", "UnitFileState": "enabled", "NRestarts": "0"}
NOW = 1_800_000_000.0
WELL: dict[str, Any] = {
    "units": {
        "units": {name: {"Id": name, **ACTIVE} for name in installation.SERVICES},
        "failed": [],
    },
    "installed": {"different": [], "count": 9, "drop_in": True},
    "sockets": {"control": ["0660", "root", "serai"], "gate": ["0600", "serai-gate"]},
    "sessiond": {"sessions": ["blue"], "stuck": []},
    "filters": {"baseline": "the same", "unix-block": "the same"},
    "users": {
        "nsswitch": {"passwd": " files extrausers", "group": " files extrausers"},
        "link": "/run/serai/users",
        "folder": "/run/serai/users",
        "listed": ["blue"],
        "known": ["blue"],
        "unknown": [],
        "clashes": [],
        "gate": [998, "/usr/sbin/nologin"],
        "members": ["operator"],
        "bridge": [],
    },
    "disks": {
        "mounted": True,
        "source": "/dev/nvme1n1",
        "kind": "ext4",
        "options": ["rw", "nosuid", "nodev"],
        "top": ["0711", 0, 0],
        "state": ["0700", 0, 0],
        "audit": ["0700", 998, 998],
        "gate": 998,
        "free": {"sessions": 90.0, "sessions files": 99.0, "root": 40.0, "run": 99.0},
    },
    "registry": {"check": "ok"},
    "settings": {
        "session": "",
        "gate": "",
        "profiles": "",
        "modes": {"/etc/serai/gate.toml": 0o640},
    },
    "audit": {"ok": True, "entries": 7, "problem": ""},
    "kernel": {
        "release": "6.8.0-94-generic",
        "calls": dict.fromkeys(collect.CALLS, EINVAL) | {"pidfd_open": EBADF},
        "landlock": 4,
        "ptrace_scope": 0,
        "user_namespaces": {
            "user.max_user_namespaces": "31000",
            "kernel.unprivileged_userns_clone": "1",
            "kernel.apparmor_restrict_unprivileged_userns": "",
        },
        "seccomp": "kill_process kill_thread trap errno trace log allow",
        "cgroup": "cgroup2",
        "swaps": [],
        "bwrap": 0o755,
    },
    "clock": {"now": NOW, "newest": NOW - 5, "battery": NOW + 1, "entropy": 256, "random": True},
    "versions": {
        "programs": {
            "systemd": "systemd 249 (249.11-0ubuntu3.17)",
            "bwrap": "bubblewrap 0.6.1",
            "socat": "socat version 1.7.4.1 on Nov 2021",
            "python": "3.10.12",
            "sqlite": "3.37.2",
        },
        "modules": dict.fromkeys(system.MODULES, ""),
    },
    "resources": {"memory_max": "50%", "tasks_max": 8192, "cpu_weight": 100, "io_weight": 100}
    | {"pages": 2},
    "cgroup": {
        "limits": {
            "memory.max": "",
            "pids.max": "8192",
            "cpu.weight": "100",
            "io.weight": "default 100",
        },
        "unit": "/sys/fs/cgroup/serai.slice/serai-session@blue.service",
        "controllers": ["cpu", "io", "memory", "pids"],
        "files": {"cgroup.freeze": True, "cgroup.kill": True},
        "payload": ["/sys/fs/cgroup/serai.slice/serai-session@blue.service/detached-1-1"],
    },
    "wanted": {"name": "blue", "uid": 2000, "sandbox": "strict"},
    "home": {"mode": 0o700, "owner": [2000, 2000], "uids": [2000, 2001]},
    "egress": {
        "denied": {"http": 403, "text": "ask: serai policy allow blue 127.0.0.1:9", "socks": 2},
        "allowed": {"http": 200, "text": "origin", "socks": 0},
        "explained": False,
        "decisions": [False, False, True, True],
    },
    "payloads": {
        "status": 7,
        "left": 0,
        "timed_out": 124,
        "left_in_time": 0,
        "left_by_hang_up": 0,
        "detached": 1,
    },
    "lifetime": {
        "stopped": "stopped",
        "processes": 0,
        "cgroup": 0,
        "published": [],
        "archived": "archived",
        "locked": [0, 0],
        "reopened": "ready",
        "kept": lifetime.KEPT,
        "removed": [],
        "known": [],
        "users": [],
        "ended": 0,
    },
}
WELL["cgroup"]["limits"]["memory.max"] = str(
    sizes.limit("50%", WELL["resources"]["pages"] * os.sysconf("SC_PAGE_SIZE"))
)
# Those that judge these facts; what a payload sees is judged in real sandboxes.
CHECKS = [check for check in ALL if check.part in WELL]
