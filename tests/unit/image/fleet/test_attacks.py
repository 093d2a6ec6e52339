"""What somebody may do who stole a VM's keys, at real NATS servers: nothing to the other VMs.

Three servers as ``invoke fleet-keys`` configures them. ``a`` is the VM whose keys are stolen, ``b``
another one, and ``alice`` a client, who hears all that arrives anywhere.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Iterator
from functools import partial
from typing import Any, TypeVar

import nats
import pytest
from nats.aio.msg import Msg

from serai.fleet import command, doubles, subjects
from serai.fleet.command import configuration
from serai.image.fleet import certificates, permissions
from serai.image.fleet.loopback import PROGRAM
from tests.support.fleet_members import client, prepared
from tests.support.nats_servers import Servers, cluster, context
from tests.support.thief import Thief, eventually, how_many, last, value
from tests.support.waiting import wait_for

T = TypeVar("T")
DEADLINE = 30.0
CLAIMS = subjects.CLAIMS
ROW, CLAIM = b"b's own row", b'{"vm": "b"}'
ROWS = ((subjects.SESSIONS, "b.one"), (subjects.VMS, "b"))

pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason="'make setup' brings nats-server")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    logging.getLogger("nats.aio.client").setLevel(logging.CRITICAL)  # it prints each refusal
    folder = tmp_path_factory.mktemp("fleet") / "keys"
    with cluster(folder, 3, ["a", "b", "c"], ["alice", "bob"]) as found:
        run(_buckets(found))
        yield found


async def _buckets(servers: Servers) -> None:
    await prepared(servers, 3)
    alice = await servers.connect("client", "alice")
    jetstream = alice.jetstream(timeout=DEADLINE)
    await (await jetstream.key_value(CLAIMS)).create("name.one", CLAIM)
    b = await servers.connect("vm", "b")
    for bucket, key in ROWS:
        await b.publish(f"$KV.{bucket}.{key}", ROW)
        kept = await jetstream.key_value(bucket)
        await eventually(partial(value, kept, key), ROW)
    await b.close()
    await alice.close()


def run(coroutine: Awaitable[T]) -> T:
    async def bounded() -> T:
        return await asyncio.wait_for(coroutine, 60)

    return asyncio.run(bounded())


NOT_HEARD = [
    *(">", "*", "*.>", "*.*.*.>", "serai.>", "serai.*.>", "serai.*.b.>"),
    *("serai.down.>", "serai.down.*.open", "serai.down.b.>", "serai.up.>", "serai.up.b.s.1"),
    *("$KV.>", "$KV.serai_sessions.>", "$KV.serai_sessions.b.one", "$KV.serai_claims.>"),
    *("$JS.>", "$JS.API.>", "$JS.EVENT.>", "$JS.ACK.>", "$JSC.>", "$NRG.>", "$SYS.>"),
    *(
        "_INBOX.>",
        "_INBOX.*",
        "_INBOX.b.>",
        "_INBOX.*.>",
        "serai.kept.>",
        "serai.kept.*.b",
        "serai.kept.*.b.>",
        "_R_.>",
        "_GR_.>",
    ),
    # As one of the queue group only: otherwise it would hear who makes how many sessions, and when.
    *("serai.place.>", "serai.place.*.*.*", "serai.place.any.any.any"),
]
QUEUES = [
    ("serai.place.any.any.any", "mine"),
    ("serai.>", permissions.QUEUE),
    ("serai.down.b.>", permissions.QUEUE),
    ("_INBOX.>", permissions.QUEUE),
]


def test_a_stolen_vm_hears_nothing_that_is_not_its(servers: Servers) -> None:
    async def attack() -> None:
        thief = Thief()
        await thief.connect(servers)
        tried = [(subject, "") for subject in NOT_HEARD] + QUEUES
        for count, (subject, queue) in enumerate(tried, 1):
            await thief.connection.subscribe(subject, queue=queue, cb=thief.hear)
            await thief.connection.flush()
            await thief.refusals(count, f"{subject} {queue}")
            assert "permissions violation for subscription" in thief.refused[-1]
        alice = await servers.connect("client", "alice")
        for subject in ("serai.down.b.open", "serai.place.any.any.any", "$KV.serai_claims.x"):
            await alice.publish(subject, b"secret")
        await alice.flush()
        await thief.connection.flush()
        assert thief.heard == []
        await alice.close()
        await thief.connection.close()

    run(attack())


NOT_SAID = [
    *("serai.down.b.open", "serai.down.b.s.1", "serai.down.b.ask", "serai.down.a.open"),
    *(
        "serai.up.b.s.1",
        "serai.place.any.any.any",
        "serai.other",
        "other",
        "serai.kept.serai_vms.b",
    ),
    # Wildcards mean nothing where one publishes, and must not match what is its own either.
    *("serai.up.*.s.1", "serai.*.a.s.1", "$KV.serai_vms.*", "$KV.serai_sessions.*.one"),
    *("$KV.serai_vms.b", "$KV.serai_alive.b", "$KV.serai_sessions.b.one", "$KV.serai_vms.a.b"),
    *("$KV.serai_claims.name.one", "$KV.serai_claims.name.new", "$KV.other.a"),
    *("_INBOX.b.1", "_INBOX.a.1", "_INBOX.1", "_INBOX.bob.1"),
    *("$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.CREATE.MINE"),
    *("$JS.API.STREAM.INFO.KV_serai_sessions", "$JS.API.STREAM.PURGE.KV_serai_claims"),
    *("$JS.API.STREAM.DELETE.KV_serai_vms", "$JS.API.STREAM.SNAPSHOT.KV_serai_sessions"),
    *("$JS.API.DIRECT.GET.KV_serai_sessions", "$JS.API.STREAM.MSG.GET.KV_serai_sessions"),
    *("$JS.API.DIRECT.GET.KV_serai_sessions.$KV.serai_sessions.b.one",),
    *("$JS.API.CONSUMER.CREATE.KV_serai_sessions", "$JS.API.META.LEADER.STEPDOWN"),
    *("$JS.ACK.KV_serai_vms.x.1.1.1.1.1", "$JS.FC.KV_serai_vms.x.y", "$NRG.V.x"),
    *("$SYS.REQ.USER.INFO", "$SYS.REQ.SERVER.PING", "$SYS.REQ.ACCOUNT.SERAI.CONNZ", doubles.ASK),
]


def test_a_stolen_vm_says_nothing_that_is_not_its(servers: Servers) -> None:
    """Nor creates a stream of its own, by which it could copy the others'."""

    async def attack() -> None:
        thief, arrived = Thief(), Thief()
        await thief.connect(servers)
        alice = await servers.connect("client", "alice")
        b = await servers.connect("vm", "b")
        for subject in ("serai.up.>", "_INBOX.>", "$KV.serai_claims.>"):
            await alice.subscribe(subject, cb=arrived.hear)
        await b.subscribe("serai.down.b.>", cb=arrived.hear)
        await asyncio.gather(alice.flush(), b.flush())
        for count, subject in enumerate(NOT_SAID, 1):
            reply = "_INBOX.a.answer"
            await thief.connection.publish(subject, b"{}", reply=reply)
            await thief.connection.flush()
            await thief.refusals(count, subject)
            assert "permissions violation for publish" in thief.refused[-1]
        await asyncio.gather(alice.flush(), b.flush())
        assert [message.subject for message in arrived.heard] == []
        for connection in (alice, b, thief.connection):
            await connection.close()

    run(attack())
    run(_intact(servers))


