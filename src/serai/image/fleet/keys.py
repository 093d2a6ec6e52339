"""What ``invoke fleet-keys`` does: a folder with a fleet's keys and its servers' configuration.

    fleet.json                     who belongs to the fleet
    ca.pem, ca.key                 vouches for servers, VMs and clients
    route-ca.pem, route-ca.key     vouches for servers among themselves
    servers/NAME/                  for /etc/nats of that server: nats.conf, users.conf, keys
    vms/NAME/, clients/NAME/       ca.pem, cert.pem, key.pem

Called again, it adds what is missing and leaves the rest. The folder is the fleet: who has it can
make anybody, so it is kept as a root password is.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from serai.common import files
from serai.fleet import subjects
from serai.image import cache
from serai.image.errors import BuildError
from serai.image.fleet import certificates, permissions, servers
from serai.image.fleet.certificates import CLIENT, SERVER, Pair
from serai.image.fleet.permissions import User
from serai.image.fleet.servers import NatsServer

FILE = "fleet.json"
SOON = timedelta(days=60)
"""Before a certificate ends, this is when it is told."""

_KINDS = ("vm", "client")


@dataclass
class Roster:
    """Who belongs to a fleet.

    ``vms`` and ``clients`` have the number of each one's identity. A name that is withdrawn and
    comes back gets the next number: what was stolen stays worth nothing. Withdrawn is who is in
    ``withdrawn`` with the last number that it had.
    """

    servers: list[str] = field(default_factory=list)
    vms: dict[str, int] = field(default_factory=dict)
    clients: dict[str, int] = field(default_factory=dict)
    withdrawn: dict[str, int] = field(default_factory=dict)

    def of(self, kind: str) -> dict[str, int]:
        return self.vms if kind == "vm" else self.clients

    def users(self) -> Iterator[User]:
        for name, number in sorted(self.vms.items()):
            yield permissions.of_vm(name, user("vm", name, number))
        for name, number in sorted(self.clients.items()):
            yield permissions.of_client(user("client", name, number))


def user(kind: str, name: str, number: int) -> str:
    """The user that a certificate names: ``a.vm.serai``, and ``a.2.vm.serai`` once withdrawn."""
    return f"{name}.{kind}.serai" if number == 1 else f"{name}.{number}.{kind}.serai"


def make(
    folder: Path,
    *,
    added: Sequence[NatsServer] = (),
    vms: Sequence[str] = (),
    clients: Sequence[str] = (),
    revoke: Sequence[str] = (),
    renew: bool = False,
) -> tuple[Roster, list[str]]:
    """Bring the folder to what is asked for; the fleet, and what is to be told of it, a line each.

    ``renew`` makes all certificates anew, but for the authorities'. Raises BuildError.
    """
    for name in [*vms, *clients]:
        if not subjects.is_vm(name):  # a label of DNS, and a token of NATS; clients' likewise
            raise BuildError(f"'{name}' is no name here", hint="letters a-z, 0-9 and - inside")
    certificates.private_folder(folder)
    with cache.locked(folder / ".lock"):
        fleet = read(folder)
        fleet.servers = sorted({*fleet.servers, *(_told(each) for each in added)})
        for kind, names in (("vm", vms), ("client", clients)):
            for name in names:
                number = fleet.withdrawn.pop(f"{kind}/{name}", 0) + 1
                fleet.of(kind).setdefault(name, number)
        for each in revoke:
            _withdraw(fleet, each)
        _write(folder, fleet)  # first: who is withdrawn is so also after a crash here
        places = {server.name: server for server in added}
        _keys(folder, fleet, renew=renew)
        _configure(folder, fleet, places)
        _remove_others(folder, fleet)
        return fleet, list(_endings(folder))


def read(folder: Path) -> Roster:
    """The fleet of a folder, an empty one for a new folder. Raises BuildError."""
    path = folder / FILE
    if not path.exists():
        return Roster()
    try:
        table: dict[str, Any] = json.loads(path.read_text())
        return Roster(**table)
    except (OSError, ValueError, TypeError) as error:
        raise BuildError(f"{path} cannot be read: {error}", hint="restore it from a copy") from None


def _write(folder: Path, fleet: Roster) -> None:
    content = json.dumps(vars(fleet), indent=2, sort_keys=True) + "\n"
    files.write(folder / FILE, content.encode(), 0o600)


def _told(server: NatsServer) -> str:
    return f"{server.host}:{server.port}"


def _withdraw(fleet: Roster, name: str) -> None:
    """``name`` is a VM's or a client's, or vm/NAME or client/NAME."""
    kind, _, plain = name.rpartition("/")
    kinds = [each for each in _KINDS if kind in ("", each) and plain in fleet.of(each)]
    gone = [each for each in _KINDS if kind in ("", each) and f"{each}/{plain}" in fleet.withdrawn]
    if not kinds and gone:
        return
    if len(kinds) != 1:
        hint = f"say vm/{name} or client/{name}" if kinds else f"{FILE} says who there is"
        raise BuildError(f"'{name}' is {'two' if kinds else 'none'} of the fleet's", hint=hint)
    fleet.withdrawn[f"{kinds[0]}/{plain}"] = fleet.of(kinds[0]).pop(plain)


def _keys(folder: Path, fleet: Roster, *, renew: bool) -> None:
    ca, routes = authorities(folder)
    for pair, name in ((ca, "Serai fleet"), (routes, "Serai fleet: servers")):
        if pair.missing():
            if any(folder.glob("*/*/cert.pem")):
                raise BuildError(
                    f"{pair.key} is missing, and there are certificates of it",
                    hint="restore it from a copy, or begin a fleet in a new directory",
                )
            certificates.authority(pair, name)
    for text in fleet.servers:
        server = servers.parse(text)
        home = folder / "servers" / server.name
        certificates.private_folder(home)
        certificates.copied(routes.certificate, home / "route-ca.pem")
        _leaf(home, "", ca, server.host, SERVER, renew=renew)
        _leaf(home, "route-", routes, server.host, SERVER + CLIENT, renew=renew)
        certificates.copied(ca.certificate, home / "ca.pem")
    for kind in _KINDS:
        for name, number in fleet.of(kind).items():
            home = folder / f"{kind}s" / name
            certificates.private_folder(home)
            certificates.copied(ca.certificate, home / "ca.pem")
            _leaf(home, "", ca, user(kind, name, number), CLIENT, renew=renew)


def authorities(folder: Path) -> tuple[Pair, Pair]:
    """That of servers, VMs and clients, and that of servers among themselves."""
    return (
        Pair(folder / "ca.pem", folder / "ca.key"),
        Pair(folder / "route-ca.pem", folder / "route-ca.key"),
    )


def _leaf(home: Path, prefix: str, issuer: Pair, name: str, purposes: Any, *, renew: bool) -> None:
    pair = Pair(home / f"{prefix}cert.pem", home / f"{prefix}key.pem")
    if renew or pair.missing():
        certificates.leaf(pair, issuer, name, purposes)


def _configure(folder: Path, fleet: Roster, places: dict[str, NatsServer]) -> None:
    """The servers' files. ``places`` are servers that are not at the usual place of a host."""
    users = permissions.text(fleet.users()).encode()
    known = [servers.parse(text) for text in fleet.servers]
    known = [places.get(server.name, server) for server in known]
    for server in known:
        home = folder / "servers" / server.name
        files.write(home / "users.conf", users, 0o644)
        files.write(home / "nats.conf", servers.text(server, known).encode(), 0o644)


def _remove_others(folder: Path, fleet: Roster) -> None:
    """Keys of who is withdrawn."""
    for kind in _KINDS:
        for home in (folder / f"{kind}s").glob("*"):
            if home.name not in fleet.of(kind):
                shutil.rmtree(home)


def _endings(folder: Path) -> Iterator[str]:
    now = datetime.now(timezone.utc)
    for path in sorted(folder.glob("**/*.pem")):
        if path.stem.endswith("cert") or path.parent == folder:
            until = Pair(path, path).until()
            if until < now + SOON:
                word = "ended" if until < now else "ends"
                yield f"{path.relative_to(folder)} {word} on {until:%Y-%m-%d}: --renew"
