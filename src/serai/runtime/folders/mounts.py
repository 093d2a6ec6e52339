"""Mounts a folder of the VM in a running sandbox from outside, and takes it out again.

Everything here but ``seen`` and ``in_child`` changes the namespaces of the process that calls it,
so it runs in a child. A mount lives in the sandbox's own mount namespace and ends with that: there
is nothing in the VM that could be left behind. open_tree(2), mount_setattr(2), move_mount(2).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from errno import EBUSY, EINVAL, ENOTCONN, EOPNOTSUPP, EOVERFLOW, EPERM

from serai.common import linux, proc, wait
from serai.common.errors import BUSY, FAILED, NOT_FOUND, TIMEOUT, SeraiError
from serai.runtime.folders import scope

# Seconds; in a loaded emulated VM bindfs takes 6 to start.
DEADLINE, SERVE_DEADLINE = 40.0, 30.0


class NoIdmapError(SeraiError):
    """The folder's file system can't be mounted with other owners."""


@dataclass(frozen=True)
class Sandbox:
    """A running sandbox: a PID 1, and the home (a path that is the same inside) of a user."""

    init: int
    home: str
    uid: int


@dataclass(frozen=True)
class Seen:
    """A mount in a sandbox: ``idmap`` or ``bindfs``, and whether it can be written to."""

    kind: str
    writable: bool


def seen(mountinfo: str, home: str) -> dict[str, Seen]:
    """What is mounted in a home, by the path relative to it; from /proc/PID/mountinfo, proc(5).

    Not the home's own directories, which are mounted on themselves.
    """
    found, all_ = {}, proc.mounts(mountinfo)
    own = {(it.device, it.root) for it in all_ if it.place == home}
    for each in all_:
        if each.place.startswith(f"{home}/"):
            below = each.place[len(home) :]
            if (each.device, each.root.removesuffix(below)) in own:
                continue
            writable = "ro" not in each.options and "ro" not in each.super_options
            name = "bindfs" if each.kind.startswith("fuse") else "idmap"
            found[each.place[len(home) + 1 :]] = Seen(name, writable)
    return found


async def in_child(work: Callable[[], None]) -> None:
    """Do ``work`` in a fork of this process. Raises the SeraiError that it raised there."""
    report = os.memfd_create("report")
    try:
        pid = _fork(work, report)
        try:
            await asyncio.wait_for(wait.exited(pid), DEADLINE)
        except asyncio.TimeoutError:
            os.kill(pid, signal.SIGKILL)
            hint = "does the directory's file system still answer?"
            raise SeraiError(f"mounting took more than {DEADLINE:g} s", hint, TIMEOUT) from None
        finally:
            # One that hangs in the kernel can't be waited for; it is reaped when it has ended.
            os.waitpid(pid, os.WNOHANG)
        text = os.pread(report, 65536, 0)
    finally:
        os.close(report)
    if text:
        kind, message, hint, code = json.loads(text)
        raise (NoIdmapError if kind == "NoIdmapError" else SeraiError)(message, hint, code)


def by_idmap(path: str, sandbox: Sandbox, folder: str, *, writable: bool) -> None:
    """Mount ``path`` at ``folder`` (relative to the home), its owner being the session's user.

    Files of other owners belong to nobody inside. Raises NoIdmapError where the kernel refuses.
    """
    source = scope.absolute(path)
    info = os.fstat(source)
    tree = linux.open_tree(source)
    users = _user_namespace(f"{info.st_uid} {sandbox.uid} 1", f"{info.st_gid} {sandbox.uid} 1")
    try:
        _restrict(tree, linux.MOUNT_IDMAP, users, writable=writable)
    except OSError as error:
        # EPERM also where the mount has owners of its own already.
        if error.errno in (EINVAL, EOPNOTSUPP, EPERM):
            raise NoIdmapError(f"{path}: its file system knows no idmapped mounts") from None
        raise
    _move_in(tree, sandbox, folder)


def by_bindfs(server: int, target: str, sandbox: Sandbox, folder: str, *, writable: bool) -> None:
    """The same with what the process ``server`` has mounted at ``target`` in its namespace."""
    _join(_await_mount(server, target))
    source = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    tree = linux.open_tree(source)
    _restrict(tree, 0, 0, writable=writable)
    _move_in(tree, sandbox, folder)


def take_out(sandbox: Sandbox, folder: str) -> None:
    """Unmount what is at ``folder``. Raises SeraiError with BUSY while something uses it."""
    _join(sandbox.init)
    home = _open_home(sandbox)
    # A relative name in an open folder: whatever the session renames, nothing else is unmounted.
    with scope.parent(home, folder, cross=True) as (directory, name):
        os.fchdir(directory)
        try:
            linux.umount2(name)
        except OSError as error:
            if error.errno == EBUSY:
                hint = "end what has files open in it or works there, then try again"
                raise SeraiError(f"{folder} is busy", hint, BUSY) from None
            if error.errno == EINVAL:
                hint = "stop the session; it is gone then"
                raise SeraiError(f"nothing is mounted at {folder}", hint, NOT_FOUND) from None
            raise


def probe(path: str) -> None:
    """Raises SeraiError unless ``path`` is a folder that could be attached."""
    os.close(scope.absolute(path))


def private_tree(path: str, target: str) -> os.stat_result:
    """Mount the folder ``path`` at ``target`` in a mount namespace that only this process has."""
    linux.unshare(linux.MOUNT_NAMESPACE)
    linux.make_mounts_private()
    source = scope.absolute(path)
    info = os.fstat(source)
    where = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    linux.move_mount(linux.open_tree(source), where)
    return info


def _move_in(tree: int, sandbox: Sandbox, folder: str) -> None:
    _join(sandbox.init)
    home = _open_home(sandbox)
    _make(home, folder, sandbox.uid)
    # Across the home's own mounts; a session makes none.
    with scope.folder(home, folder, cross=True) as target:
        linux.move_mount(tree, target)


def _make(home: int, folder: str, uid: int) -> None:
    """Make the mount point unless it is there."""
    names = folder.split("/")
    for depth, name in enumerate(names):
        with (
            scope.folder(home, "/".join(names[:depth]), cross=True) as above,
            contextlib.suppress(FileExistsError),
        ):
            os.mkdir(name, 0o700, dir_fd=above)
            os.chown(name, uid, uid, dir_fd=above, follow_symlinks=False)


def _open_home(sandbox: Sandbox) -> int:
    home = os.open(sandbox.home, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if os.fstat(home).st_uid != sandbox.uid:
        raise SeraiError("the sandbox has another home", code=FAILED)
    return home


def _join(pid: int) -> None:
    """Join a process's mount namespace."""
    pidfd = os.pidfd_open(pid)
    linux.join(pidfd, linux.MOUNT_NAMESPACE)
    os.close(pidfd)


