"""What the VM is made of must be: clock, entropy, kernel, versions."""

from __future__ import annotations

import re
from errno import ENOSYS, errorcode
from functools import partial

from serai.common.checks import Check, Facts, Finding, none_of, problem, same, section

OLDEST_KERNEL = (5, 15)
LEAST_ENTROPY = 128
MOST_DRIFT = 300.0  # seconds between the clock and the battery's
ABIS = 2  # of Landlock: the first cannot allow moving files between folders
ACTIONS = {"kill_process", "errno", "allow"}

FEATURES = {
    "openat2": "Paths that come from sessions cannot be opened safely.",
    "clone3": "Payloads cannot be started inside their cgroup.",
    "pidfd_open": "A session's processes could be mistaken for others.",
    "close_range": "Descriptors of the daemon's could leak to payloads.",
    "mount_setattr": "Directories of the host cannot be shown with the session's own UID.",
    "open_tree": "Directories of the host cannot be shown in a running session.",
}


OLDEST = {
    "systemd": ((249,), "Units' settings that contain sessions may be ignored."),
    "bwrap": ((0, 6, 1), "Options that make a sandbox are unknown to it."),
    "socat": ((1, 7, 4), "The bridge's options are unknown to it."),
    "python": ((3, 10), "The runtime does not start."),
    "sqlite": ((3, 37), "The registry may lose what it wrote."),
}
MODULES = {
    "h11": "The gate does not start.",
    "seccomp": "Filters cannot be made, nor compared with what is installed.",
    "jeepney": "sessiond cannot speak to systemd.",
}


def numbers(text: str) -> tuple[int, ...]:
    """The numbers that a version begins with."""
    found = re.search(r"\d+(\.\d+)*", text)
    if found is None:
        raise ValueError(f"{text!r} is no version")
    return tuple(map(int, found[0].split(".")))


def _feature(name: str, facts: Facts) -> Finding:
    error = facts["kernel"]["calls"][name]
    return Finding(["it does not exist"] if error == ENOSYS else [], errorcode.get(error, "yes"))


def _kernel(facts: Facts) -> Finding:
    release = facts["kernel"]["release"]
    old = numbers(release)[:2] < OLDEST_KERNEL
    return Finding([f"{release} is older than 5.15"] if old else [], release)


def _tracing(facts: Facts) -> Finding:
    abi, yama = facts["kernel"]["landlock"], facts["kernel"]["ptrace_scope"]
    well = abi >= ABIS or yama >= 1
    said = f"Landlock {abi}, ptrace_scope {yama}"
    return Finding([] if well else [said], said)


def _user_namespaces(facts: Facts) -> Finding:
    seen = facts["kernel"]["user_namespaces"]
    problems = [] if seen["user.max_user_namespaces"] not in ("0", "") else ["none may be made"]
    if seen["kernel.unprivileged_userns_clone"] == "0":
        problems.append("kernel.unprivileged_userns_clone is 0")
    if seen["kernel.apparmor_restrict_unprivileged_userns"] == "1":
        problems.append("kernel.apparmor_restrict_unprivileged_userns is 1")
    return Finding(problems, f"{seen['user.max_user_namespaces']} at most")


def _seccomp(facts: Facts) -> Finding:
    missing = ACTIONS - set(facts["kernel"]["seccomp"].split())
    return none_of(sorted(missing), "with kill_process")


def _setuid(facts: Facts) -> Finding:
    mode = facts["kernel"]["bwrap"]
    odd = mode & 0o6000 or mode & 0o022
    return Finding([f"mode {mode:04o}"] if odd else [], f"mode {mode:04o}")


def _clock(facts: Facts) -> Finding:
    seen = facts["clock"]
    problems = []
    if seen["now"] < seen["newest"]:
        problems.append(f"it is {seen['newest'] - seen['now']:.0f} s behind what was written")
    if seen["battery"] is not None and abs(seen["now"] - seen["battery"]) > MOST_DRIFT:
        problems.append(f"it is {seen['now'] - seen['battery']:+.0f} s off the battery's")
    return Finding(problems, "not behind")


def _entropy(facts: Facts) -> Finding:
    seen = facts["clock"]
    problems = [] if seen["random"] else ["the kernel's random numbers are not ready"]
    if seen["entropy"] < LEAST_ENTROPY:
        problems.append(f"{seen['entropy']} bits")
    return Finding(problems, f"{seen['entropy']} bits")


def _version(name: str, facts: Facts) -> Finding:
    found, (oldest, _) = facts["versions"]["programs"][name], OLDEST[name]
    least = ".".join(map(str, oldest))
    return problem(f"{found} is older than {least}" if numbers(found) < oldest else "", found)


def _module(name: str, facts: Facts) -> Finding:
    return problem(facts["versions"]["modules"][name])


CHECKS: tuple[Check[Facts], ...] = (
    *section(
        "system",
        "kernel",
        *(
            (f"the kernel has {name}", partial(_feature, name), means)
            for name, means in FEATURES.items()
        ),
        ("the kernel is new enough", _kernel, "System calls that sessions need are missing."),
        (
            "payloads cannot trace other processes",
            _tracing,
            "A payload could get rid of a filter by way of the bridge.",
        ),
        (
            "users can make user namespaces",
            _user_namespaces,
            "bubblewrap cannot start: no session can.",
        ),
        ("the kernel has seccomp filters", _seccomp, "No payload can be started."),
        (
            "the system uses cgroup v2",
            lambda facts: same(facts["kernel"]["cgroup"], "cgroup2"),
            "Sessions cannot be limited, frozen or ended as a whole.",
        ),
        (
            "swap is off",
            lambda facts: none_of(facts["kernel"]["swaps"]),
            "Sessions' memory can be written to the root disk.",
        ),
        (
            "bubblewrap is not setuid and has no capabilities",
            _setuid,
            "A bug in bubblewrap would give root in the VM.",
        ),
    ),
    *section(
        "system",
        "clock",
        (
            "the clock is right",
            _clock,
            "Certificates are not valid, and the audit log tells wrong times.",
        ),
        ("there is entropy", _entropy, "Keys can be guessed, or programs wait for ever."),
    ),
    *section(
        "versions",
        "versions",
        *(
            (f"{name} is new enough", partial(_version, name), means)
            for name, (_, means) in OLDEST.items()
        ),
        *((f"Python has {name}", partial(_module, name), means) for name, means in MODULES.items()),
    ),
)
