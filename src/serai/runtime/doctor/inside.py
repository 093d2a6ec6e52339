"""What a payload must be left with: no privileges, and its own namespaces."""

from __future__ import annotations

from functools import partial

from serai.common.checks import Check, Facts, Finding, none_of, problem, same, section
from serai.runtime.sandbox.enter import FILTERS

SETS = {"CapPrm": "permitted", "CapEff": "effective", "CapAmb": "ambient"}


def _holds(facts: Facts) -> Finding:
    own = facts["status"]
    return none_of(
        (f"{SETS[key]} {own[key]}" for key in SETS if int(own[key], 16)), "three empty sets"
    )


def _empty(key: str, found: str, facts: Facts) -> Finding:
    held = facts["status"][key]
    return problem(held if int(held, 16) else "", found)


def _filters(facts: Facts) -> Finding:
    own, bridge = facts["status"], facts["bridge"]
    # Where Serai runs in a container, that has filters of its own.
    count, less = int(own["Seccomp_filters"]), int(bridge["Seccomp_filters"])
    problems = [] if own["Seccomp"] == "2" else [f"Seccomp is {own['Seccomp']}"]
    filters = FILTERS[facts["wanted"]["sandbox"]]
    # The bridge has the first of them.
    if count - less != len(filters) - 1:
        problems.append(f"it has {count}, the bridge {less}")
    return Finding(problems, " and ".join(filters))


def _bridge(facts: Facts) -> Finding:
    bridge = facts["bridge"]
    return same((bridge["Seccomp"], int(bridge["Seccomp_filters"]) > 0), ("2", True), "it has")


def _user(facts: Facts) -> Finding:
    own, uid = facts["status"], facts["wanted"]["uid"]
    return same([*own["Uid"].split(), *own["Gid"].split()], [str(uid)] * 8, f"UID and GID {uid}")


def _signals(facts: Facts) -> Finding:
    own = facts["status"]
    odd = (f"{key} {own[key]}" for key in ("SigBlk", "SigIgn") if int(own[key], 16))
    return none_of(odd, "none is blocked or ignored")


def _environment(facts: Facts) -> Finding:
    found, wanted = facts["process"]["environment"], facts["wanted"]["environment"]
    odd = [f"{name} is strange" for name in found.keys() - wanted.keys()]
    odd += [f"{name} is missing" for name in wanted.keys() - found.keys()]
    both = found.keys() & wanted.keys()
    odd += [f"{name} is {found[name]!r}" for name in both if found[name] != wanted[name]]
    return none_of(sorted(odd), f"{len(found)} variables")


def _leads(facts: Facts) -> Finding:
    seen = facts["process"]
    problems = [] if seen["leader"] else ["it leads none"]
    problems += [f"its terminal is {seen['terminal']}"] if seen["terminal"] else []
    return Finding(problems, "none")


def _oom(facts: Facts) -> Finding:
    *session, payload = facts["process"]["oom"]
    return same([payload], session, f"oom_score_adj {payload}")


def _map(facts: Facts) -> Finding:
    # The second number is what it is in a namespace that bubblewrap may have made in between.
    first, _, count, *more = facts["process"]["uid_map"]
    uid = str(facts["wanted"]["uid"])
    return same([first, count, *more], [uid, "1"], f"UID {uid} alone")


def _namespace(kind: str, facts: Facts) -> Finding:
    found, vm = facts["namespaces"][kind], facts["wanted"]["namespaces"][kind]
    return problem("it is the VM's" if found == vm else "", found)


KINDS = {
    "cgroup": "The cgroup's path discloses other sessions.",
    "ipc": "Shared memory and queues of the VM's are open to payloads.",
    "mnt": "A payload sees the VM's whole file system.",
    "net": "A payload is in the VM's network: it gets out without asking the gate.",
    "pid": "A payload sees all processes of the VM, and may signal those of its UID.",
    "user": "A payload's capabilities, should it get any, would count for the whole VM.",
    "uts": "A payload can read, or even change, the VM's host name.",
}


CHECKS: tuple[Check[Facts], ...] = (
    *section(
        "privileges",
        "status",
        (
            "a payload holds no capability",
            _holds,
            "A payload has a part of root's power, at least over its own sandbox.",
        ),
        (
            "a payload inherits no capability",
            partial(_empty, "CapInh", "empty set"),
            "A program that a payload executes can get a part of root's power.",
        ),
        (
            "no capability can come back",
            partial(_empty, "CapBnd", "empty bounding set"),
            "A set-user-ID program or a user namespace could give a payload part of root's power.",
        ),
        (
            "a payload gains nothing by executing a program",
            lambda facts: same(facts["status"]["NoNewPrivs"], "1", "no-new-privs"),
            "no-new-privs is not set: set-user-ID programs work, and filters can be lost.",
        ),
        (
            "a payload has its sandbox's filters",
            _filters,
            "A system call filter is missing, with all that it refuses.",
        ),
        (
            "a payload runs as its session's user",
            _user,
            "A payload's files belong to another user, whose files may be open to it.",
        ),
        (
            "a payload is in no other group",
            lambda facts: none_of(facts["status"]["Groups"].split()),
            "Everything that such a group may reach is open to a payload.",
        ),
        (
            "a payload's signals have their defaults",
            _signals,
            "Programs that rely on a signal, such as a broken pipe's, hang or cannot be stopped.",
        ),
    ),
    *section(
        "privileges",
        "bridge",
        (
            "the bridge has the baseline filter",
            _bridge,
            "An attacker of the bridge has all system calls.",
        ),
    ),
    *section(
        "privileges",
        "process",
        (
            "a payload has three descriptors and no more",
            lambda facts: same(facts["process"]["descriptors"], [0, 1, 2]),
            "A leaked descriptor of the daemon gives access past every wall.",
        ),
        (
            "a payload's environment is its own",
            _environment,
            "Secrets of the daemon's leak to payloads, or programs miss the way to the gate.",
        ),
        (
            "a payload leads a session without a terminal",
            _leads,
            "A payload could be stopped by, or type into, a terminal that is not its own.",
        ),
        (
            "a payload's new files are not world-writable",
            lambda facts: same(f"{facts['process']['umask']:03o}", "022"),
            "Files that a payload makes can be changed by every user who reaches the home.",
        ),
        (
            "a payload starts in its home",
            lambda facts: same(facts["process"]["folder"], facts["wanted"]["home"]),
            "Programs that write to where they are started fail.",
        ),
        (
            "payloads have the session's OOM score",
            _oom,
            "When memory is short, the kernel might kill a VM service first.",
        ),
        (
            "a sandbox knows only its own user",
            _map,
            "Files of users of the VM's could be made, or be taken for the payload's own.",
        ),
    ),
    *section(
        "namespaces",
        "namespaces",
        *(
            (f"a payload has its own {kind} namespace", partial(_namespace, kind), means)
            for kind, means in KINDS.items()
        ),
    ),
)
