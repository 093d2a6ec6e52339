"""Sessions' homes: make, lock away, open again, move away and delete.

A home appears whole: it is made below .serai/making, where only root can reach, and renamed. What
a session wrote is never walked while anything could still change it, and never through a symlink.
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENOENT
from pathlib import Path

from serai.common import wait
from serai.common.errors import SeraiError
from serai.common.paths import Paths
from serai.runtime.sandbox import bwrap
from serai.runtime.sessions import names
from serai.runtime.sessions.registry import FIRST_UID, Registry
from serai.runtime.sessions.states import State

log = logging.getLogger(__name__)

# "nobody", whose archived homes once were. It is a user, and an owner can open what is shut.
FORMER = 65534
FOLDERS = (
    "tmp",
    "mnt",
    "mnt/outputs",
    "mnt/uploads",
    "mnt/.skills",
    "mnt/.skills/skills",
    "mnt/.claude",
)
FILES = {
    ".profile": '# Read by login shells.\n[ -z "$BASH_VERSION" ] || . ~/.bashrc\n',
    ".bashrc": "# Read by interactive shells.\ncase $- in *i*) ;; *) return ;; esac\n"
    "HISTCONTROL=ignoreboth\nPS1='\\u:\\w\\$ '\nalias ls='ls --color=auto'\n",
    ".bash_logout": "# Read when a login shell ends.\n",
}
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def prepare(paths: Paths) -> None:
    """Make the directories that everything else here needs; take over what was locked otherwise."""
    paths.sessions.mkdir(mode=0o755, parents=True, exist_ok=True)
    for folder in (paths.state, paths.making, paths.arriving, paths.removing, paths.jobs):
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
    for copy in paths.state.glob("backup-*.sqlite"):  # of a backup that was cut off
        copy.unlink(missing_ok=True)
    shutil.rmtree(paths.state / "restoring", ignore_errors=True)  # the same
    for name, (uid, _) in found(paths).items():
        if paths.home(name).lstat().st_uid == FORMER:
            lock(paths, name, uid)


def make(paths: Paths, name: str, uid: int) -> None:
    """Make the home of a new session, unless it is there. Raises SeraiError."""
    with _opened(paths.sessions) as sessions:
        if _owner(sessions, name) == uid:
            return
        draft = paths.making / str(uid)
        _fill(draft, uid)
        try:
            os.rename(draft, name, dst_dir_fd=sessions)
        except OSError as error:
            raise SeraiError(
                f"cannot put the home at {paths.home(name)}: {error.strerror}",
                "something is there that belongs to no session",
            ) from error


def mend(paths: Paths, name: str, uid: int) -> None:
    """Make sure of the directories that the sandbox mounts, whatever the session made of them.

    bubblewrap would follow a symlink there, in the VM. Nothing of the session runs.
    """
    with _home(paths, name, uid) as home:
        for path in bwrap.PINNED:
            above = os.dup(home)
            for part in path.split("/"):
                inner = _directory(above, part, uid)
                os.close(above)
                above = inner
            os.close(above)


def _directory(above: int, name: str, uid: int) -> int:
    """The directory ``name``, opened. What is there but is none gets another name."""
    try:
        inner = os.open(name, _FOLDER, dir_fd=above)
    except OSError as error:
        if error.errno != ENOENT:
            os.rename(name, f"{name}-{os.urandom(4).hex()}", src_dir_fd=above, dst_dir_fd=above)
        os.mkdir(name, 0o700, dir_fd=above)
        os.chown(name, uid, uid, dir_fd=above, follow_symlinks=False)
        return os.open(name, _FOLDER, dir_fd=above)
    os.fchmod(inner, os.fstat(inner).st_mode & 0o777 | 0o700)
    return inner


def lock(paths: Paths, name: str, uid: int) -> None:
    """Lock the home away: its top directory becomes root's, mode 0000, however much is in it.

    Only root can take that back. The group stays the session's, so that the UID within can be told
    from outside. fsync'ed.
    """
    with _home(paths, name, uid) as home:
        os.fchmod(home, 0)
        os.fchown(home, 0, uid)
        os.fsync(home)


def unlock(paths: Paths, name: str, uid: int) -> None:
    """The reverse of ``lock``; puts the mode of an open home back to 0700."""
    with _home(paths, name, uid) as home:
        os.fchown(home, uid, uid)
        os.fchmod(home, 0o700)
        os.fsync(home)


def move_away(paths: Paths, name: str, uid: int) -> None:
    """Take a home out of sight, to be deleted. No home is no error; another's is left alone."""
    with _opened(paths.sessions) as sessions, _opened(paths.removing) as removing:
        if _owner(sessions, name) == uid:
            os.rename(name, str(uid), src_dir_fd=sessions, dst_dir_fd=removing)
            os.fsync(removing)
            os.fsync(sessions)