async def _intact(servers: Servers) -> None:
    """What b and the clients have written is there, as they wrote it."""
    alice = await servers.connect("client", "alice")
    jetstream = alice.jetstream(timeout=DEADLINE)
    assert (await (await jetstream.key_value(CLAIMS)).get("name.one")).value == CLAIM
    for bucket, key in ROWS:
        assert (await (await jetstream.key_value(bucket)).get(key)).value == ROW
    await alice.close()


ELSEWHERE = [
    *("serai.down.b.open", "serai.up.b.s.1", "_INBOX.bob.1"),
    *("$KV.serai_sessions.b.one", "$KV.serai_claims.name.one"),
    *("$JS.API.STREAM.PURGE.KV_serai_claims", "$JS.API.STREAM.PURGE.KV_serai_sessions"),
    *("$JS.API.STREAM.MSG.DELETE.KV_serai_claims", "$JS.API.STREAM.DELETE.KV_serai_claims"),
]
HEADERS: list[dict[str, Any] | None] = [
    None,
    {"Nats-Rollup": "all"},
    {"Nats-Rollup": "sub"},
    {"Nats-Msg-Id": "1"},
    {"Nats-Expected-Last-Sequence": "77"},
    {"Nats-Expected-Stream": "none"},
]


def test_no_server_speaks_for_a_stolen_vm(servers: Servers) -> None:
    """JetStream answers with its own rights, to whatever subject the asker named: so not at all."""

    async def attack() -> None:
        thief, arrived = Thief(), Thief()
        await thief.connect(servers)
        await thief.connection.subscribe("serai.kept.*.a", cb=thief.hear)
        alice = await servers.connect("client", "alice")
        b = await servers.connect("vm", "b")
        for subject in ("serai.up.b.>", "_INBOX.bob.>"):
            await alice.subscribe(subject, cb=arrived.hear)
        for subject in ("serai.down.b.>", "serai.kept.*.b", "serai.kept.*.b.>"):
            await b.subscribe(subject, cb=arrived.hear)
        await asyncio.gather(alice.flush(), b.flush())
        for headers in HEADERS:
            for reply in ELSEWHERE:
                for subject in ("$KV.serai_vms.a", "$KV.serai_sessions.a.x"):
                    await thief.connection.publish(subject, b"x", reply=reply, headers=headers)
        await thief.connection.publish("$KV.serai_vms.a", b"last")
        await thief.connection.flush()
        vms = await alice.jetstream(timeout=DEADLINE).key_value("serai_vms")
        await eventually(lambda: value(vms, "a"), b"last")
        await asyncio.gather(alice.flush(), b.flush())
        assert arrived.heard == []
        # What is kept is told to it alone, and with nowhere to answer to.
        await eventually(lambda: last(thief.heard), ("serai.kept.serai_vms.a", b"last", ""))
        await alice.close()
        await b.close()
        await thief.connection.close()

    run(attack())
    run(_intact(servers))


