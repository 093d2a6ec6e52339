"""The doctor's checks of the VM: green on a well one, and red, alone, where one fact is broken."""

from __future__ import annotations

import copy
from errno import ENOSYS
from typing import Any

import pytest

from serai.common.checks import Facts, judge
from serai.runtime.doctor import installation, system, tenant
from serai.runtime.doctor.checks import CHECKS as ALL
from tests.support.well_vm import CHECKS, NOW, WELL

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
    ("units/failed", ["serai-session@x.service"], "no Serai unit has failed"),
    (
        "units/units/serai-gate.service/NRestarts",
        "9",
        "no Serai service is in a restart loop",
    ),
    (
        "installed/different",
        ["/usr/bin/serai differs"],
        "the installed files belong to this version",
    ),
    ("installed/drop_in", False, "sessions' units have the limits of the settings"),
    (
        "sockets/control",
        ["0666", "root", "serai"],
        "only root and the group serai can use the control socket",
    ),
    (
        "sockets/gate",
        ["0660", "serai-gate"],
        "only the gate and root can use the gate's control socket",
    ),
    ("sessiond", "cannot reach sessiond", "sessiond answers, no operation on a session is stuck"),
    ("sessiond/stuck", ["x: creating"], "no operation on a session is stuck"),
    ("filters/baseline", "another one", "the filter baseline is what the generator makes"),
    ("filters/unix-block", "no such file", "the filter unix-block is what the generator makes"),
    ("users/nsswitch/passwd", " files", "the system looks up sessions' users (nsswitch)"),
    ("users/link", "/var/lib/extrausers", "sessions' users are where the system looks"),
    ("users/listed", ["blue", "red"], "sessions' users are the registry's"),
    ("users/unknown", ["blue"], "the system finds a session's user"),
    ("users/clashes", ["ubuntu has 2000"], "no session's UID is another user's"),
    ("users/gate", [998, "/bin/bash"], "the gate has a user of its own"),
    ("users/members", ["blue"], "no session is in the group serai"),
    ("users/bridge", ["blue"], "nobody is in the group serai-bridge"),
    ("disks/mounted", False, "/sessions is a disk of its own"),
    ("disks/kind", "tmpfs", "/sessions is ext4"),
    ("disks/options", ["rw", "nodev"], "/sessions is mounted nosuid"),
    ("disks/options", ["rw", "nosuid"], "/sessions is mounted nodev"),
    ("disks/options", ["ro", "nosuid", "nodev"], "/sessions is mounted rw"),
    ("disks/top", ["0755", 0, 0], "/sessions lists no session"),
    ("disks/state", ["0755", 0, 0], "Serai's own directory is root's alone"),
    ("disks/audit", ["0700", 0, 0], "only the gate can enter the audit log's directory"),
    ("disks/free/sessions", 3.0, "there is room on the disk of sessions"),
    ("disks/free/sessions files", 3.0, "there is room for files on the disk of sessions"),
    ("disks/free/root", 3.0, "there is room on the root disk"),
    ("disks/free/run", 3.0, "there is room in /run"),
    ("registry/check", "row 3 missing from index", "the registry is whole"),
    ("settings/session", "unknown key", "the settings of sessions can be read"),
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
    ("kernel/landlock", 1, "payloads cannot trace other processes"),
    ("kernel/user_namespaces/user.max_user_namespaces", "0", "users can make user namespaces"),
    (
        "kernel/user_namespaces/kernel.unprivileged_userns_clone",
        "0",
        "users can make user namespaces",
    ),
    ("kernel/seccomp", "errno allow", "the kernel has seccomp filters"),
    ("kernel/cgroup", "tmpfs", "the system uses cgroup v2"),
    ("cgroup/controllers", ["cpu", "io", "pids"], "sessions have all controllers"),
    ("cgroup/files/cgroup.kill", False, "a session can be frozen and killed as a whole"),
    ("kernel/swaps", ["/dev/vda2"], "swap is off"),
    ("kernel/bwrap", 0o4755, "bubblewrap is not setuid and has no capabilities"),
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
    ("cgroup/limits/memory.max", "max", "the limit of a session's memory is session.toml's"),
    ("cgroup/limits/pids.max", "max", "the limit of a session's tasks is session.toml's"),
    ("cgroup/limits/cpu.weight", "10000", "a session's share of CPU is session.toml's"),
    ("cgroup/limits/io.weight", "default 10", "a session's share of the disk is session.toml's"),
    ("cgroup/payload", ["/sys/fs/cgroup/x"], "a payload has a cgroup of its own"),
    ("home/mode", 0o755, "only its own session can enter a home"),
    ("home/uids", [2000, 2000], "every session has its own user"),
    ("egress/denied/http", 200, "the gate denies what no rule allows"),
    ("egress/denied/text", "no", "a denial says what to do"),
    ("egress/allowed/socks", 2, "the gate carries what a rule allows"),
    ("egress/explained", True, "the gate explains as it decides"),
    ("egress/decisions", [False], "every decision is in the audit log"),
    ("payloads/status", 0, "a payload's exit status is reported"),
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
    return {each.check.name for each in judge(Facts(facts), {}, CHECKS) if not each.ok}


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


@pytest.mark.parametrize("part", sorted({check.part for check in ALL}))
def test_what_could_not_be_collected_is_red_and_says_why(part: str) -> None:
    results = judge(Facts({part: "the reason why"}), {part: 1.5}, ALL)
    mine = [each for each in results if each.check.part == part]
    assert mine
    assert not any(each.ok for each in mine)
    assert all(each.detail.startswith("not seen: ") for each in mine)
    assert {each.seconds for each in mine} == {1.5}


@pytest.mark.parametrize("value", [{}, [], None, 3, {"units": 7}])
def test_facts_of_any_shape_are_judged(value: object) -> None:
    for check in ALL:
        facts = dict.fromkeys({each.part for each in ALL}, value)
        assert judge(Facts({**facts, "wanted": value}), {}, [check])[0].detail


def test_there_are_enough_checks_and_each_says_what_it_means() -> None:
    names = [check.name for check in ALL]
    assert len(names) == len(set(names)) >= 80
    inside = [check for check in ALL if check.part in tenant.PARTS]
    assert len(inside) >= 80
    assert [check.name for check in ALL if not check.means.endswith(".")] == []
