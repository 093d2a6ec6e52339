"""The doctor's checks of the VM: green on a well one, and red, alone, where one fact is broken."""

from __future__ import annotations

import copy
import json
import os
from errno import EBADF, EINVAL, ENOSYS
from typing import Any

import pytest

from serai.common import sizes
from serai.runtime.doctor import (
    calls,
    collect,
    core,
    installation,
    report,
    system,
    tenant,
)
from serai.runtime.doctor.core import Absent, Facts
from serai.runtime.sandbox.seccomp import BASELINE, UNIX_BLOCK
from tests.conftest import ROOT

DOCS = ROOT / "docs"
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
    "policy": {"memory_max": "50%", "tasks_max": 8192, "cpu_weight": 100, "io_weight": 100}
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
    "wanted": {"name": "blue", "uid": 2000},
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
        "locked": [0, 65534],
        "reopened": "ready",
        "kept": tenant.KEPT,
        "removed": [],
        "known": [],
        "users": [],
        "ended": 0,
    },
}
WELL["cgroup"]["limits"]["memory.max"] = str(
    sizes.limit("50%", WELL["policy"]["pages"] * os.sysconf("SC_PAGE_SIZE"))
)
CHECKS = [check for check in core.CHECKS if check.part in WELL]

# Where, what stands there then, and the check that goes red.
BROKEN: list[tuple[str, Any, str]] = [
    *(
        (f"units/units/{name}/ActiveState", "failed", f"{name} runs")
        for name in installation.SERVICES
    ),
    *(
        (f"units/units/{name}/UnitFileState", "disabled", f"{name} starts at every boot")
        for name in installation.SERVICES
    ),
    ("units/failed", ["serai-session@x.service"], "no unit of Serai's has failed"),
    (
        "units/units/serai-gate.service/NRestarts",
        "9",
        "nothing of Serai's starts again and again",
    ),
    (
        "installed/different",
        ["/usr/bin/serai differs"],
        "what is installed is what belongs to this version",
    ),
    ("installed/drop_in", False, "sessions' units have the policy's limits"),
    (
        "sockets/control",
        ["0666", "root", "serai"],
        "the control socket is root's and the group's",
    ),
    ("sockets/gate", ["0660", "serai-gate"], "the gate's control socket is its own"),
    ("sessiond", "cannot reach sessiond", "sessiond answers, no operation on a session is stuck"),
    ("sessiond/stuck", ["x: creating"], "no operation on a session is stuck"),
    ("filters/baseline", "another one", "the filter baseline is what the generator makes"),
    ("filters/unix-block", "no such file", "the filter unix-block is what the generator makes"),
    ("users/nsswitch/passwd", " files", "the system asks for sessions' users"),
    ("users/link", "/var/lib/extrausers", "sessions' users are where the system looks"),
    ("users/listed", ["blue", "red"], "sessions' users are the registry's"),
    ("users/unknown", ["blue"], "the system finds a session's user"),
    ("users/clashes", ["ubuntu has 2000"], "no session's UID is another user's"),
    ("users/gate", [998, "/bin/bash"], "the gate has a user of its own"),
    ("users/members", ["blue"], "no session is in the group serai"),
    ("disks/mounted", False, "/sessions is a disk of its own"),
    ("disks/kind", "tmpfs", "/sessions is ext4"),
    ("disks/options", ["rw", "nodev"], "/sessions is mounted nosuid"),
    ("disks/options", ["rw", "nosuid"], "/sessions is mounted nodev"),
    ("disks/options", ["ro", "nosuid", "nodev"], "/sessions is mounted rw"),
    ("disks/top", ["0755", 0, 0], "/sessions lists no session"),
    ("disks/state", ["0755", 0, 0], "Serai's own folder is root's alone"),
    ("disks/audit", ["0700", 0, 0], "the audit log's folder is the gate's alone"),
    ("disks/free/sessions", 3.0, "there is room on the disk of sessions"),
    ("disks/free/sessions files", 3.0, "there is room for files on the disk of sessions"),
    ("disks/free/root", 3.0, "there is room on the root disk"),
    ("disks/free/run", 3.0, "there is room in /run"),
    ("registry/check", "row 3 missing from index", "the registry is whole"),
    ("settings/session", "unknown key", "the policy of sessions can be read"),
    ("settings/gate", "unknown key", "the gate's settings can be read"),
    ("settings/profiles", "unknown key", "every profile can be read"),
    (
        "settings/modes",
        {"/etc/serai/gate.toml": 0o644},
        "sessions cannot read the gate's settings",
    ),
    ("audit/ok", False, "the audit log is whole"),
    *((f"kernel/calls/{name}", ENOSYS, f"the kernel has {name}") for name in system.FEATURES),
    ("kernel/release", "5.10.0-3", "the kernel is new enough"),
    ("kernel/landlock", 1, "payloads are kept from tracing"),
    ("kernel/user_namespaces/user.max_user_namespaces", "0", "users may make sandboxes"),
    ("kernel/user_namespaces/kernel.unprivileged_userns_clone", "0", "users may make sandboxes"),
    ("kernel/seccomp", "errno allow", "the kernel has seccomp filters"),
    ("kernel/cgroup", "tmpfs", "cgroup v2 is what there is"),
    ("cgroup/controllers", ["cpu", "io", "pids"], "sessions have all controllers"),
    ("cgroup/files/cgroup.kill", False, "a session can be frozen and killed as a whole"),
    ("kernel/swaps", ["/dev/vda2"], "swap is off"),
    ("kernel/bwrap", 0o4755, "bubblewrap has no rights of its own"),
    ("clock/newest", NOW + 5, "the clock is right"),
    ("clock/battery", NOW + 3600, "the clock is right"),
    ("clock/random", False, "there is entropy"),
    ("clock/entropy", 9, "there is entropy"),
    ("versions/programs/systemd", "systemd 247 (247.3)", "systemd is new enough"),
    ("versions/programs/bwrap", "bubblewrap 0.4.1", "bwrap is new enough"),
    ("versions/programs/socat", "socat version 1.7.3.4", "socat is new enough"),
    ("versions/programs/python", "3.9.2", "python is new enough"),
    ("versions/programs/sqlite", "3.34.1", "sqlite is new enough"),
    *((f"versions/modules/{name}", "No module", f"Python has {name}") for name in system.MODULES),
    ("cgroup/limits/memory.max", "max", "the limit of a session's memory is the policy's"),
    ("cgroup/limits/pids.max", "max", "the limit of a session's tasks is the policy's"),
    ("cgroup/limits/cpu.weight", "10000", "a session's share of CPU is the policy's"),
    ("cgroup/limits/io.weight", "default 10", "a session's share of the disk is the policy's"),
    ("cgroup/payload", ["/sys/fs/cgroup/x"], "a payload has a cgroup of its own"),
    ("home/mode", 0o755, "a home is its session's alone"),
    ("home/uids", [2000, 2000], "two sessions have two users"),
    ("egress/denied/http", 200, "the gate denies what no rule allows"),
    ("egress/denied/text", "no", "a denial says what to do"),
    ("egress/allowed/socks", 2, "the gate carries what a rule allows"),
    ("egress/explained", True, "the gate explains as it decides"),
    ("egress/decisions", [False], "every decision is in the audit log"),
    ("payloads/status", 0, "a payload's status is told"),
    ("payloads/left", 1, "nothing outlives a payload"),
    ("payloads/timed_out", 0, "a payload ends when its time is up"),
    ("payloads/left_by_hang_up", 1, "a payload ends when its client hangs up"),
    ("payloads/detached", 0, "a detached payload goes on"),
    ("lifetime/processes", 2, "stopping a session ends all of it"),
    ("lifetime/cgroup", 1, "a stopped session has no cgroup"),
    ("lifetime/published", ["/run/serai/gate/x"], "a stopped session has no way out"),
    ("lifetime/locked", [0o700, 2000], "an archived home is locked"),
    ("lifetime/kept", "", "a reopened session has its files"),
    ("lifetime/removed", ["/sessions/blue"], "a removed session is gone"),
    ("lifetime/users", ["blue:x:2000"], "a removed session's user is gone"),
]