STALLED = b"NATS/1.0 100 Idle Heartbeat\r\nNats-Consumer-Stalled: $JS.API.STREAM.%s\r\n\r\n"
HOSTILE_ROWS = [
    (b"$KV.serai_sessions.a.one", STALLED % b"PURGE.KV_serai_claims"),
    (b"$KV.serai_sessions.a.two", STALLED % b"DELETE.KV_serai_claims"),
    (b"$KV.serai_alive.a", STALLED % b"PURGE.KV_serai_sessions"),
    (b"$KV.serai_vms.a", b"NATS/1.0 \xff\xff\xff\r\n\r\n"),
    (b"$KV.serai_sessions.a.three", b"NATS/1.0"),
    (b"$KV.serai_sessions.a.\xff", b"NATS/1.0\r\nKV-Operation: DEL\r\n\r\n"),
    (b"$KV.serai_sessions.a.>", b"NATS/1.0\r\nKV-Operation: DEL\r\n\r\n"),
]


def test_no_client_speaks_for_a_stolen_vm(servers: Servers) -> None:
    """The library answers what it takes for the server's own, wherever that says; see Nats."""

    async def attack() -> None:
        thief = Thief()
        await thief.connect(servers)
        for subject, headers in HOSTILE_ROWS:
            sizes = (len(headers), len(headers))
            raw = b"HPUB %s %d %d\r\n%s\r\n" % (subject, *sizes, headers)
            await thief.connection._send_command(raw)  # it writes no such headers
        await thief.connection.publish("$KV.serai_sessions.a.last", b"{}")
        await thief.connection.flush()
        async with client(servers) as alice:

            async def told() -> bool:
                return "last" in [each["name"] for each in await alice.sessions()]

            async def told_of_vms() -> bool:  # by other servers, maybe later
                return "a" in await alice.alive() and {"a", "b"} <= (await alice.vms()).keys()

            await eventually(told, True)
            told_of = {(each["vm"], each["name"]) for each in await alice.sessions()}
            assert ("b", "one") in told_of
            await eventually(told_of_vms, wanted=True)
            ends = [each for each in await alice._entries(subjects.SESSIONS, ">") if each.ended]
            assert len(ends) == 2
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("serai.fleet.client.OLD", 0.0)
                await alice.tidy(ends)
            await alice.forget("a")
        await thief.connection.close()

    run(attack())
    run(_intact(servers))


