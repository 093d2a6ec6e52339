"""Sessions work in the image, and keep to themselves."""

from __future__ import annotations

from serai.common import bridge
from serai.image.verify.checks.core import Absent, Finding, check, the
from serai.image.verify.facts import Evidence

MOST_FROZEN = 1000  # microseconds: what the kernel accounts late
LEAST_BUSY = 100_000
LEAST_RATIO = 3  # of ten: groups are balanced over the CPUs now and then only
KILLED = 137
LEAST_DOCTORED = 80
QUOTA, OWNER = 8 << 20, 4242  # as in exercise.py, which runs elsewhere
OK, DENIED = 200, 403
OWN_SOCKETS = list(bridge.SOCKETS.values())


@check("a payload has no capability, and both filters", "runtime")
def _confined(evidence: Evidence) -> Finding:
    seen = the(evidence.runtime)
    problems = [f"capabilities {each}" for each in seen.capabilities if int(each, 16)]
    if seen.no_new_privileges != "1":
        problems.append("it may gain privileges")
    if seen.seccomp != "2" or seen.filters < 2:  # noqa: PLR2004  # baseline and unix-block
        problems.append(f"Seccomp {seen.seccomp}, {seen.filters} filters")
    return Finding(problems, f"five empty sets, {seen.filters} filters")


@check("a sandbox holds the bridge and the payload, and nothing else", "runtime")
def _tree(evidence: Evidence) -> Finding:
    tree = the(evidence.runtime).tree
    wanted = ["1 0 bwrap", "2 1 bash", "2 socat", "2 socat", "ps"]
    alike = len(tree) == len(wanted) and all(
        row.endswith(end) for row, end in zip(tree, wanted, strict=True)
    )
    return Finding([] if alike else [f"it holds {', '.join(tree)}"], "bwrap, bash, two socat")


@check("a session reaches no other session's files", "runtime")
def _apart(evidence: Evidence) -> Finding:
    seen = the(evidence.runtime)
    if seen.own != "secret":
        raise Absent("the other session cannot read its own file either")
    problems = [f"it reads {seen.reached!r}"] if "secret" in seen.reached else []
    if seen.sessions != "rogue":
        problems.append(f"it sees {seen.sessions!r} below /sessions")
    return Finding(problems, "only its own home is there")


@check("a session has no way out past the gate", "runtime")
def _closed(evidence: Evidence) -> Finding:
    seen = the(evidence.runtime)
    tcp, udp, lookup = seen.past_gate
    problems = [f"TCP: {tcp}"] if tcp != "ENETUNREACH" else []
    problems += [f"UDP: {udp}"] if udp != "ENETUNREACH" else []
    problems += ["a name is resolved"] if lookup == "it works" else []
    if seen.sockets != OWN_SOCKETS:
        problems.append(f"it sees {', '.join(seen.sockets) or 'no socket'}")
    return Finding(problems, "no route, no DNS, two sockets of its own")


@check("the gate denies what no rule allows, in words, and notes it down", "runtime")
def _gate(evidence: Evidence) -> Finding:
    seen = the(evidence.runtime)
    problems = [f"without a rule: status {seen.denied}"] if seen.denied != DENIED else []
    if "serai policy allow witness" not in seen.denial:
        problems.append("it does not say what to ask for")
    if (seen.allowed, seen.origin) != (OK, "origin"):
        problems.append(f"with a rule: status {seen.allowed}, {seen.origin!r}")
    if seen.decisions != [False, True]:
        problems.append(f"the audit log has {seen.decisions}")
    if not seen.audit_whole:
        problems.append("the audit log is not whole")
    return Finding(problems, "denied, allowed by a rule, both noted down")


@check("a full session gets EDQUOT, and another one still writes", "runtime")
def _full(evidence: Evidence) -> Finding:
    seen = the(evidence.runtime)
    problems = [] if seen.quota == QUOTA else [f"the quota is {seen.quota} bytes, not {QUOTA}"]
    if seen.full != "EDQUOT":
        problems.append(f"writing more than its quota: {seen.full}")
    if seen.while_full != "well":
        problems.append("another session cannot write")
    return Finding(problems, f"EDQUOT at {QUOTA >> 20} MiB")