def red(facts: dict[str, Any]) -> set[str]:
    return {each.check.name for each in core.judge(facts, {}, CHECKS) if not each.ok}


def test_a_well_vm_is_all_green() -> None:
    assert red(WELL) == set()


@pytest.mark.parametrize(("where", "value", "name"), BROKEN, ids=lambda each: str(each)[:60])
def test_a_broken_fact_turns_its_check_red_alone(where: str, value: object, name: str) -> None:
    facts = copy.deepcopy(WELL)
    *folders, last = where.split("/")
    place = facts
    for folder in folders:
        place = place[folder]
    assert last in place
    place[last] = value
    assert red(facts) == ({name} if where != "sessiond" else set(name.split(", ")))


def test_every_check_of_the_vm_is_broken_once() -> None:
    names = {part for _, _, name in BROKEN for part in (name, *name.split(", "))}
    assert [check.name for check in CHECKS if check.name not in names] == []


@pytest.mark.parametrize("part", sorted({check.part for check in core.CHECKS}))
def test_what_could_not_be_collected_is_red_and_says_why(part: str) -> None:
    results = core.judge({part: "the reason why"}, {part: 1.5})
    mine = [each for each in results if each.check.part == part]
    assert mine
    assert not any(each.ok for each in mine)
    assert all(each.detail.startswith("not seen: ") for each in mine)
    assert {each.seconds for each in mine} == {1.5}