def _await_mount(server: int, target: str) -> int:
    """``server`` or its child, whichever sees a FUSE mount at ``target``, once it is there."""
    end, pause = time.monotonic() + SERVE_DEADLINE, 0.001
    while time.monotonic() < end:
        for pid in (server, *proc.children(server)):
            with contextlib.suppress(OSError):
                seen_there = proc.mounts_of(pid)
                if any(it.place == target and it.kind.startswith("fuse") for it in seen_there):
                    return pid
        # Ever longer: where it takes long, looking is what keeps bindfs from the processor.
        time.sleep(pause := min(1.2 * pause, 0.1))
        try:
            os.kill(server, 0)
        except ProcessLookupError:
            hint = "see its journal; it needs /dev/fuse"
            raise SeraiError("bindfs ended before it mounted the directory", hint, FAILED) from None
    raise SeraiError("bindfs did not mount the directory", "see its journal", TIMEOUT)


def _restrict(tree: int, attributes: int, users: int, *, writable: bool) -> None:
    attributes |= linux.MOUNT_NOSUID | linux.MOUNT_NODEV
    linux.mount_setattr(tree, attributes | (0 if writable else linux.MOUNT_RDONLY), users)


def _user_namespace(users: str, groups: str) -> int:
    """A user namespace with these maps, as a descriptor; user_namespaces(7)."""
    ready, tell = os.pipe()
    stay, let_go = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(let_go)
        try:
            linux.unshare(linux.USER_NAMESPACE)
            os.write(tell, b"y")
        except OSError:
            os.write(tell, b"n")
        os.read(stay, 1)
        os._exit(0)
    try:
        if os.read(ready, 1) != b"y":
            raise SeraiError("this kernel makes no user namespaces", code=FAILED)
        for name, text in (("uid_map", users), ("gid_map", groups)):
            descriptor = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
            os.write(descriptor, text.encode())
            os.close(descriptor)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for descriptor in (ready, tell, stay, let_go):
            os.close(descriptor)
        os.waitpid(pid, 0)


def _fork(work: Callable[[], None], report: int) -> int:
    # A signal that came before the child has its own dispositions would run the caller's handlers.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _child(work, report)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pid


def _child(work: Callable[[], None], report: int) -> None:
    try:
        # What the daemon's next life finds must not change any more.
        linux.die_with_parent()
        work()
    except SeraiError as error:
        _report(report, type(error).__name__, error.message, error.hint, error.code)
    except OSError as error:
        gone = error.errno in (ENOTCONN, EOVERFLOW)
        hint = "the file system below it does not answer" if gone else ""
        _report(report, "OSError", f"it cannot be mounted: {error}", hint, FAILED)
    except BaseException as error:
        _report(report, "", f"mounting failed: {error!r}", "see sessiond's log", FAILED)
    finally:
        os._exit(0)


def _report(report: int, *told: object) -> None:
    os.write(report, json.dumps(told).encode())