@check("a folder of the machine's disk is the session's inside, its owner's outside", "runtime")
def _attached(evidence: Evidence) -> Finding:
    seen = the(evidence.runtime)
    problems = [] if seen.mount == "idmap" else [f"it is attached by {seen.mount}"]
    if seen.inside_owners != ["rogue", "rogue"]:
        problems.append(f"inside its files are {' and '.join(seen.inside_owners) or 'nobody'}'s")
    if seen.outside_owner != OWNER:
        problems.append(f"outside, what was made belongs to {seen.outside_owner}")
    return Finding(problems, f"by idmap, in {1000 * seen.attached:.0f} ms")


@check("the session switched away from is frozen and uses no CPU", "runtime")
def _frozen(evidence: Evidence) -> Finding:
    seen = the(evidence.runtime)
    if seen.busy_usec < LEAST_BUSY:
        raise Absent("it was not busy before either")
    problems = [] if seen.frozen == "frozen" else [f"it is {seen.frozen}"]
    if seen.frozen_usec > MOST_FROZEN:
        problems.append(f"it used {seen.frozen_usec} microseconds of a second")
    return Finding(problems, f"thawed in {1000 * seen.thawed:.0f} ms")


@check("a session has the policy's CPU weight", "runtime")
def _weight(evidence: Evidence) -> Finding:
    seen = the(evidence.runtime)
    wrong = [found for found in seen.weights if found != seen.policy_weight]
    if not seen.weights:
        raise Absent("no session's weight was read")
    problems = [f"cpu.weight is {found}, not {seen.policy_weight}" for found in wrong]
    return Finding(problems, f"cpu.weight {seen.policy_weight}")


@check("where sessions compete, a light one gets less CPU, and all answer", "runtime")
def _shared(evidence: Evidence) -> Finding:
    seen = the(evidence.runtime)
    light, heavy = seen.light_usec, seen.heavy_usec
    if light <= 0 or light + heavy < LEAST_BUSY:
        raise Absent(f"they did not compete: {light} and {heavy} microseconds")
    told = f"{heavy / 1e6:.1f} s to {light / 1e6:.1f} s of CPU"
    problems = [] if heavy >= LEAST_RATIO * light else [f"ten times the weight got {told}"]
    if seen.busy_answer != "well":
        problems.append("the busy session does not answer")
    if set(seen.busy_sessions) != {"rogue", "witness"}:
        problems.append(f"sessiond tells of {seen.busy_sessions} only")
    return Finding(problems, f"{told}, answers in {seen.busy_seconds:.1f} s")


@check("a memory hog ends in its own session alone", "runtime")
def _hog(evidence: Evidence) -> Finding:
    seen = the(evidence.runtime)
    problems = [] if seen.hog in (-1, KILLED) else [f"it went on (status {seen.hog})"]
    if seen.after_hog != "well":
        problems.append("another session does not answer")
    return Finding(problems, "it was killed")


@check("a fork bomb ends in its own session alone", "runtime")
def _bomb(evidence: Evidence) -> Finding:
    seen = the(evidence.runtime)
    problems = [] if seen.bomb_refused else ["no limit stopped it"]
    if seen.after_bomb != "well":
        problems.append("another session does not answer")
    if seen.processes_left:
        problems.append(f"{seen.processes_left} processes are left of it")
    return Finding(problems, f"{seen.bomb_refused} forks were refused")


@check("an archived session is locked, and comes back with its files", "runtime")
def _archived(evidence: Evidence) -> Finding:
    seen = the(evidence.runtime)
    problems = [f"archived, its mode is {seen.archived_mode:04o}"] if seen.archived_mode else []
    if seen.kept != "kept":
        problems.append(f"its file holds {seen.kept!r}")
    return Finding(problems, "mode 0000")


@check("a removed session is gone, and sessiond went through all of it", "runtime")
def _removed(evidence: Evidence) -> Finding:
    seen = the(evidence.runtime)
    problems = [f"{name} is left" for name in seen.sessions_left]
    if not seen.same_daemon:
        problems.append("sessiond is not the same process any more")
    return Finding(problems, f"created in {1000 * seen.created:.0f} ms each")


@check("serai doctor finds nothing wrong", "runtime")
def _doctor(evidence: Evidence) -> Finding:
    seen = the(evidence.runtime)
    problems = list(seen.doctor_failed)
    if seen.doctor_passed + len(problems) < LEAST_DOCTORED:
        problems.append(f"it made {seen.doctor_passed + len(problems)} checks only")
    return Finding(problems, f"{seen.doctor_passed} checks")
