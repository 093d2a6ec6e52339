"""What a payload must be left with: no privileges, its own namespaces, the policy's limits."""

from __future__ import annotations

from serai.runtime.doctor.core import Facts, Finding, Section, none_of, same

privileges = Section("privileges", "status")
apart = Section("namespaces", "namespaces")
limits = Section("limits", "limits")

SETS = {"CapPrm": "permitted", "CapEff": "effective", "CapAmb": "ambient"}


@privileges(
    "a payload holds no capability",
    "A payload has a part of root's power, at least over its own sandbox.",
)
def _holds(facts: Facts) -> Finding:
    own = facts["status"]
    return none_of(
        (f"{SETS[key]} {own[key]}" for key in SETS if int(own[key], 16)), "three empty sets"
    )


@privileges(
    "a payload inherits no capability",
    "A program that a payload executes can get a part of root's power.",
)
def _inherits(facts: Facts) -> Finding:
    held = facts["status"]["CapInh"]
    return none_of([held] if int(held, 16) else [], "empty set")


@privileges(
    "no capability can come back",
    "A set-user-ID program or a user namespace could give a payload a part of root's power.",
)
def _bounded(facts: Facts) -> Finding:
    held = facts["status"]["CapBnd"]
    return none_of([held] if int(held, 16) else [], "empty bounding set")


@privileges(
    "a payload gains nothing by executing a program",
    "no-new-privs is not set: set-user-ID programs work, and filters can be lost.",
)
def _no_new(facts: Facts) -> Finding:
    return same(facts["status"]["NoNewPrivs"], "1", "no-new-privs")


@privileges(
    "a payload has both filters",
    "A system call filter is missing, with all that it refuses.",
)
def _filters(facts: Facts) -> Finding:
    own, bridge = facts["status"], facts["bridge"]
    # Where Serai runs in a container, that has filters of its own.
    count, less = int(own["Seccomp_filters"]), int(bridge["Seccomp_filters"])
    problems = [] if own["Seccomp"] == "2" else [f"Seccomp is {own['Seccomp']}"]
    if count - less != 1:
        problems.append(f"it has {count}, the bridge {less}")
    return Finding(problems, "one more than the bridge")


@privileges(
    "the bridge has the baseline filter",
    "What reaches the bridge, or what it runs, has all system calls.",
    part="bridge",
)
def _bridge(facts: Facts) -> Finding:
    bridge = facts["bridge"]
    return same((bridge["Seccomp"], int(bridge["Seccomp_filters"]) > 0), ("2", True), "it has")


@privileges(
    "a payload runs as its session's user",
    "A payload's files belong to somebody else, and so may somebody else's be open to it.",
)
def _user(facts: Facts) -> Finding:
    own, uid = facts["status"], facts["wanted"]["uid"]
    return same([*own["Uid"].split(), *own["Gid"].split()], [str(uid)] * 8, f"UID and GID {uid}")


@privileges(
    "a payload is in no other group",
    "Everything that such a group may reach is open to a payload.",
)
def _groups(facts: Facts) -> Finding:
    return none_of(facts["status"]["Groups"].split())


@privileges(
    "a payload's signals are as they should be",
    "Programs that rely on a signal, such as a broken pipe's, hang or cannot be stopped.",
)
def _signals(facts: Facts) -> Finding:
    own = facts["status"]
    odd = (f"{key} {own[key]}" for key in ("SigBlk", "SigIgn") if int(own[key], 16))
    return none_of(odd, "none is blocked or ignored")


@privileges(
    "a payload has three descriptors and no more",
    "A descriptor of the daemon's is a way past every wall to what it stands for.",
    part="process",
)
def _descriptors(facts: Facts) -> Finding:
    return same(facts["process"]["descriptors"], [0, 1, 2])


