"""What a session's unit and sandbox read: the files below /run/serai/sessions/<name>."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import subprocess
from functools import cache
from pathlib import Path

from serai.common import files
from serai.common.errors import SeraiError
from serai.common.paths import Paths
from serai.common.sandboxes import STRICT
from serai.runtime.sandbox import bwrap
from serai.runtime.sessions.own import memory_of_vm
from serai.runtime.sessions.steps import users
from serai.runtime.settings import SessionSettings

GATE_USER = "serai-gate"
BRIDGE_GROUP = "serai-bridge"
"""A group that sessions' units have, and no payload."""


def description(paths: Paths, name: str, uid: int) -> bwrap.Session:
    """The session as the sandbox's arguments and environment are made from it."""
    return bwrap.Session(
        name=name,
        uid=uid,
        gid=uid,
        home=paths.home(name),
        state=paths.session(name),
        gate=paths.gate(name),
        certificates=paths.certificates(name),
    )


def session(
    paths: Paths, settings: SessionSettings, name: str, uid: int, sandbox: str
) -> int | None:
    """Write everything that a session's start needs. Root's, and readable for the session.

    Returns what ``sandbox_arguments`` does.
    """
    folder = paths.session(name)
    _folder(folder, 0o711)
    users.write(folder / "users", [(name, uid)], users.SHELL)
    files.write(folder / "hosts", bwrap.hosts(settings).encode(), durable=False)
    ssh_config = folder / "ssh_config"
    if Path(bwrap.SSH_CONFIG).exists():
        files.write(ssh_config, bwrap.ssh_config(settings).encode(), durable=False)
    else:
        ssh_config.unlink(missing_ok=True)
    _hints_folder(folder / "hints", uid)
    gate_folder(paths, name, uid, sandbox)
    _certificates_folder(paths, name, uid)
    return sandbox_arguments(paths, settings, name, uid)


def sandbox_arguments(paths: Paths, settings: SessionSettings, name: str, uid: int) -> int | None:
    """Write what bubblewrap is given; returns how many bytes a file system in memory may have."""
    room = bwrap.room(settings, _bubblewrap(), memory_of_vm())
    arguments = bwrap.arguments(settings, description(paths, name, uid), room)
    files.write(paths.session(name) / "args", bwrap.encode(arguments), durable=False)
    return room


def gate_folder(paths: Paths, name: str, uid: int, sandbox: str) -> None:
    """The folder of a session's two sockets.

    The gate owns it and makes the sockets; of all users only the session may pass. Where payloads
    have Unix sockets only the bridge may: who speaks to the gate without it could hand over a
    descriptor whose end takes as long as they like (SO_LINGER in socket(7)).

    Raises SeraiError if there is no group for the bridge.
    """
    group = uid if sandbox == STRICT else _bridge_gid()
    gate = paths.gate(name)
    _folder(gate, 0o710)
    os.chown(gate, _gate_uid(), group)
    gate.chmod(0o2710)


def _certificates_folder(paths: Paths, name: str, uid: int) -> None:
    """The folder of the certificates that a session trusts: the gate's, and the session may read.

    Made at its start only. A session that runs since before there were any has no mount of it, and
    by the folder the gate sees whether it may tell programs of files in there.
    """
    folder = paths.certificates(name)
    _folder(folder, 0o750)
    os.chown(folder, _gate_uid(), uid)
    folder.chmod(0o2750)


def hints(paths: Paths, name: str, uid: int, content: bytes) -> None:
    """Tell a session where its folders are: a file that it, and nobody else, can read any time."""
    folder = paths.session(name) / "hints"
    _hints_folder(folder, uid)
    files.write(folder / "hints.json", content, durable=False)


def _hints_folder(folder: Path, uid: int) -> None:
    """The host's paths are in it: only root and the session's group may enter."""
    _folder(folder, 0o750)
    os.chown(folder, 0, uid)


def withdraw(paths: Paths, name: str) -> None:
    """Take back what ``session`` wrote; nothing there is no error."""
    shutil.rmtree(paths.session(name), ignore_errors=True)
    shutil.rmtree(paths.gate(name), ignore_errors=True)
    shutil.rmtree(paths.certificates(name), ignore_errors=True)


def prune(paths: Paths, keep: set[str]) -> None:
    """Take back what was written for sessions that are not in ``keep``."""
    for parent in {place("x").parent for place in (paths.session, paths.gate, paths.certificates)}:
        _folder(parent, 0o711)
        for folder in parent.iterdir():
            if folder.name not in keep:
                withdraw(paths, folder.name)


def _folder(path: Path, mode: int) -> None:
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    path.chmod(mode)


@cache
def _bubblewrap() -> str:
    """What bubblewrap says of its version; it is asked once."""
    argv = ["bwrap", "--version"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def _bridge_gid() -> int:
    try:
        return grp.getgrnam(BRIDGE_GROUP).gr_gid
    except KeyError:
        raise SeraiError(
            f"the VM has no group {BRIDGE_GROUP}", "provision it again, or use another sandbox"
        ) from None


def _gate_uid() -> int:
    try:
        return pwd.getpwnam(GATE_USER).pw_uid
    except KeyError:
        return 0