async def delete(paths: Paths, uid: int) -> None:
    """Delete what ``move_away`` took away, in a child process of low priority.

    rm(1) walks by descriptors and follows no symlink; the folder around is root's alone, and
    every process of the session is gone. Raises SeraiError if something is left.
    """
    for folder in (paths.removing, paths.making, paths.arriving, paths.jobs):
        if not os.path.lexists(folder / str(uid)):
            continue
        with tempfile.TemporaryFile() as errors:
            child = subprocess.Popen(
                ["/usr/bin/nice", "-n", "10", "rm", "-rf", "--one-file-system", "--", str(uid)],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            )
            await wait.exited(child.pid)
            if child.wait() != 0:
                errors.seek(0)
                said = errors.read(1000).decode(errors="replace").splitlines()
                raise SeraiError(
                    f"the data of UID {uid} is not deleted yet: {said[0] if said else 'rm failed'}",
                    "it is tried again when sessiond starts",
                )
    for socket in paths.holders.glob(f"{uid}-*.sock"):
        socket.unlink(missing_ok=True)


def found(paths: Paths) -> dict[str, tuple[int, bool]]:
    """The homes on the disk: name -> (UID of the session, whether it is locked away)."""
    homes = {}
    with os.scandir(paths.sessions) as entries:
        for entry in entries:
            if entry.name.startswith(".") or not entry.is_dir(follow_symlinks=False):
                continue
            info = entry.stat(follow_symlinks=False)
            # The group is the session's in both cases; see ``lock``.
            locked = info.st_uid == FORMER or (not info.st_uid and not info.st_mode & 0o7777)
            if info.st_gid and (locked or info.st_uid == info.st_gid):
                homes[entry.name] = (info.st_gid, locked)
    return homes


def leftovers(paths: Paths) -> set[int]:
    """The UIDs of which something waits in .serai/making, .serai/arriving or .serai/removing."""
    folders = (paths.making, paths.arriving, paths.removing)
    names = [entry.name for folder in folders for entry in folder.iterdir()]
    return {int(name) for name in names if name.isdigit()}


def _fill(draft: Path, uid: int) -> None:
    """The content of a new home. Nobody but root can reach it yet, so paths are safe to use."""
    draft.mkdir(mode=0o700, exist_ok=True)
    for folder in FOLDERS:
        (draft / folder).mkdir(mode=0o700, exist_ok=True)
        os.chown(draft / folder, uid, uid)
    for file, text in FILES.items():
        (draft / file).write_text(text)
        (draft / file).chmod(0o644)
        os.chown(draft / file, uid, uid)
    os.chown(draft, uid, uid)


def _owner(sessions: int, name: str) -> int | None:
    """The UID of the session whose home that is; None if it is nobody's home or not there."""
    try:
        info = os.stat(name, dir_fd=sessions, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return info.st_gid if stat.S_ISDIR(info.st_mode) else None


@contextmanager
def _home(paths: Paths, name: str, uid: int) -> Iterator[int]:
    with _opened(paths.sessions) as sessions:
        try:
            home = os.open(name, _FOLDER, dir_fd=sessions)
        except OSError as error:
            raise SeraiError(
                f"cannot open the home of session {name}: {error.strerror}",
                f"look at {paths.home(name)}",
            ) from error
        try:
            if os.fstat(home).st_gid != uid:
                raise SeraiError(f"{paths.home(name)} does not belong to session {name}")
            yield home
        finally:
            os.close(home)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, _FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def take_in(paths: Paths, registry: Registry) -> None:
    """Homes of which the registry knows nothing: it was restored from an older copy."""
    homes = found(paths)
    known = {record.name for record in registry.all() if record.state != State.REMOVING}
    uids = {uid for uid, _ in homes.values()} | leftovers(paths)
    if uids:
        registry.reserve_uids(max(uids))
    for name, (uid, locked) in homes.items():
        if name in known or uid < FIRST_UID or registry.by_uid(uid) is not None:
            continue
        try:
            names.check(name)
        except SeraiError:
            continue
        log.warning("session %s was not in the registry; its home is taken in", name)
        state = State.ARCHIVED if locked else State.STOPPED
        registry.adopt(uid, name, state, time.time())
