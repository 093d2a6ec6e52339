"""What sessions and payloads must be in the VM's eyes: limits, the way out, their life and end."""

from __future__ import annotations

import os

from serai.common import sizes
from serai.runtime.doctor.core import Absent, Facts, Finding, Section, none_of, same
from serai.runtime.doctor.tenant import KEPT

limits = Section("limits", "cgroup")
egress = Section("gate", "egress")
lifetime = Section("lifetime", "lifetime")

DENIED, OK = 403, 200
NOT_ALLOWED, CONNECTED = 2, 0  # RFC 1928, section 6
TIMED_OUT = 124
NOBODY = 65534
CONTROLLERS = ("cpu", "io", "memory", "pids")


@limits("sessions have all controllers", "Limits of sessions are not kept.")
def _controllers(facts: Facts) -> Finding:
    missing = [name for name in CONTROLLERS if name not in facts["cgroup"]["controllers"]]
    return Finding([f"no {name}" for name in missing], ", ".join(CONTROLLERS))


@limits(
    "a session can be frozen and killed as a whole",
    "Switching to another session does not stop the first; what is stopped may go on.",
)
def _freezer(facts: Facts) -> Finding:
    missing = [name for name, there in facts["cgroup"]["files"].items() if not there]
    return none_of((f"there is no {name}" for name in missing), "cgroup.freeze, cgroup.kill")


def _control(facts: Facts, name: str) -> str:
    found = facts["cgroup"]["limits"]
    if name not in found:
        raise Absent(f"{facts['cgroup']['unit']} has no {name}: is the controller enabled?")
    return str(found[name])


