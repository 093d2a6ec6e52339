"""Where a VM is: the addresses that ``--vm`` and SERAI_VM take, and how a connection is made.

``ssh://`` starts ssh(1), which runs ``serai stdio`` in the VM. Keys, known hosts, jump hosts and
agents are its business, and its configuration's. ``vsock://`` is for a VM of this host, where
serai-vsock.socket listens. ``nats://`` starts ``serai.fleet.stdio``, which finds the VM in a fleet.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

from serai.common.errors import GONE, INVALID_PARAMS, SeraiError

FORMS = "ssh://[USER@]HOST[:PORT], vsock://CID:PORT, unix:///PATH or nats://HOST[:PORT][,…][/VM]"
COMMAND = ("serai", "stdio")
# A key that interrupts a command reaches every process of the terminal. ssh would end by it, and
# the connection with it, before the command could be told. ssh leaves alone what is ignored.
_SHELL = 'trap "" INT QUIT; exec "$@"'
# Started with the path to modules of this process, and with none of its own: "" would be the
# working directory, where anybody may have put a module.
_FLEET = (
    "import sys; sys.path[:] = sys.argv.pop(1).split('\\n');"
    " from serai.fleet import stdio; stdio.run()"
)
NATS_PORT, _LAST_PORT = 4222, 65535
_FIRST_CID, _LAST = 3, (1 << 32) - 2
"""Of VMs: vsock(7). Below are the hypervisor, the loopback and the host, above is 'any'."""
LISTENS = "has the VM this CID, and does serai-vsock.socket listen in it? Its journal says more"


@dataclass(frozen=True)
class Address:
    """A VM's control socket: at ``path`` here, where ``ssh`` (its arguments) leads, or ``vsock``.

    That is a CID and a port. ``nats`` are the servers of a fleet, whose VM ``vm`` is meant; "": all
    of them. ``hint`` says where to look if nothing comes of it.
    """

    text: str
    path: Path | None = None
    ssh: tuple[str, ...] = ()
    vsock: tuple[int, int] | None = None
    nats: tuple[str, ...] = ()
    vm: str = ""
    hint: str = ""


def parse(text: str) -> Address:
    """The address that somebody wrote. Raises SeraiError."""
    if text.startswith("vsock:"):  # its ports are larger than those that urlsplit takes
        return _vsock(text)
    if text.startswith("nats:"):
        return _nats(text)
    try:
        parts = urlsplit(text)
    except ValueError:  # brackets without their other half, for example
        raise _wrong(text, f"an address is {FORMS}") from None
    try:
        port = parts.port
    except ValueError:
        raise _wrong(text, "its port is no number from 1 to 65535") from None
    if parts.query or parts.fragment or parts.password is not None:
        raise _wrong(text, "it has parts that no address of a VM has")
    if parts.scheme == "unix" and not parts.netloc and len(parts.path) > 1:
        return Address(text, path=Path(unquote(parts.path)))
    if parts.scheme != "ssh":
        raise _wrong(text, f"an address is {FORMS}")
    if not parts.hostname or parts.path not in ("", "/") or port == 0:
        raise _wrong(text, "after ssh:// come a user, a host and a port, and no path")
    # As it is written: a name in ssh's configuration may have capital letters.
    host = parts.netloc.rpartition("@")[2].removesuffix(f":{port}").strip("[]")
    user = unquote(parts.username or "")
    if host.startswith("-") or user.startswith("-"):
        raise _wrong(text, "ssh would take it for an option")
    options = [*(["-p", str(port)] if port else []), *(["-l", user] if user else [])]
    return Address(text, ssh=("-T", *options, "--", host, *COMMAND))


def connect(address: Address) -> tuple[socket.socket, subprocess.Popen[bytes] | None]:
    """A connection, and the program that carries it if one does. Raises SeraiError or OSError."""
    if address.path is not None:
        return _connected(socket.AF_UNIX, str(address.path)), None
    if address.vsock is not None:
        if not hasattr(socket, "AF_VSOCK"):
            hint = "on a Mac, vfkit makes the VM's port a Unix socket: unix:///PATH"
            raise SeraiError("this system has no vsock", hint, GONE)
        try:
            return _connected(socket.AF_VSOCK, address.vsock), None
        except OSError as error:
            said = f"cannot reach {address.text}: {error.strerror or error}"
            raise SeraiError(said, address.hint, GONE) from None
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            program = _fleet(address) if address.nats else _ssh(address)
        except SeraiError:
            ours.close()
            raise
        child = subprocess.Popen(
            ["/bin/sh", "-c", _SHELL, "sh", *program],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
        )
    return ours, child


def _ssh(address: Address) -> list[str]:
    program = shlex.split(os.environ.get("SERAI_SSH", "ssh"))
    if not program or shutil.which(program[0]) is None:
        hint = "install OpenSSH's client, or let SERAI_SSH name another program"
        raise SeraiError(f"there is no program {' '.join(program) or 'ssh'!r} here", hint, GONE)
    return [*program, *address.ssh]


def _fleet(address: Address) -> list[str]:
    if not all(map(find_spec, ("nats", "serai.fleet"))):
        hint = "pip install 'serai[fleet]', on a host"
        raise SeraiError("an address of a fleet takes the package nats-py", hint, GONE)
    where = "\n".join(map(os.path.abspath, sys.path))
    return [sys.executable, "-c", _FLEET, where, address.text]


def _connected(family: int, place: str | tuple[int, int]) -> socket.socket:
    end = socket.socket(family, socket.SOCK_STREAM)
    try:
        end.connect(place)
    except OSError:
        end.close()
        raise
    return end


def _vsock(text: str) -> Address:
    found = re.fullmatch(r"vsock://([0-9]{1,10}):([0-9]{1,10})/?", text)
    if not found:
        raise _wrong(text, "after vsock:// come the VM's CID and a port, two numbers")
    cid, port = int(found[1]), int(found[2])
    if not _FIRST_CID <= cid <= _LAST:
        raise _wrong(text, f"a VM's CID is a number from {_FIRST_CID} to {_LAST}")
    if not 1 <= port <= _LAST:
        raise _wrong(text, f"its port is no number from 1 to {_LAST}")
    return Address(text, vsock=(cid, port), hint=LISTENS)


def _nats(text: str) -> Address:
    found = re.fullmatch(r"nats://([^/]+)(?:/([a-z0-9][a-z0-9-]{0,62})?)?", text)
    if not found:
        raise _wrong(text, "after nats:// come a fleet's servers, and maybe /VM")
    servers = []
    for each in found[1].split(","):
        server = re.fullmatch(r"([A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\])(?::([0-9]{1,5}))?", each)
        if not server or not 0 < int(server[2] or NATS_PORT) <= _LAST_PORT:
            raise _wrong(text, f"{each!r} is not HOST[:PORT]")
        servers.append(f"{server[1]}:{server[2] or NATS_PORT}")
    return Address(text, nats=tuple(servers), vm=found[2] or "")


def _wrong(text: str, why: str) -> SeraiError:
    return SeraiError(f"{text!r} is no address of a VM: {why}", code=INVALID_PARAMS)