@pytest.mark.parametrize("value", [{}, [], None, 3, {"units": 7}])
def test_facts_of_any_shape_are_judged(value: object) -> None:
    for check in core.CHECKS:
        facts = dict.fromkeys({each.part for each in core.CHECKS}, value)
        assert core.judge({**facts, "wanted": value}, {}, [check])[0].detail


def test_there_are_enough_checks_and_each_says_what_it_means() -> None:
    names = [check.name for check in core.CHECKS]
    assert len(names) == len(set(names)) >= 80
    inside = [check for check in core.CHECKS if check.part in tenant.PARTS]
    assert len(inside) >= 80
    assert [check.name for check in core.CHECKS if not check.means.endswith(".")] == []


@pytest.mark.parametrize("arch", calls.MACHINES)
def test_every_refused_call_is_tried(arch: str) -> None:
    """By name: each rule's system call is one of the table's, or not one of this machine."""
    rules = {call for rule in (*BASELINE, *UNIX_BLOCK) for call in rule.syscalls}
    ours = {call.name.split()[0] for group in calls.GROUPS for call in group.calls}
    by_request = {
        "TIOCSTI": "ioctl",
        "TIOCSTI,": "ioctl",
        "TIOCLINUX": "ioctl",
        "TIOCSETD": "ioctl",
    }
    tried = {by_request.get(name, "ptrace" if name.startswith("PTRACE") else name) for name in ours}
    assert rules - tried == {"clock_settime64"}, "which 64-bit machines do not have"
    asked = calls.request(arch)
    assert len({row[0] for row in asked}) == len(asked)


def test_a_call_that_was_not_tried_is_red() -> None:
    results = core.judge({"calls": {}}, {}, [each for each in core.CHECKS if each.part == "calls"])
    # Those that one of the machines does not have need not be there.
    assert {each.check.name for each in results if each.ok} == {
        "ports and segments of the processor are refused"
    }


def test_json_has_the_shape_of_verify_json() -> None:
    facts = {**WELL, "registry": {"check": "torn"}}
    told = json.loads(json.dumps(report.as_json(core.judge(facts, {"registry": 0.25}, CHECKS))))
    assert set(told) == {"checks", "passed", "failed"}
    assert (told["passed"], told["failed"]) == (len(CHECKS) - 1, 1)
    (failed,) = [each for each in told["checks"] if not each["ok"]]
    assert failed == {
        "name": "the registry is whole",
        "ok": False,
        "detail": "it is torn, not ok",
        "seconds": 0.25,
        "means": "Sessions may be lost: restore .serai/registry.sqlite.",
    }
    assert all(
        set(each) == {"name", "ok", "detail", "seconds"} for each in told["checks"] if each["ok"]
    )


def test_the_table_has_a_line_a_check_and_no_escape_sequence() -> None:
    facts = {**WELL, "registry": {"check": "\033[2Jtorn"}}
    text = report.table(core.judge(facts, {}, CHECKS), colour=False)
    lines = [line for line in text.splitlines() if line.startswith(("  ok ", "  FAIL "))]
    assert len(lines) == len(CHECKS)
    assert "\033" not in text
    assert "restore .serai/registry.sqlite" in text
    assert text.endswith(f"{len(CHECKS) - 1} passed, 1 failed")


def test_a_part_that_is_not_there_is_absent() -> None:
    with pytest.raises(Absent, match="not looked at"):
        Facts({})["units"]


def test_the_page_lists_every_check() -> None:
    assert (DOCS / "doctor.md").read_text() == report.page(), "run: python3 -m serai.runtime.doctor"