@privileges(
    "a payload's environment is its own",
    "Secrets of the daemon's leak to payloads, or programs miss the way to the gate.",
    part="process",
)
def _environment(facts: Facts) -> Finding:
    found, wanted = facts["process"]["environment"], facts["wanted"]["environment"]
    odd = [f"{name} is strange" for name in found.keys() - wanted.keys()]
    odd += [f"{name} is missing" for name in wanted.keys() - found.keys()]
    both = found.keys() & wanted.keys()
    odd += [f"{name} is {found[name]!r}" for name in both if found[name] != wanted[name]]
    return none_of(sorted(odd), f"{len(found)} variables")


@privileges(
    "a payload leads a session without a terminal",
    "A payload could be stopped by, or type into, a terminal that is not its own.",
    part="process",
)
def _leads(facts: Facts) -> Finding:
    seen = facts["process"]
    problems = [] if seen["leader"] else ["it leads none"]
    problems += [f"its terminal is {seen['terminal']}"] if seen["terminal"] else []
    return Finding(problems, "none")


@privileges(
    "a payload's files are not open to everybody to write",
    "Files that a payload makes can be changed by whoever gets at the home.",
    part="process",
)
def _umask(facts: Facts) -> Finding:
    return same(f"{facts['process']['umask']:03o}", "022")


@privileges(
    "a payload starts in its home",
    "Programs that write to where they are started fail.",
    part="process",
)
def _folder(facts: Facts) -> Finding:
    return same(facts["process"]["folder"], facts["wanted"]["home"])


@privileges(
    "a payload is killed for want of memory as its session is",
    "Where memory is short, the kernel would rather kill something of the VM's.",
    part="process",
)
def _oom(facts: Facts) -> Finding:
    session, payload = facts["process"]["oom"]
    return same(payload, session, f"oom_score_adj {payload}")


@privileges(
    "a sandbox knows no user but its own",
    "Files of users of the VM's could be made, or be taken for the payload's own.",
    part="process",
)
def _map(facts: Facts) -> Finding:
    # The second number is what it is in a namespace that bubblewrap may have made in between.
    first, _, count, *more = facts["process"]["uid_map"]
    uid = str(facts["wanted"]["uid"])
    return same([first, count, *more], [uid, "1"], f"UID {uid} alone")


KINDS = {
    "cgroup": "Where the session's cgroup lies tells of the VM and of other sessions.",
    "ipc": "Shared memory and queues of the VM's are open to payloads.",
    "mnt": "A payload sees the VM's whole file system.",
    "net": "A payload is in the VM's network: it gets out without asking the gate.",
    "pid": "A payload sees all processes of the VM, and may signal those of its UID.",
    "user": "A payload's capabilities, should it get any, would count for the whole VM.",
    "uts": "A payload sees the VM's name, and in a bad case changes it.",
}


def _add_namespace(kind: str, means: str) -> None:
    @apart(f"a payload has its own {kind} namespace", means)
    def _own(facts: Facts) -> Finding:
        found, vm = facts["namespaces"][kind], facts["wanted"]["namespaces"][kind]
        return Finding(["it is the VM's"] if found == vm else [], found)


for _kind, _means in KINDS.items():
    _add_namespace(_kind, _means)


# --- limits

LIMITS = {
    "NOFILE": ("open files", "One session can use up the kernel's open files."),
    "NPROC": ("processes of a user", "A fork bomb is not stopped by the second of two limits."),
    "STACK": ("the stack", "A program's stack can grow over other memory."),
    "MEMLOCK": ("locked memory", "A session can hold on to memory that others need."),
    "CORE": ("a core dump", "A crash starts a program of the VM's, or fills the disk."),
}


def _add_limit(key: str, what: str, means: str) -> None:
    @limits(f"the limit of {what} is the policy's", means)
    def _limit(facts: Facts) -> Finding:
        wanted = facts["wanted"]["limits"][key]
        return same(facts["limits"][key], [wanted, wanted], str(wanted))


for _key, (_what, _means) in LIMITS.items():
    _add_limit(_key, _what, _means)
