"""A fleet's folder: what is in it, who can read it, and what another call changes."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from serai.fleet.subjects import BY_VMS
from serai.image.errors import BuildError
from serai.image.fleet import certificates, command, keys, permissions, servers
from serai.image.fleet.certificates import Pair
from serai.image.fleet.servers import NatsServer

ONE = NatsServer("nats-1.example")
THREE = [NatsServer(f"nats-{number}.example") for number in (1, 2, 3)]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def names(path: Path) -> list[str]:
    found = certificate(path).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return [str(name.value) for name in found.value]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    keys.make(tmp_path / "fleet", added=THREE, vms=["a", "b"], clients=["alice"])
    return tmp_path / "fleet"


def test_keys_are_their_owners_alone_and_say_who_they_are(folder: Path) -> None:
    assert names(folder / "vms/a/cert.pem") == ["a.vm.serai"]
    assert names(folder / "clients/alice/cert.pem") == ["alice.client.serai"]
    assert names(folder / "servers/nats-1.example/cert.pem") == ["nats-1.example"]
    assert folder.stat().st_mode & 0o777 == 0o700
    found = [*folder.rglob("*.key"), *folder.rglob("*key.pem")]
    assert len(found) == 2 + 3 * 2 + 3
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in found)
    for path in folder.rglob("*cert.pem"):
        made = certificate(path)
        purposes = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        is_route = path.name == "route-cert.pem"
        is_server = path.parts[-3] == "servers"
        assert (ExtendedKeyUsageOID.SERVER_AUTH in purposes) == is_server
        assert (ExtendedKeyUsageOID.CLIENT_AUTH in purposes) == (is_route or not is_server)
        issuer = certificate(folder / ("route-ca.pem" if is_route else "ca.pem"))
        made.verify_directly_issued_by(issuer)


def test_nothing_changes_that_is_there_and_new_ones_come_to_it(folder: Path) -> None:
    before = contents(folder)
    keys.make(folder)
    assert contents(folder) == before
    keys.make(folder, vms=["a", "c"])
    after = contents(folder)
    new = set(after) - set(before)
    assert {path.partition("/")[0] for path in new} == {"vms"}
    assert all("/c/" in path for path in new)
    changed = {path for path in before if before[path] != after[path]}
    assert changed == {"fleet.json", *(f"servers/{each.name}/users.conf" for each in THREE)}
    keys.make(folder, renew=True)
    renewed = {path for path in after if after[path] != contents(folder)[path]}
    leaves = {path for path in after if path.endswith(("cert.pem", "key.pem"))}
    assert renewed == leaves


def test_who_is_withdrawn_never_comes_back_as_the_same(folder: Path) -> None:
    users = folder / "servers/nats-1.example/users.conf"
    keys.make(folder, revoke=["a"])
    assert not (folder / "vms/a").exists()
    assert "serai.up.a." not in users.read_text()
    keys.make(folder, revoke=["vm/a"])  # once more is nothing
    keys.make(folder, vms=["a"])
    assert names(folder / "vms/a/cert.pem") == ["a.2.vm.serai"]
    assert '"a.vm.serai"' not in users.read_text()
    assert "serai.up.a." in users.read_text()
    keys.make(folder, revoke=["a"])
    keys.make(folder, vms=["a"])
    assert names(folder / "vms/a/cert.pem") == ["a.3.vm.serai"]


def test_a_run_that_was_cut_off_is_finished_by_the_next(folder: Path) -> None:
    whole = contents(folder)
    (folder / "vms/a/cert.pem").unlink()  # as if it had ended after the key
    (folder / "servers/nats-2.example/nats.conf").unlink()
    keys.make(folder)
    assert set(contents(folder)) == set(whole)
    (folder / "ca.key").unlink()
    with pytest.raises(BuildError, match=r"ca\.key is missing"):
        keys.make(folder, vms=["d"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vms": ["A"]}, "'A' is no name here"),
        ({"vms": ["a.b"]}, "is no name here"),
        ({"vms": ["*"]}, "is no name here"),
        ({"clients": ["../x"]}, "is no name here"),
        ({"revoke": ["nobody"]}, "none of the fleet's"),
        ({"revoke": ["both"]}, "two of the fleet's; say vm/both or client/both"),
    ],
)
def test_what_cannot_be_is_refused(folder: Path, changes: dict[str, Any], said: str) -> None:
    keys.make(folder, vms=["both"], clients=["both"])
    before = contents(folder)
    with pytest.raises(BuildError) as error:
        keys.make(folder, **changes)
    assert said in str(error.value)
    assert contents(folder) == before


@pytest.mark.parametrize("text", ["", "A.example", "a b", "a:0", "a:70000", 'a"b', "a:4222:1", "-"])
def test_a_server_has_a_host_and_a_port(text: str) -> None:
    with pytest.raises(BuildError, match="is no server"):
        servers.parse(text)


def test_servers_have_names_and_ports(folder: Path) -> None:
    assert servers.parse("nats-1.example") == ONE
    assert servers.parse("192.0.2.1:4333").route_port == 6333
    assert servers.parse("[2001:db8::1]").name == "2001-db8--1"
    text = servers.text(ONE, THREE)
    assert "nats-route://nats-2.example:6222" in text
    assert "nats-route://nats-1.example" not in text
    assert "cluster" not in servers.text(ONE, [ONE])  # one alone needs no port for others
    assert names(folder / "servers/nats-3.example/route-cert.pem") == ["nats-3.example"]


def test_what_ends_soon_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert keys.make(folder)[1] == []
    monkeypatch.setattr(certificates, "LEAF", timedelta(days=30))
    said = keys.make(folder, vms=["brief"])[1]
    day = Pair(folder / "vms/brief/cert.pem", folder / "vms/brief/key.pem").until()
    assert said == [f"vms/brief/cert.pem ends on {day:%Y-%m-%d}: --renew"]


def test_the_task_says_how_to_begin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nothing: dict[str, tuple[str, ...]] = {"vms": (), "clients": (), "revoke": ()}
    with pytest.raises(BuildError, match="no fleet's yet"):
        command.keys_of(tmp_path / "x", servers=["h.example"], renew=False, **nothing)
    command.keys_of(
        tmp_path / "x", servers=["h.example"], vms=["a"], clients=["me"], revoke=(), renew=False
    )
    said = capsys.readouterr().out
    assert "vm a: vms/a" in said
    assert json.loads((tmp_path / "x/fleet.json").read_text())["servers"] == ["h.example:4222"]


def test_a_client_passes_for_no_vm_and_a_vm_for_no_other() -> None:
    a, b = (permissions.of_vm(name, name) for name in "ab")
    client = permissions.of_client("me")
    assert not set(a.publish) & set(b.publish)
    assert not any(subject.startswith("serai.up.") for subject in client.publish)
    assert not any(subject.startswith(("serai.down.", "$SYS")) for subject in client.subscribe)
    assert not any(f"$KV.{bucket}." in word for bucket in BY_VMS for word in client.publish)
    assert not any(subject.startswith("$JS") for subject in (*a.publish, *a.subscribe))
