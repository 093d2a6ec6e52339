"""A session's sandbox as bubblewrap arguments and an environment: pure functions of the settings.

Only options that bubblewrap 0.6.1 (Ubuntu 22.04) knows are used, and --size where it is known; see
bwrap(1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from serai.common import bridge, sizes
from serai.common.paths import CERTIFICATES
from serai.runtime.settings import SessionSettings

USERS = "/run/serai/users"
"""Where passwd and group for libnss-extrausers lie, inside as in the VM (its folder is a link)."""

HINTS = "/run/serai/hints"
"""Where hints.json is inside; a folder, since the file is replaced while the session runs."""

SSH_CONFIG = "/etc/ssh/ssh_config"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/games"
MASKED = (
    *("interrupts", "keys", "key-users"),
    *(f"1/{task}{name}" for task in ("", "task/1/") for name in ("oom_score_adj", "oom_adj")),
)
"""Files of /proc that cannot be opened inside.

They tell of the whole VM, or of its users; those of the bridge, PID 1, say whom the kernel kills
when memory runs out, and would be its user's to write.
"""

PINNED = {"mnt": True, "mnt/.skills": True, "mnt/uploads": False, "mnt/.skills/skills": False}
"""Directories of the home that are mounts of their own, and whether the session can write there.

A mount can be neither renamed nor removed: a session cannot put another directory in the place of
one that it may only read.
"""

SIZED = (0, 7)
"""The first version that can limit a file system in memory."""

MERGED = ("bin", "sbin", "lib", "lib64")


SHARED_MEMORY = "/dev/shm"  # noqa: S108  # inside, it is private, as those are:
IN_MEMORY = {"/tmp": "1777", "/var/tmp": "1777", "/run": "0755", "/home": "0755", "/root": "0700"}  # noqa: S108
"""The file systems in memory, and the mode of each."""


@dataclass(frozen=True)
class Session:
    """What the sandbox needs to know of one session.

    ``state`` is the folder with the files that the daemon writes for it (the VM's
    ``/run/serai/sessions/<name>``: ``hosts``, ``users/{passwd,group}``, ``hints/``), ``gate`` the
    one with the gate's two sockets (``/run/serai/gate/<name>``), ``certificates`` the one with what
    it trusts (``/run/serai/certificates/<name>``). ``home`` is at the same path inside.
    """

    name: str
    uid: int
    gid: int
    home: Path
    state: Path
    gate: Path
    certificates: Path


def arguments(settings: SessionSettings, session: Session, room: int | None = None) -> list[str]:
    """bubblewrap's options for ``session``, to be run by the session's user without privileges.

    Each file system in memory has ``room`` bytes at most; None: half of the VM's memory.
    The caller adds ``--seccomp FD``, since a descriptor's number is its business, and the command
    (the bridge), since bubblewrap does not take one from ``--args``.
    """
    return [
        *(f"--unshare-{namespace}" for namespace in ("user", "pid", "net", "ipc", "uts", "cgroup")),
        *("--hostname", settings.hostname),
        *("--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        # The bridge itself, since no signal of a payload's ends or stops a PID 1.
        "--as-pid-1",
        # For the bridge: payloads come from outside and bring an environment of their own.
        # Without HOME and SHELL bash would look its user up. A locale it does not need.
        *("--clearenv", "--setenv", "PATH", PATH, "--setenv", "HOME", "/"),
        *("--setenv", "SHELL", "/bin/bash"),
        *("--setenv", bridge.VARIABLE, bridge.variable()),
        *_system(settings, room),
        *_private(room),
        *_own(session),
        *("--remount-ro", "/", "--chdir", str(session.home)),
    ]


def _system(settings: SessionSettings, room: int | None) -> Iterable[str]:
    """What every session sees of the VM, and the kernel's file systems."""
    # /dev can't be changed, so nobody finds a file where the null device was; shared memory apart.
    yield from ("--dev", "/dev", *_tmpfs(SHARED_MEMORY, "1777", room), "--remount-ro", "/dev")
    yield from ("--proc", "/proc")
    # Bind mounts are nodev, so not even the device can be opened there.
    for name in MASKED:
        yield from ("--ro-bind-try", "/dev/null", f"/proc/{name}")
    for name in MERGED:
        yield from ("--symlink", f"usr/{name}", f"/{name}")
    for path in settings.visible:
        yield from ("--ro-bind-try", path, path)


def _private(room: int | None) -> Iterable[str]:
    """Folders that exist in the VM under the same names, but here are empty and the session's."""
    for path, mode in IN_MEMORY.items():
        yield from _tmpfs(path, mode, room)
    yield from ("--symlink", "/run", "/var/run")


def _own(session: Session) -> Iterable[str]:
    """What belongs to this session alone."""
    yield from ("--ro-bind", str(session.state / "hosts"), "/etc/hosts")
    # Not there if the VM has no ssh: then it has no file either for it to be put over.
    yield from ("--ro-bind-try", str(session.state / "ssh_config"), SSH_CONFIG)
    yield from ("--ro-bind", str(session.state / "users"), USERS)
    yield from ("--symlink", USERS, "/var/lib/extrausers")
    yield from ("--ro-bind", str(session.state / "hints"), HINTS)
    # A Unix socket on a read-only mount can still be connected to.
    yield from ("--ro-bind", str(session.gate), bridge.GATE)
    yield from ("--ro-bind", str(session.certificates), CERTIFICATES)
    yield from ("--bind", str(session.home), str(session.home))
    for name, writable in PINNED.items():
        path = str(session.home / name)
        yield from ("--bind" if writable else "--ro-bind", path, path)


