"""What a payload and a session may use at most: session.toml's limits, as they are in force."""

from __future__ import annotations

import os
from functools import partial

from serai.common import sizes
from serai.common.checks import Absent, Check, Facts, Finding, none_of, same, section

LIMITS = {
    "NOFILE": ("open files", "One session can use up the kernel's open files."),
    "NPROC": ("processes of a user", "A fork bomb is not stopped by the second of two limits."),
    "STACK": ("the stack", "A program's stack can grow over other memory."),
    "MEMLOCK": ("locked memory", "A session can hold on to memory that others need."),
    "CORE": ("a core dump", "A crash starts a program of the VM's, or fills the disk."),
}
CONTROLLERS = ("cpu", "io", "memory", "pids")


def _controllers(facts: Facts) -> Finding:
    missing = [name for name in CONTROLLERS if name not in facts["cgroup"]["controllers"]]
    return Finding([f"no {name}" for name in missing], ", ".join(CONTROLLERS))


def _freezer(facts: Facts) -> Finding:
    missing = [name for name, there in facts["cgroup"]["files"].items() if not there]
    return none_of((f"there is no {name}" for name in missing), "cgroup.freeze, cgroup.kill")


def _control(facts: Facts, name: str) -> str:
    found = facts["cgroup"]["limits"]
    if name not in found:
        raise Absent(f"{facts['cgroup']['unit']} has no {name}: is the controller enabled?")
    return str(found[name])


def _memory(facts: Facts) -> Finding:
    found, text = _control(facts, "memory.max"), facts["resources"]["memory_max"]
    wanted = sizes.limit(text, os.sysconf("SC_PAGE_SIZE") * facts["resources"]["pages"])
    if wanted is None or found == "max":
        return same(found, "max" if wanted is None else wanted)
    # systemd and kernel round to pages.
    close = abs(int(found) - wanted) <= max(1 << 20, wanted // 100)
    return Finding([] if close else [f"it is {found}, not {wanted} ({text})"], f"{text}: {found}")


def _io(facts: Facts) -> Finding:
    found = _control(facts, "io.weight").removeprefix("default ")
    return same(found, str(facts["resources"]["io_weight"]))


def _own(facts: Facts) -> Finding:
    seen = facts["cgroup"]
    if not seen["payload"]:
        raise Absent("the payload ended at once")
    wrong = [path for path in seen["payload"] if not path.startswith(f"{seen['unit']}/")]
    return none_of((f"it is in {path}" for path in wrong), "below its session's")


def _limit(key: str, facts: Facts) -> Finding:
    wanted = facts["wanted"]["limits"][key]
    return same(facts["limits"][key], [wanted, wanted], str(wanted))


CHECKS: tuple[Check[Facts], ...] = (
    *section(
        "limits",
        "limits",
        *(
            (f"the limit of {what} is session.toml's", partial(_limit, key), means)
            for key, (what, means) in LIMITS.items()
        ),
    ),
    *section(
        "limits",
        "cgroup",
        ("sessions have all controllers", _controllers, "Limits of sessions are not kept."),
        (
            "a session can be frozen and killed as a whole",
            _freezer,
            "Switching to another session does not stop the first; what is stopped may go on.",
        ),
        (
            "the limit of a session's memory is session.toml's",
            _memory,
            "One session can use up all memory.",
        ),
        (
            "the limit of a session's tasks is session.toml's",
            lambda facts: same(_control(facts, "pids.max"), str(facts["resources"]["tasks_max"])),
            "A fork bomb hits the whole VM.",
        ),
        (
            "a session's share of CPU is session.toml's",
            lambda facts: same(
                _control(facts, "cpu.weight"), str(facts["resources"]["cpu_weight"])
            ),
            "A busy session slows all others down.",
        ),
        (
            "a session's share of the disk is session.toml's",
            _io,
            "A busy session slows all others down.",
        ),
        (
            "a payload has a cgroup of its own",
            _own,
            "The processes that a payload leaves behind cannot be found and ended.",
        ),
    ),
)
