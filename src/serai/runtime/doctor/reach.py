"""What a payload must find around it: no way out but the gate, its own files, no other session."""

from __future__ import annotations

from functools import partial

from serai.common import bridge
from serai.common.checks import Absent, Check, Facts, Finding, none_of, problem, same, section
from serai.common.paths import CERTIFICATES
from serai.runtime.sandbox import bwrap

TREE = [["1", "0", "bash"], ["2", "1", "socat"], ["3", "1", "socat"]]
DEVICES = [
    f"/dev/{name}" for name in ("full", "null", "pts/ptmx", "random", "tty", "urandom", "zero")
]
FIRST_FOLDERS = frozenset(
    (
        *("bin", "dev", "etc", "home", "lib", "lib64", "opt", "proc", "root"),
        *("run", "sbin", "sys", "tmp", "usr", "var"),
    )
)
OWN_MOUNTS = frozenset(
    (
        *("/", "/dev", "/dev/shm", "/dev/pts", "/dev/console", "/proc", "/tmp", "/var/tmp"),
        *("/run", "/home", "/root", "/etc/hosts", "/run/serai/users", bridge.GATE),
        *("/run/serai/hints", CERTIFICATES),
    )
)
# bubblewrap hides them where they could be written to; the last one only where the VM has ssh.
COVERED = frozenset(
    f"/proc/{name}" for name in ("sys", "sysrq-trigger", "irq", "bus", *bwrap.MASKED)
) | {bwrap.SSH_CONFIG}
BOTH_PORTS = f"{bridge.HTTP_PORT} and {bridge.SOCKS_PORT}"


REFUSED = {
    "tcp": ("TCP past the gate goes nowhere", "A payload reaches the network past the gate."),
    "tcp6": ("IPv6 past the gate goes nowhere", "A payload reaches the network past the gate."),
    "udp": ("UDP past the gate goes nowhere", "Data can leave in packets that no gate sees."),
    "metadata": (
        "a cloud's metadata service is out of reach",
        "A payload could read the VM's credentials at its cloud.",
    ),
}


def _refused(key: str, wanted: str, facts: Facts) -> Finding:
    return same(facts["network"][key] or "it works", wanted)


def _lookup(facts: Facts) -> Finding:
    found = facts["network"]["lookup"]
    return problem("" if found else "a name is resolved", found)


def _listening(facts: Facts) -> Finding:
    strange = [port for port in facts["network"]["listening"] if port not in bridge.PORTS]
    return none_of((f"port {port} is open" for port in strange), BOTH_PORTS)


def _bridge_answers(facts: Facts) -> Finding:
    answers = zip(bridge.SOCKETS, facts["network"]["bridge"], strict=True)
    return none_of((f"{port}: {error}" for port, error in answers if error), BOTH_PORTS)


def _knocks(facts: Facts) -> Finding:
    answers = zip(bridge.SOCKETS.values(), facts["network"]["gate"], strict=True)
    wrong = [each for each in answers if each[1] not in ("EACCES", "EPERM")]
    return none_of((f"{path}: {error or 'it answers'}" for path, error in wrong), "2 tried")


READ_ONLY = {
    "/": "A payload could put a program or a library where others look for one.",
    "/usr": "A payload could change the VM's programs for everybody.",
    "/etc": "A payload could change the VM's configuration.",
    "/dev": "A payload could put a file where programs look for a device.",
    "/sys/devices/system/cpu": "A payload could switch the VM's processors off.",
    bridge.GATE: "A payload could put a socket of its own where the gate's is.",
    "/run/serai/hints": "A payload could tell an agent other places for its files.",
    "/run/serai/users": "A payload could give itself another name.",
    "/etc/hosts": "A payload could lead others in its session to wrong addresses.",
}
PRIVATE = {
    "/tmp": "Temporary files of the VM's, which anybody may write, are shared with the session.",
    "/var/tmp": "Temporary files of the VM's, which anybody may write, are shared.",
    "/home": "Homes of people who administer the VM are visible.",
    "/root": "The home of the VM's root is visible.",
    "/dev/shm": "Shared memory of the VM's is open to payloads.",
}
FIXED = {
    "/run": (["serai"], "Sockets and secrets of the VM's services are visible."),
    "/run/serai": (
        ["certificates", "gate", "hints", "users"],
        "The control socket or other sessions' files are visible.",
    ),
    "/sys": (["devices"], "The kernel tells of devices, and may be told what to do with them."),
}
SECRETS = (
    *("/etc/shadow", "/etc/gshadow", "/etc/serai/gate.toml", "/etc/sudoers"),
    *("/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_rsa_key", "/etc/ssl/private"),
    *("/proc/kcore", "/proc/kmsg", "/proc/slabinfo"),
)
SWITCHES = (
    *("/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches"),
    *("/proc/sys/kernel/modprobe", "/proc/sys/net/ipv4/ip_forward", "/proc/mtrr"),
)