def _tmpfs(path: str, mode: str, room: int | None) -> Iterable[str]:
    """A file system in memory, which the memory limit of the session's cgroup counts."""
    size = () if room is None else ("--size", str(room))
    return ("--perms", mode, *size, "--tmpfs", path)


def room(settings: SessionSettings, version: str, memory: int) -> int | None:
    """Half of a session's memory: who fills /tmp is told so, before the kernel has to kill.

    ``version`` is what ``bwrap --version`` says, ``memory`` the VM's. None where it cannot be set,
    before 0.7 (https://github.com/containers/bubblewrap/pull/509), and where there is no limit.
    """
    number = re.search(r"(\d+)\.(\d+)", version)
    if number is None or (int(number[1]), int(number[2])) < SIZED:
        return None
    limit = sizes.limit(settings.resources.memory_max, memory)
    return limit and limit // 2


def environment(settings: SessionSettings, session: Session) -> dict[str, str]:
    """The whole environment of a payload; nothing of the daemon's own is in it."""
    home = str(session.home)
    return {
        "HOME": home,
        "USER": session.name,
        "LOGNAME": session.name,
        "SHELL": "/bin/bash",
        "PATH": f"{home}/.local/bin:{PATH}",
        # On the sessions disk, since /tmp takes memory.
        "TMPDIR": f"{home}/tmp",  # noqa: S108
        "LANG": "C.UTF-8",
        "SERAI_HINTS": f"{HINTS}/hints.json",
        # At the end of a program its leaks are looked for by tracing it, which the filter refuses.
        "LSAN_OPTIONS": "detect_leaks=0",
        **_git(),
        **_proxies(settings.hostname),
        **settings.environment,
    }


def _git() -> dict[str, str]:
    """Configuration of git: what it leaves to the background is killed with its command, amid its
    work, and its locks would keep all later ones from it."""
    keys = ("gc.autoDetach", "maintenance.autoDetach")
    pairs = {f"GIT_CONFIG_KEY_{number}": key for number, key in enumerate(keys)}
    values = {f"GIT_CONFIG_VALUE_{number}": "false" for number in range(len(keys))}
    return {"GIT_CONFIG_COUNT": str(len(keys)), **pairs, **values}


def _proxies(hostname: str) -> dict[str, str]:
    """What programs look at to find the bridge; there is no other way out.

    docs/clients.md shows what real clients do with them: `invoke clients` tries that.
    """
    http, socks = f"http://127.0.0.1:{bridge.HTTP_PORT}", f"socks5h://127.0.0.1:{bridge.SOCKS_PORT}"
    # The session's own servers. No private ranges: without a direct route they would only fail. No
    # [::1], at which Python's httpx raises as soon as a client is made.
    own = ["localhost", "127.0.0.1", "127.0.1.1", "0.0.0.0", "::1"]  # noqa: S104 - not bound to
    # A name counts for all that ends with it: "dev" would keep a whole top-level domain inside.
    own += [hostname] if hostname == SessionSettings.hostname or not hostname.isalpha() else []
    both_cases = {
        "HTTP_PROXY": http,
        "HTTPS_PROXY": http,
        # Not SOCKS: httpx, and what is built on it, raises at that. curl tunnels all but FTP.
        "ALL_PROXY": http,
        "FTP_PROXY": socks,
        "GRPC_PROXY": http,
        "NO_PROXY": ",".join(own),
    }
    return {
        **both_cases,
        **{name.lower(): value for name, value in both_cases.items()},
        "DOCKER_HTTP_PROXY": http,
        "DOCKER_HTTPS_PROXY": http,
        "RSYNC_PROXY": f"127.0.0.1:{bridge.HTTP_PORT}",
        "NODE_USE_ENV_PROXY": "1",  # without it, Node's fetch ignores all of the above
    }


def encode(args: Sequence[str]) -> bytes:
    """``args`` as ``bwrap --args FD`` reads them: each ends with NUL.

    Raises ValueError if one contains a NUL.
    """
    for arg in args:
        if "\0" in arg:
            raise ValueError(f"NUL in the argument {arg!r}")
    return b"".join(arg.encode() + b"\0" for arg in args)


def ssh_config(settings: SessionSettings) -> str:
    """The text of ``<state>/ssh_config``, which a session sees as its /etc/ssh/ssh_config.

    So ssh, scp, rsync and git take the way out, unless ~/.ssh/config or git's core.sshCommand says
    another. It includes no other file: inside, root's files look like nobody's, and ssh takes no
    included file of nobody's.
    """
    return (
        f"Host localhost 127.* ::1 0.0.0.0 {settings.hostname}\n    ProxyCommand none\n"
        "Host *\n    SendEnv LANG LC_*\n    HashKnownHosts yes\n"
        # ssh lets a host's name have what socat reads as options and addresses, and the name may
        # come from a repository's submodules. In quotes it is a name; quotes it cannot have.
        f"    ProxyCommand socat - 'PROXY:127.0.0.1:\"%h\":%p,proxyport={bridge.HTTP_PORT}'\n"
    )


def hosts(settings: SessionSettings) -> str:
    """The text of ``<state>/hosts``, which a session sees as its /etc/hosts."""
    return f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {settings.hostname}\n"
