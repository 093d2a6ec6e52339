"""A connection to a fleet's servers is by TLS, whatever a server says, and by both certificates."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from serai.common.errors import SeraiError
from serai.fleet.client import FleetClient
from serai.fleet.connection import MUCH, Connection
from serai.image.fleet import certificates
from serai.image.fleet.certificates import Pair
from tests.support import nats_servers
from tests.support.nats_servers import Servers
from tests.support.waiting import wait_for


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with nats_servers.cluster(
        tmp_path_factory.mktemp("fleet"), 1, ["a"], ["alice", "bob"]
    ) as found:
        yield found


def refused(place: str, credentials: Path, patience: float) -> str:
    """Why no connection comes of it."""

    async def main() -> str:
        made = Connection([place], credentials, "me", "_INBOX")
        with pytest.raises(SeraiError) as caught:
            await made.open(patience)
        return str(caught.value)

    return asyncio.run(main())


def test_nothing_is_said_to_a_server_that_asks_for_no_tls(servers: Servers) -> None:
    heard: list[bytes] = []

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.9.10","max_payload":131072}\r\n')
        heard.append(await reader.read())
        writer.close()

    async def main() -> None:
        async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            folder = servers.folder / "clients/alice"
            made = Connection([f"127.0.0.1:{port}"], folder, "me", "_INBOX")
            with pytest.raises(SeraiError, match="it does not ask for TLS"):
                await made.open(1)

    asyncio.run(main())
    assert set(heard) == {b""}


def test_a_server_of_another_authority_is_refused(servers: Servers, tmp_path: Path) -> None:
    folder = tmp_path / "alice"
    shutil.copytree(servers.folder / "clients/alice", folder)
    shutil.copy(servers.folder / "route-ca.pem", folder / "ca.pem")
    (server,) = servers.all
    said = refused(f"127.0.0.1:{server.port}", folder, 3)
    assert f"{folder}/ca.pem wants it: unable to get local issuer certificate; " in said


def test_another_server_than_the_certificate_names_is_refused(servers: Servers) -> None:
    (server,) = servers.all
    said = refused(f"localhost:{server.port}", servers.folder / "clients/alice", 3)
    assert "wants it: Hostname mismatch, certificate is not valid for 'localhost'; name" in said


def test_a_certificate_that_was_withdrawn_is_refused_at_once(
    servers: Servers, tmp_path: Path
) -> None:
    (server,) = servers.all
    shutil.copytree(servers.folder / "clients/bob", tmp_path / "bob")
    servers.make(revoke=["bob"])
    servers.reload()
    wait_for(lambda: "Reloaded" in servers.log(server))
    said = refused(f"127.0.0.1:{server.port}", tmp_path / "bob", 20)
    assert f"refuses the certificate in {tmp_path}/bob" in said


def test_a_certificate_that_has_expired_is_told_with_what_to_do(
    servers: Servers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (server,) = servers.all
    monkeypatch.setattr(certificates, "LEAF", timedelta(seconds=-1))
    made = Pair(tmp_path / "cert.pem", tmp_path / "key.pem")
    authority = Pair(servers.folder / "ca.pem", servers.folder / "ca.key")
    certificates.leaf(made, authority, "alice.client.serai", certificates.CLIENT)
    shutil.copy(servers.folder / "ca.pem", tmp_path)
    caplog.set_level("INFO")
    said = refused(f"127.0.0.1:{server.port}", tmp_path, 3)
    assert f"no server takes the certificate in {tmp_path}; " in said
    assert said.endswith("--renew'")
    assert len(caplog.messages) == len(set(caplog.messages))  # and not each second


def test_a_vms_certificate_is_no_clients_and_it_is_said(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serai.fleet.client.OPENING", 1.0)
    (server,) = servers.all

    async def main() -> None:
        place = f"127.0.0.1:{server.port}"
        async with FleetClient([place], servers.folder / "vms/a") as client:
            with pytest.raises(SeraiError, match=r"permissions violation.*a client's is needed"):
                await client.vms()

    asyncio.run(main())


def test_who_waits_for_a_server_that_hangs_can_be_cancelled(servers: Servers) -> None:
    """nats-py swallows it: whoever was told to end went on."""

    async def main(pid: int) -> None:
        places = [f"{each.host}:{each.port}" for each in servers.all]
        made = Connection(places, servers.folder / "clients/alice", "me", "_INBOX")
        await made.open()

        async def send() -> None:
            while True:
                await made.publish("serai.down.a.open", bytes(100_000))

        os.kill(pid, signal.SIGSTOP)
        try:
            sending = asyncio.create_task(send())
            while made.nats.pending_data_size <= MUCH:
                await asyncio.sleep(0)
            sending.cancel()
            await asyncio.wait([sending], timeout=5)
            assert sending.cancelled()
        finally:
            os.kill(pid, signal.SIGCONT)
            await made.close()

    (process,) = servers.running.values()
    asyncio.run(asyncio.wait_for(main(process.pid), 60))