def _read_only(path: str, facts: Facts) -> Finding:
    found = facts["files"]["read_only"]
    if path not in found:
        raise Absent(f"there is no {path}")
    return problem("" if found[path] else "it can be written", "read-only")


def _private(path: str, facts: Facts) -> Finding:
    seen, home = facts["files"], facts["wanted"]["home"]
    # Where sessions lie below it, as in a test.
    own = [home[len(path) + 1 :].split("/")[0]] if home.startswith(f"{path}/") else []
    problems = [f"it holds {each}" for each in seen["listing"][path] if each not in own]
    if not seen["writable"][path]:
        problems.append("it cannot be written")
    return Finding(problems, "empty, writable")


def _fixed(path: str, facts: Facts) -> Finding:
    return same(facts["files"]["listing"][path], FIXED[path][0])


def _top(facts: Facts) -> Finding:
    wanted = FIRST_FOLDERS | {facts["wanted"]["home"].split("/")[1]}
    wanted |= {path.split("/")[1] for path in facts["wanted"]["visible"]}
    return none_of(sorted(set(facts["files"]["listing"]["/"]) - wanted), "nothing else")


def _home(facts: Facts) -> Finding:
    home = facts["wanted"]["home"]
    return Finding([] if facts["files"]["writable"][home] else ["it cannot"], home)


def _sockets(facts: Facts) -> Finding:
    # The gate's own folder cannot be listed by the session.
    own = bridge.SOCKETS.values()
    return none_of(path for path in facts["files"]["sockets"] if path not in own)


def _mounts(facts: Facts) -> Finding:
    known = OWN_MOUNTS | COVERED | {facts["wanted"]["home"], *facts["wanted"]["visible"]}
    known |= set(facts["wanted"]["below"])
    known |= {f"{facts['wanted']['home']}/{name}" for name in bwrap.PINNED}
    strange = [place for place, _, _ in facts["mounts"] if place not in known]
    return none_of(
        (each for each in strange if not each.startswith("/dev/")), "those of session.toml alone"
    )


def _pinned(facts: Facts) -> Finding:
    options = {place: options.split(",") for place, options, _ in facts["mounts"]}
    problems = []
    for name, writable in bwrap.PINNED.items():
        found = options.get(f"{facts['wanted']['home']}/{name}")
        if found is None:
            problems.append(f"{name} is not a mount")
        elif not writable and "ro" not in found:
            problems.append(f"{name} can be written")
    return Finding(problems, ", ".join(name for name, yes in bwrap.PINNED.items() if not yes))


def _nosuid(facts: Facts) -> Finding:
    odd = []
    for place, options, kind in facts["mounts"]:
        needed = {"nosuid"} if kind == "devpts" else {"nosuid", "nodev"}
        missing = needed - set(options.split(","))
        # bubblewrap mounts single devices; /dev is looked at apart.
        if missing and not place.startswith("/dev/"):
            odd.append(f"{place} is not {' or '.join(sorted(missing))}")
    return none_of(odd)


def _tree(facts: Facts) -> Finding:
    found = sorted(facts["others"]["processes"], key=lambda row: int(row[0]))
    return same(
        [" ".join(row) for row in found], [" ".join(row) for row in TREE], "three processes"
    )


def _users(facts: Facts) -> Finding:
    names = {line.split(":")[0] for line in facts["files"]["users"].splitlines()}
    return same(names, {facts["wanted"]["name"]})


def _cgroup(facts: Facts) -> Finding:
    paths = [line.split(":", 2)[2] for line in facts["files"]["cgroup"]]
    # A payload's own is below the sandbox's, or beside it: then it is shown by dots.
    return none_of(path for path in paths if path.strip("/.") and not _is_own(path))


def _is_own(path: str) -> bool:
    last = path.rpartition("/")[2]
    return path.lstrip("/.") == last and last.startswith(("exec-", "detached-"))


