"""How sessions and payloads live and end, in the VM's eyes."""

from __future__ import annotations

from functools import partial

from serai.common.checks import Check, Facts, Finding, none_of, problem, same, section

KEPT = "kept by the doctor"
TIMED_OUT = 124


def _home(facts: Facts) -> Finding:
    seen, uid = facts["home"], facts["wanted"]["uid"]
    found = (f"{seen['mode']:04o}", *seen["owner"])
    return same(found, ("0700", uid, uid), "mode 0700")


def _users(facts: Facts) -> Finding:
    one, two = facts["home"]["uids"]
    return Finding([] if one < two else [f"they are {one} and {two}"], f"{one} and {two}")


def _left(when: str, facts: Facts) -> Finding:
    left = facts["payloads"][when]
    return problem(f"{left} processes are left" if left else "", "nothing left")


def _timed(facts: Facts) -> Finding:
    seen = facts["payloads"]
    problems = [] if seen["timed_out"] == TIMED_OUT else [f"status {seen['timed_out']}"]
    problems += [f"{seen['left_in_time']} processes are left"] if seen["left_in_time"] else []
    return Finding(problems, "status 124")


def _stopped(facts: Facts) -> Finding:
    seen = facts["lifetime"]
    problems = [] if seen["stopped"] == "stopped" else [f"it is {seen['stopped']}"]
    problems += [f"{seen['processes']} processes are left"] if seen["processes"] else []
    return Finding(problems, "no process")


def _locked(facts: Facts) -> Finding:
    mode, owner = facts["lifetime"]["locked"]
    return same((f"{mode:04o}", owner), ("0000", 0), "root's, mode 0000")


def _kept(facts: Facts) -> Finding:
    seen = facts["lifetime"]
    return same((seen["reopened"], seen["kept"]), ("ready", KEPT), "its file")


def _removed(facts: Facts) -> Finding:
    seen = facts["lifetime"]
    problems = [f"{path} is left" for path in seen["removed"]]
    problems += [f"sessiond still knows {name}" for name in seen["known"]]
    problems += [f"{seen['ended']} processes are left"] if seen["ended"] else []
    return Finding(problems, "no home, no process")


CHECKS: tuple[Check[Facts], ...] = (
    *section(
        "lifetime",
        "home",
        (
            "only its own session can enter a home",
            _home,
            "Other users of the VM can read or change it.",
        ),
        ("every session has its own user", _users, "Sessions can get at each other's files."),
    ),
    *section(
        "lifetime",
        "payloads",
        (
            "a payload's exit status is reported",
            lambda facts: same(facts["payloads"]["status"], 7),
            "Failed commands look as if they had worked.",
        ),
        (
            "nothing outlives a payload",
            partial(_left, "left"),
            "Processes pile up in a session that nobody started.",
        ),
        ("a payload ends when its time is up", _timed, "Payloads that hang go on for ever."),
        (
            "a payload ends when its client hangs up",
            partial(_left, "left_by_hang_up"),
            "Payloads without a client keep running.",
        ),
        (
            "a detached payload goes on",
            lambda facts: same(facts["payloads"]["detached"], 1, "it runs"),
            "Work in the background is lost.",
        ),
    ),
    *section(
        "lifetime",
        "lifetime",
        (
            "stopping a session ends all of it",
            _stopped,
            "Processes of a stopped session run unseen.",
        ),
        (
            "a stopped session has no cgroup",
            lambda facts: problem("it is left" if facts["lifetime"]["cgroup"] else "", "gone"),
            "Cgroups pile up until no session can be started.",
        ),
        (
            "a stopped session has no way out",
            lambda facts: none_of(facts["lifetime"]["published"], "its sockets are gone"),
            "Another user could use its sockets.",
        ),
        (
            "an archived home is locked",
            _locked,
            "An archived session's files can be read by its old user.",
        ),
        ("a reopened session has its files", _kept, "Data is lost by archiving."),
        ("a removed session is gone", _removed, "Removed sessions' data stays on the disk."),
        (
            "a removed session's user is gone",
            lambda facts: none_of(facts["lifetime"]["users"], "gone"),
            "Users of sessions that are gone can still log in.",
        ),
    ),
)
