"""Sessions work in the image, and one that misbehaves harms no other.

Whether a session is contained is for ``serai doctor`` to say, which is run in the image.
"""

from __future__ import annotations

from serai.common.checks import Absent, Check, Finding, the
from serai.image.verify.facts import Evidence

MOST_FROZEN = 1000  # microseconds: what the kernel accounts late
LEAST_BUSY = 100_000
LEAST_RATIO = 3  # of ten: groups are balanced over the CPUs now and then only
KILLED = 137
LEAST_DOCTORED = 180  # an image that leaves most of the checks out proves nothing
QUOTA, OWNER = 8 << 20, 4242  # as in exercise.py, which runs elsewhere


def _full(evidence: Evidence) -> Finding:
    seen = the(evidence.exercise)
    problems = [] if seen.quota == QUOTA else [f"the quota is {seen.quota} bytes, not {QUOTA}"]
    if seen.full != "EDQUOT":
        problems.append(f"writing more than its quota: {seen.full}")
    if seen.while_full != "well":
        problems.append("another session cannot write")
    return Finding(problems, f"EDQUOT at {QUOTA >> 20} MiB")


def _attached(evidence: Evidence) -> Finding:
    seen = the(evidence.exercise)
    problems = [] if seen.mount == "idmap" else [f"it is attached by {seen.mount}"]
    if seen.inside_owners != ["rogue", "rogue"]:
        problems.append(f"inside its files are {' and '.join(seen.inside_owners) or 'nobody'}'s")
    if seen.outside_owner != OWNER:
        problems.append(f"outside, what was made belongs to {seen.outside_owner}")
    return Finding(problems, f"by idmap, in {1000 * seen.attached:.0f} ms")


def _frozen(evidence: Evidence) -> Finding:
    seen = the(evidence.exercise)
    if seen.busy_usec < LEAST_BUSY:
        raise Absent("it was not busy before either")
    problems = [] if seen.frozen == "frozen" else [f"it is {seen.frozen}"]
    if seen.frozen_usec > MOST_FROZEN:
        problems.append(f"it used {seen.frozen_usec} microseconds of a second")
    return Finding(problems, f"thawed in {1000 * seen.thawed:.0f} ms")


def _shared(evidence: Evidence) -> Finding:
    seen = the(evidence.exercise)
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


def _hog(evidence: Evidence) -> Finding:
    seen = the(evidence.exercise)
    problems = [] if seen.hog == KILLED else [f"it was not killed (status {seen.hog})"]
    if not seen.hog_told:
        problems.append("its caller does not learn why")
    if not seen.hog_spared:
        problems.append("what ran beside it in its session ended, too")
    if seen.after_hog != "well":
        problems.append("another session does not answer")
    return Finding(problems, "it was killed")


def _bomb(evidence: Evidence) -> Finding:
    seen = the(evidence.exercise)
    problems = [] if seen.bomb_refused else ["no limit stopped it"]
    if seen.after_bomb != "well":
        problems.append("another session does not answer")
    if seen.processes_left:
        problems.append(f"{seen.processes_left} processes are left of it")
    return Finding(problems, f"{seen.bomb_refused} forks were refused")


def _removed(evidence: Evidence) -> Finding:
    seen = the(evidence.exercise)
    problems = [f"{name} is left" for name in seen.sessions_left]
    if not seen.same_daemon:
        problems.append("sessiond is not the same process any more")
    return Finding(problems, "gone, and sessiond is the same process")


def _doctor(evidence: Evidence) -> Finding:
    seen = the(evidence.exercise)
    problems = list(seen.doctor_failed)
    if seen.doctor_passed + len(problems) < LEAST_DOCTORED:
        problems.append(f"it made {seen.doctor_passed + len(problems)} checks only")
    return Finding(problems, f"{seen.doctor_passed} checks")


CHECKS: tuple[Check[Evidence], ...] = (
    Check("exercise", "a full session gets EDQUOT, and another one still writes", _full),
    Check(
        "exercise",
        "a folder of the VM's disk is the session's inside, its owner's outside",
        _attached,
    ),
    Check("exercise", "the session switched away from is frozen and uses no CPU", _frozen),
    Check("exercise", "where sessions compete, a light one gets less CPU, and all answer", _shared),
    Check("exercise", "a memory hog ends alone, and says why", _hog),
    Check("exercise", "a fork bomb ends in its own session alone", _bomb),
    Check(
        "exercise", "what misbehaved can be removed, and sessiond went through all of it", _removed
    ),
    Check("exercise", "serai doctor finds nothing wrong", _doctor),
)