CHECKS: tuple[Check[Facts], ...] = (
    *section(
        "network",
        "network",
        (
            "there is no interface but the loopback",
            lambda facts: same(facts["network"]["interfaces"], ["lo"]),
            "An interface is a way out past the gate.",
        ),
        (
            "there is no route",
            lambda facts: none_of(facts["network"]["routes"]),
            "A route is a way out past the gate.",
        ),
        *(
            (name, partial(_refused, key, "ENETUNREACH"), means)
            for key, (name, means) in REFUSED.items()
        ),
        (
            "only the gate can look names up",
            _lookup,
            "Data can leave in the names that are asked for.",
        ),
        (
            "raw sockets are refused",
            partial(_refused, "raw", "EPERM"),
            "A payload could forge packets in whatever network it gets into.",
        ),
        (
            "the VM's own services are out of reach",
            partial(_refused, "vm", "ECONNREFUSED"),
            "Services on the VM's loopback trust every local client.",
        ),
        (
            "only the bridge listens",
            _listening,
            "Something else offers a service in the sandbox, perhaps between payloads and gate.",
        ),
        (
            "both ports of the bridge answer",
            _bridge_answers,
            "Payloads have no way out at all: every connection fails.",
        ),
        (
            "payloads cannot speak to the gate's own sockets",
            _knocks,
            "A payload could hand the gate a descriptor that stops it for all sessions.",
        ),
    ),
    *section(
        "files",
        "files",
        *(
            (f"{path} is read-only", partial(_read_only, path), means)
            for path, means in READ_ONLY.items()
        ),
        *(
            (f"{path} is the session's own", partial(_private, path), means)
            for path, means in PRIVATE.items()
        ),
        *(
            (f"{path} shows {' and '.join(wanted)} only", partial(_fixed, path), means)
            for path, (wanted, means) in FIXED.items()
        ),
        (
            "/ shows only what a session needs",
            _top,
            "A directory of the VM is visible that session.toml does not name.",
        ),
        ("a session can write its home", _home, "Nothing that a payload makes can be kept."),
        (
            "devices are the harmless ones",
            lambda facts: same(facts["files"]["devices"], sorted(DEVICES)),
            "A device is a way around the file system to what it holds.",
        ),
        (
            "no Unix socket of the VM is visible",
            _sockets,
            "A service of the VM's could be spoken to.",
        ),
        (
            "the VM's secrets are unreadable",
            lambda facts: none_of(facts["files"]["readable"], f"{len(SECRETS)} tried"),
            "Keys and passwords of the VM's leak to payloads.",
        ),
        (
            "the kernel's switches are out of reach",
            lambda facts: none_of(facts["files"]["switches"], f"{len(SWITCHES)} tried"),
            "A payload could change, or halt, the whole VM.",
        ),
        (
            "the host name is that of the settings",
            lambda facts: same(facts["files"]["hostname"], facts["wanted"]["hostname"]),
            "The name tells which VM this is.",
        ),
        (
            "the hosts file is the session's own",
            lambda facts: same(
                facts["files"]["hosts"], facts["wanted"]["hosts"], "localhost and its own"
            ),
            "Names lead elsewhere, or tell of the VM's network.",
        ),
    ),
    *section(
        "files",
        "mounts",
        (
            "nothing outside the settings is mounted",
            _mounts,
            "A directory of the VM is visible that the settings do not list.",
        ),
        (
            "a session can only read its uploads and skills",
            _pinned,
            "A payload could change, or replace, files that come from outside.",
        ),
        (
            "no mount lets set-user-ID programs or devices work",
            _nosuid,
            "A program or device that got into a home in any way would have its full power.",
        ),
    ),
    *section(
        "other sessions",
        "others",
        (
            "only the session's own home is visible",
            lambda facts: same(
                facts["others"]["beside"], [facts["wanted"]["home"].rpartition("/")[2]]
            ),
            "Names of other sessions are visible.",
        ),
        (
            "another session's files are out of reach",
            lambda facts: none_of(
                (f"by {way}" for way in facts["others"]["direct"]), "five ways tried"
            ),
            "Sessions can read each other's files.",
        ),
        (
            "no process or descriptor leads to another session",
            lambda facts: none_of(f"by {way}" for way in facts["others"]["through"]),
            "Sessions can read each other's files through /proc.",
        ),
        (
            "a sandbox holds the bridge and the payload only",
            _tree,
            "Processes of others are visible, or something is left of an earlier payload.",
        ),
        (
            "a payload can trace only processes that it started",
            lambda facts: none_of(facts["others"]["traced"]),
            "A payload could write to the bridge's memory, and so get rid of a filter.",
        ),
        (
            "the VM's shared memory is out of reach",
            lambda facts: Finding(
                ["it is there"] if facts["others"]["memory"] else [], "not there"
            ),
            "Payloads can use the memory that the VM's programs share.",
        ),
    ),
    *section(
        "other sessions",
        "files",
        (
            "the list of users has only the session's user",
            _users,
            "Names of other sessions are visible.",
        ),
        (
            "the cgroup's path discloses nothing",
            _cgroup,
            "Where the session's cgroup lies tells of others.",
        ),
    ),
)
