"""What the VM is made of must be: clock, entropy, kernel, versions."""

from __future__ import annotations

import re
from errno import ENOSYS, errorcode

from serai.runtime.doctor.core import Facts, Finding, Section, none_of, same

system = Section("system", "kernel")
versions = Section("versions", "versions")

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
    "mount_setattr": "Folders of the host cannot be shown with the session's own UID.",
    "open_tree": "Folders of the host cannot be shown in a running session.",
}


def numbers(text: str) -> tuple[int, ...]:
    """The numbers that a version begins with."""
    found = re.search(r"\d+(\.\d+)*", text)
    if found is None:
        raise ValueError(f"{text!r} is no version")
    return tuple(map(int, found[0].split(".")))


def _add_feature(name: str, means: str) -> None:
    @system(f"the kernel has {name}", means)
    def _has(facts: Facts) -> Finding:
        error = facts["kernel"]["calls"][name]
        return Finding(
            ["it does not exist"] if error == ENOSYS else [], errorcode.get(error, "yes")
        )


for _name, _means in FEATURES.items():
    _add_feature(_name, _means)


@system("the kernel is new enough", "System calls that sessions rest on are missing.")
def _kernel(facts: Facts) -> Finding:
    release = facts["kernel"]["release"]
    old = numbers(release)[:2] < OLDEST_KERNEL
    return Finding([f"{release} is older than 5.15"] if old else [], release)


@system(
    "payloads are kept from tracing", "A payload could get rid of a filter by way of the bridge."
)
def _tracing(facts: Facts) -> Finding:
    abi, yama = facts["kernel"]["landlock"], facts["kernel"]["ptrace_scope"]
    well = abi >= ABIS or yama >= 1
    said = f"Landlock {abi}, ptrace_scope {yama}"
    return Finding([] if well else [said], said)


@system("users may make sandboxes", "bubblewrap cannot start: no session can.")
def _user_namespaces(facts: Facts) -> Finding:
    seen = facts["kernel"]["user_namespaces"]
    problems = [] if seen["user.max_user_namespaces"] not in ("0", "") else ["none may be made"]
    if seen["kernel.unprivileged_userns_clone"] == "0":
        problems.append("kernel.unprivileged_userns_clone is 0")
    if seen["kernel.apparmor_restrict_unprivileged_userns"] == "1":
        problems.append("kernel.apparmor_restrict_unprivileged_userns is 1")
    return Finding(problems, f"{seen['user.max_user_namespaces']} at most")


@system("the kernel has seccomp filters", "No payload can be started.")
def _seccomp(facts: Facts) -> Finding:
    missing = ACTIONS - set(facts["kernel"]["seccomp"].split())
    return none_of(sorted(missing), "with kill_process")


@system("cgroup v2 is what there is", "Sessions cannot be limited, frozen or ended as a whole.")
def _cgroup(facts: Facts) -> Finding:
    return same(facts["kernel"]["cgroup"], "cgroup2")


@system("swap is off", "What sessions keep in memory is written to the root disk.")
def _swap(facts: Facts) -> Finding:
    return none_of(facts["kernel"]["swaps"])


@system("bubblewrap has no rights of its own", "A hole in bubblewrap would be one in the VM.")
def _setuid(facts: Facts) -> Finding:
    mode = facts["kernel"]["bwrap"]
    odd = mode & 0o6000 or mode & 0o022
    return Finding([f"mode {mode:04o}"] if odd else [], f"mode {mode:04o}")


@system(
    "the clock is right",
    "Certificates are not valid, and the audit log tells wrong times.",
    "clock",
)
def _clock(facts: Facts) -> Finding:
    seen = facts["clock"]
    problems = []
    if seen["now"] < seen["newest"]:
        problems.append(f"it is {seen['newest'] - seen['now']:.0f} s behind what was written")
    if seen["battery"] is not None and abs(seen["now"] - seen["battery"]) > MOST_DRIFT:
        problems.append(f"it is {seen['now'] - seen['battery']:+.0f} s off the battery's")
    return Finding(problems, "not behind")


@system("there is entropy", "Keys can be guessed, or programs wait for ever.", "clock")
def _entropy(facts: Facts) -> Finding:
    seen = facts["clock"]
    problems = [] if seen["random"] else ["the kernel's random numbers are not ready"]
    if seen["entropy"] < LEAST_ENTROPY:
        problems.append(f"{seen['entropy']} bits")
    return Finding(problems, f"{seen['entropy']} bits")


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


def _add_version(name: str, oldest: tuple[int, ...], means: str) -> None:
    @versions(f"{name} is new enough", means)
    def _new(facts: Facts) -> Finding:
        found = facts["versions"]["programs"][name]
        least = ".".join(map(str, oldest))
        old = numbers(found) < oldest
        return Finding([f"{found} is older than {least}"] if old else [], found)


def _add_module(name: str, means: str) -> None:
    @versions(f"Python has {name}", means)
    def _there(facts: Facts) -> Finding:
        problem = facts["versions"]["modules"][name]
        return Finding([problem] if problem else [], "yes")


for _name, (_oldest, _means) in OLDEST.items():
    _add_version(_name, _oldest, _means)
for _name, _means in MODULES.items():
    _add_module(_name, _means)