def test_a_stolen_vm_leaves_room_for_claims(servers: Servers) -> None:
    """It writes as many rows as it can; here there is room for 256 KiB of them."""

    async def attack() -> None:
        thief = Thief()
        await thief.connect(servers)
        alice = await servers.connect("client", "alice")
        jetstream = alice.jetstream(timeout=DEADLINE)
        small = configuration(subjects.SESSIONS, 3)
        assert small.max_bytes == command.MOST_BYTES[subjects.SESSIONS]
        await jetstream.update_stream(small.evolve(max_bytes=256 << 10))
        for number in range(100):
            await thief.connection.publish(f"$KV.serai_sessions.a.n{number}", bytes(8 << 10))
        await thief.connection.flush()
        await thief.connection.close()
        assert (await jetstream.stream_info("KV_serai_sessions")).state.bytes <= 256 << 10
        claims = await jetstream.key_value(CLAIMS)
        assert await claims.create("name.two", CLAIM)
        await claims.delete("name.two")
        await jetstream.purge_stream("KV_serai_sessions", subject="$KV.serai_sessions.a.>")
        await jetstream.update_stream(small)
        await alice.close()

    run(attack())
    run(_intact(servers))


def test_answering_buckets_would_speak_for_it(servers: Servers) -> None:
    """The measure taken away: a bucket as the library makes it, and the claims are gone."""

    async def attack() -> None:
        alice = await servers.connect("client", "alice")
        jetstream = alice.jetstream(timeout=DEADLINE)
        told = (await jetstream.stream_info("KV_serai_vms")).config
        await jetstream.update_stream(told.evolve(no_ack=False))
        thief = Thief()
        await thief.connect(servers)
        reply = "$KV.serai_claims.name.one"
        await thief.connection.publish("$KV.serai_vms.a", b"x", reply=reply)
        await thief.connection.flush()
        claims = await jetstream.key_value(CLAIMS)

        async def is_claim() -> bool:
            return (await claims.get("name.one")).value == CLAIM

        await eventually(is_claim, wanted=False)
        await jetstream.update_stream(told)
        await claims.put("name.one", CLAIM)
        await thief.connection.close()
        await alice.close()

    run(attack())
    run(_intact(servers))


def test_a_vm_answers_once_whom_it_was_asked_by(servers: Servers) -> None:
    async def attack() -> None:
        thief = Thief()
        await thief.connect(servers)
        offered: list[Msg] = []

        async def offer(message: Msg) -> None:
            offered.append(message)
            for _ in range(2):
                await thief.connection.publish(message.reply, b"offer", reply="serai.down.b.ask")

        await thief.connection.subscribe(
            "serai.place.any.any.any", queue=permissions.QUEUE, cb=offer
        )
        await thief.connection.flush()
        alice = await servers.connect("client", "alice")
        answers: list[Msg] = []

        async def answered(message: Msg) -> None:
            answers.append(message)

        await alice.subscribe("_INBOX.alice.1", cb=answered)
        await alice.publish("serai.place.any.any.any", b"", reply="_INBOX.alice.1")
        await alice.flush()
        await eventually(lambda: how_many(answers), 1)
        await eventually(lambda: how_many(thief.refused), 1)
        assert "permissions violation for publish" in thief.refused[0]
        assert (await alice.request("serai.place.any.any.any", timeout=DEADLINE)).data == b"offer"
        await alice.close()
        await thief.connection.close()

    run(attack())