@limits("the limit of a session's memory is the policy's", "One session can use up all memory.")
def _memory(facts: Facts) -> Finding:
    found, text = _control(facts, "memory.max"), facts["policy"]["memory_max"]
    wanted = sizes.limit(text, os.sysconf("SC_PAGE_SIZE") * facts["policy"]["pages"])
    if wanted is None or found == "max":
        return same(found, "max" if wanted is None else wanted)
    # systemd and kernel round to pages.
    close = abs(int(found) - wanted) <= max(1 << 20, wanted // 100)
    return Finding([] if close else [f"it is {found}, not {wanted} ({text})"], f"{text}: {found}")


@limits("the limit of a session's tasks is the policy's", "A fork bomb hits the whole VM.")
def _tasks(facts: Facts) -> Finding:
    return same(_control(facts, "pids.max"), str(facts["policy"]["tasks_max"]))


@limits("a session's share of CPU is the policy's", "A busy session slows all others down.")
def _cpu(facts: Facts) -> Finding:
    return same(_control(facts, "cpu.weight"), str(facts["policy"]["cpu_weight"]))


@limits("a session's share of the disk is the policy's", "A busy session slows all others down.")
def _io(facts: Facts) -> Finding:
    found = _control(facts, "io.weight").removeprefix("default ")
    return same(found, str(facts["policy"]["io_weight"]))


@limits(
    "a payload has a cgroup of its own", "What a payload leaves behind cannot be found and ended."
)
def _own(facts: Facts) -> Finding:
    seen = facts["cgroup"]
    if not seen["payload"]:
        raise Absent("the payload ended at once")
    wrong = [path for path in seen["payload"] if not path.startswith(f"{seen['unit']}/")]
    return none_of((f"it is in {path}" for path in wrong), "below its session's")


# --- the gate, seen from inside


def _gate(facts: Facts, which: str) -> dict[str, object]:
    found = facts["egress"][which]
    if isinstance(found, str):
        raise Absent(found)
    return dict(found)


@egress(
    "the gate denies what no rule allows",
    "A session reaches what nobody allowed it, or the gate is not there at all.",
)
def _denied(facts: Facts) -> Finding:
    found = _gate(facts, "denied")
    return same((found["http"], found["socks"]), (DENIED, NOT_ALLOWED), "HTTP 403, SOCKS 2")


@egress("a denial says what to do", "An agent takes policy for an outage and tries on and on.")
def _words(facts: Facts) -> Finding:
    told = str(_gate(facts, "denied")["text"])
    wanted = f"serai policy allow {facts['wanted']['name']}"
    return Finding([] if wanted in told else [f"it says {told[:80]!r}"], wanted)


@egress("the gate carries what a rule allows", "Rules do nothing: sessions have no way out.")
def _carries(facts: Facts) -> Finding:
    found = _gate(facts, "allowed")
    answer = (found["http"], found["text"], found["socks"])
    return same(answer, (OK, "origin", CONNECTED), "HTTP 200, SOCKS 0")


@egress("the gate explains as it decides", "'serai policy explain' cannot be relied on.")
def _explains(facts: Facts) -> Finding:
    return same(facts["egress"]["explained"], False, "denied without a rule")


@egress("every decision is in the audit log", "What sessions reached cannot be found out later.")
def _decisions(facts: Facts) -> Finding:
    return same(facts["egress"]["decisions"], [False, False, True, True], "four of four")


# --- life and end


@lifetime("a home is its session's alone", "Other users of the VM can read or change it.", "home")
def _home(facts: Facts) -> Finding:
    seen, uid = facts["home"], facts["wanted"]["uid"]
    found = (f"{seen['mode']:04o}", *seen["owner"])
    return same(found, ("0700", uid, uid), "mode 0700")


@lifetime("two sessions have two users", "Sessions can get at each other's files.", "home")
def _users(facts: Facts) -> Finding:
    one, two = facts["home"]["uids"]
    return Finding([] if one < two else [f"they are {one} and {two}"], f"{one} and {two}")


@lifetime("a payload's status is told", "Failed commands look as if they had worked.", "payloads")
def _status(facts: Facts) -> Finding:
    return same(facts["payloads"]["status"], 7)


@lifetime(
    "nothing outlives a payload", "Processes pile up in a session that nobody started.", "payloads"
)
def _left(facts: Facts) -> Finding:
    left = facts["payloads"]["left"]
    return Finding([f"{left} processes are left"] if left else [], "nothing left")


@lifetime("a payload ends when its time is up", "Payloads that hang go on for ever.", "payloads")
def _timed(facts: Facts) -> Finding:
    seen = facts["payloads"]
    problems = [] if seen["timed_out"] == TIMED_OUT else [f"status {seen['timed_out']}"]
    problems += [f"{seen['left_in_time']} processes are left"] if seen["left_in_time"] else []
    return Finding(problems, "status 124")


@lifetime(
    "a payload ends when its client hangs up", "Payloads go on that nobody waits for.", "payloads"
)
def _hung_up(facts: Facts) -> Finding:
    left = facts["payloads"]["left_by_hang_up"]
    return Finding([f"{left} processes are left"] if left else [], "nothing left")


@lifetime("a detached payload goes on", "Work in the background is lost.", "payloads")
def _detached(facts: Facts) -> Finding:
    return same(facts["payloads"]["detached"], 1, "it runs")


@lifetime("stopping a session ends all of it", "What runs in a stopped session cannot be seen.")
def _stopped(facts: Facts) -> Finding:
    seen = facts["lifetime"]
    problems = [] if seen["stopped"] == "stopped" else [f"it is {seen['stopped']}"]
    problems += [f"{seen['processes']} processes are left"] if seen["processes"] else []
    return Finding(problems, "no process")


@lifetime("a stopped session has no cgroup", "Cgroups pile up until no session can be started.")
def _cgroup(facts: Facts) -> Finding:
    return Finding(["it is left"] if facts["lifetime"]["cgroup"] else [], "gone")


@lifetime("a stopped session has no way out", "Somebody else could use its sockets.")
def _published(facts: Facts) -> Finding:
    return none_of(facts["lifetime"]["published"], "its sockets are gone")


@lifetime("an archived home is locked", "An archived session's files can be read by its old user.")
def _locked(facts: Facts) -> Finding:
    mode, owner = facts["lifetime"]["locked"]
    return same((f"{mode:04o}", owner), ("0000", NOBODY), "nobody's, mode 0000")


@lifetime("a reopened session has its files", "Data is lost by archiving.")
def _kept(facts: Facts) -> Finding:
    seen = facts["lifetime"]
    return same((seen["reopened"], seen["kept"]), ("ready", KEPT), "its file")


@lifetime("a removed session is gone", "Removed sessions' data stays on the disk.")
def _removed(facts: Facts) -> Finding:
    seen = facts["lifetime"]
    problems = [f"{path} is left" for path in seen["removed"]]
    problems += [f"sessiond still knows {name}" for name in seen["known"]]
    problems += [f"{seen['ended']} processes are left"] if seen["ended"] else []
    return Finding(problems, "no home, no process")


@lifetime("a removed session's user is gone", "Users of sessions that are gone can still log in.")
def _no_user(facts: Facts) -> Finding:
    return none_of(facts["lifetime"]["users"], "gone")