def test_a_key_that_two_use_is_seen(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thief that only listens, and offers room, says nothing that is not the VM's to say."""
    monkeypatch.setattr(doubles, "MARGIN", 0.0)

    async def attack() -> None:
        member = await servers.connect("vm", "c", servers=servers.urls[:1])
        b = await servers.connect("vm", "b", servers=servers.urls[1:2])
        async with client(servers) as alice:
            assert await doubles.doubled(alice.connection) == {}
            thief = await servers.connect("vm", "c", servers=servers.urls[1:2])
            for each in (member, b):
                await each.publish(f"$KV.serai_alive.{'c' if each is member else 'b'}", b"{}")
                await each.flush()

            async def seen() -> dict[str, list[str]]:
                return await doubles.doubled(alice.connection)

            await eventually(seen, {"c": ["127.0.0.1"]})
            await thief.close()
            await member.publish("$KV.serai_alive.c", b"{}")
            await member.flush()
            await eventually(seen, {"c": ["127.0.0.1"]}, "also when it has just gone")
            monkeypatch.setattr(doubles, "REMEMBERED", 0.0)
            await eventually(seen, {})
        await asyncio.gather(member.close(), b.close())

    run(attack())


def test_who_is_not_of_the_fleet_does_not_get_in(servers: Servers, tmp_path: Any) -> None:
    """Neither without a certificate, nor with another authority's, nor with a server's own."""
    own = tmp_path / "own"
    own.mkdir()
    authority = certificates.Pair(own / "authority.pem", own / "authority.key")
    certificates.authority(authority, "Serai fleet")
    pair = certificates.Pair(own / "cert.pem", own / "key.pem")
    certificates.leaf(pair, authority, "b.vm.serai", certificates.CLIENT)
    (own / "ca.pem").write_bytes((servers.folder / "ca.pem").read_bytes())
    nobody = ssl.create_default_context(cafile=str(servers.folder / "ca.pem"))
    home = servers.folder / "servers" / servers.all[0].name

    async def refused(tls: ssl.SSLContext) -> None:
        with pytest.raises((nats.errors.Error, OSError, asyncio.TimeoutError)):
            await nats.connect(servers.urls, tls=tls, allow_reconnect=False, connect_timeout=5)

    async def attack() -> None:
        for tls in (nobody, context(own), context(home)):
            await refused(tls)

    run(attack())


def test_a_stolen_vm_is_no_server(servers: Servers) -> None:
    """Not to the servers, whose port for each other knows other authorities; nor to VMs."""
    server = servers.all[0]
    tls = servers.context("vm", "a")
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    tls.maximum_version = ssl.TLSVersion.TLSv1_2  # it says in the handshake whom it refuses

    plain = socket.create_connection((server.host, server.route_port), DEADLINE)
    with plain, pytest.raises((ssl.SSLError, ConnectionError)):
        tls.wrap_socket(plain)
    wait_for(
        lambda: "TLS route handshake error: tls: failed to verify" in servers.log(server), DEADLINE
    )
    # And what passes for a server to VMs has a server's certificate.
    listener = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listener.load_cert_chain(servers.folder / "vms/a/cert.pem", servers.folder / "vms/a/key.pem")
    with pytest.raises(ssl.SSLCertVerificationError, match="unsuitable certificate purpose"):
        _handshake(listener, servers.context("vm", "b"))


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """Both sides of one, in memory."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client.check_hostname = False  # nor would the name be that of a server
    one = client.wrap_bio(back, there, server_side=False)
    other = server.wrap_bio(there, back, server_side=True)
    while True:
        for side in (one, other):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            if side is other:
                return


def test_a_withdrawn_vm_is_cut_off_and_its_keys_stay_worth_nothing(servers: Servers) -> None:
    stolen = servers.folder / "stolen"
    stolen.mkdir()
    for path in (servers.folder / "vms/c").iterdir():
        (stolen / path.name).write_bytes(path.read_bytes())

    async def attack() -> None:
        gone = asyncio.Event()

        async def closed() -> None:
            gone.set()

        c = await servers.connect("vm", "c", closed_cb=closed)
        a = await servers.connect("vm", "a")
        servers.make(revoke=["c"])
        servers.reload()
        await asyncio.wait_for(gone.wait(), DEADLINE)
        await a.flush()  # nobody else is cut off
        assert c.is_closed
        assert not (servers.folder / "vms/c").exists()
        # The same name once more, for a VM that is made anew.
        servers.make(vms=["c"])
        servers.reload()
        await eventually(lambda: _gets_in(servers, None), wanted=True)
        assert not await _gets_in(servers, stolen)
        await a.close()

    run(attack())


async def _gets_in(servers: Servers, keys: Any) -> bool:
    try:
        c = await servers.connect("vm", "c", keys=keys)
    except (nats.errors.Error, OSError, asyncio.TimeoutError):
        return False
    await c.publish("$KV.serai_vms.c", b"here")
    await c.flush()
    await c.close()
    return True
