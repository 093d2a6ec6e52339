"""Where names and addresses lead: what must not be reached is not, however it is spelled.

The gate has a network of its own here, with public addresses and a DNS server of the test's.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support import gate_process
from tests.support.gate_process import Gated, everything
from tests.support.network import Names, dns, inside, outside
from tests.support.origins import Origin, serving
from tests.support.socks import NOT_ALLOWED, UNREACHABLE, socks_request
from tests.support.waiting import wait_for

PUBLIC, PUBLIC6 = "11.0.0.2", "2a00::2"
OWN, OWN6 = "11.0.0.1", "2a00::1"


class Web:
    """A gate with a network of its own, its names, and servers on both sides of it."""

    def __init__(self, gate: Gated, names: Names, origin: Origin, forbidden: list[Origin]) -> None:
        self.gate = gate
        self.names = names
        self.origin = origin
        self.forbidden = forbidden

    def get(self, host: str, port: int | None = None) -> tuple[int, bytes]:
        place = f"{host}:{port or self.origin.port}"
        answer = self.gate.ask(
            "blue",
            f"GET http://{place}/ HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n".encode(),
        )
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), body

    def socks(self, host: bytes, kind: int = 3) -> int:
        with self.gate.connect("blue", "socks") as sock:
            sock.sendall(b"\x05\x01\x00" + socks_request(host, self.origin.port, kind=kind))
            assert sock.recv(2) == b"\x05\x00"
            return sock.recv(10)[1]

    def decision(self) -> dict[str, Any]:
        return self.gate.entries(event="decision")[-1]


def greet(client: socket.socket) -> None:
    """Say which address was reached."""
    name = client.getsockname()[0].removeprefix("::ffff:")
    client.recv(65536)
    body = name.encode()
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    folder: Path = tmp_path_factory.mktemp("internet")
    settings = "[timeouts]\ndial = 2\n[limits]\nlookups = 2\n"
    with outside(folder) as (pid, prefix), gate_process.gate(settings, prefix) as gate:
        with inside(pid):
            public = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        port = public.getsockname()[1]
        with inside(gate.pid):
            # At the same port, so that only the address tells them apart.
            own = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        names = Names(dns(gate.pid))
        with serving(greet, public) as origin, serving(greet, own) as forbidden:
            yield Web(gate, names, origin, [forbidden])
        names.close()


def closed(web: Web) -> list[str]:
    """The addresses that connections had in the end."""
    return [each["address"] for each in web.gate.entries(event="closed")]


@pytest.fixture(autouse=True)
def fresh(web: Web) -> None:
    web.gate.open("blue", "*.test", "127.0.0.2")
    web.names.answers.clear()
    web.names.asked.clear()


def test_a_name_leads_to_a_public_address(web: Web) -> None:
    web.names.answers["good.test"] = [[PUBLIC, PUBLIC6]]
    status, body = web.get("good.test")
    assert (status, body.decode()) in ((200, PUBLIC), (200, PUBLIC6))
    assert web.decision()["host"] == "good.test"
    wait_for(lambda: closed(web)[-1:] == [body.decode()])
    assert web.get("GOOD.Test.") == (200, body)
    assert web.socks(b"good.test") == 0
    # Not allowed by name: nobody is asked.
    web.names.asked.clear()
    assert web.get("good.example")[0] == 403
    assert web.names.asked == []


LEADS_INSIDE = [
    "127.0.0.1",
    "127.0.0.3",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "168.63.129.16",
    "0.0.0.0",  # noqa: S104
    "224.0.0.1",
    "255.255.255.255",
    "192.0.2.1",
    "::1",
    "::",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::127.0.0.1",
    "fe80::1",
    "fc00::1",
    "fec0::1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::1",
    "ff02::1",
    OWN,
    OWN6,
]


@pytest.mark.parametrize("address", LEADS_INSIDE)
def test_a_name_that_leads_inside_is_refused(web: Web, address: str) -> None:
    web.names.answers["evil.test"] = [[address]]
    before = len(web.forbidden[0].clients)
    status, body = web.get("evil.test")
    assert status == 403, body
    decision = web.decision()
    assert (decision["allowed"], decision["host"]) == (False, "evil.test")
    assert decision["rule"].split(" ")[0] != "allow"
    assert web.socks(b"evil.test") == NOT_ALLOWED
    assert len(web.forbidden[0].clients) == before
    told = json.loads(body.splitlines()[-1])
    assert (told["session"], told["rule"]) == ("blue", decision["rule"])


def test_an_address_that_a_rule_opens_may_be_reached(web: Web) -> None:
    web.names.answers["home.test"] = [["127.0.0.2"]]
    assert web.get("home.test") == (200, b"127.0.0.2")
    assert web.get("127.0.0.2") == (200, b"127.0.0.2")


def test_of_many_addresses_only_the_allowed_are_tried(web: Web) -> None:
    web.names.answers["mixed.test"] = [["127.0.0.1", "10.0.0.1", PUBLIC, "169.254.169.254"]]
    before = len(web.forbidden[0].clients)
    assert web.get("mixed.test") == (200, PUBLIC.encode())
    assert len(web.forbidden[0].clients) == before
    assert web.decision()["address"] == PUBLIC
    # Nothing answers at the first one.
    web.names.answers["two.test"] = [["11.0.0.77", PUBLIC]]
    assert web.get("two.test")[0] in (200, 504)


def test_dead_addresses_of_one_family_do_not_hide_the_other(web: Web) -> None:
    """They are tried side by side, and those that the system prefers alternate with the others."""
    web.names.answers["six.test"] = [[*(f"2a00::dead:{n}" for n in range(12)), PUBLIC]]
    assert web.get("six.test") == (200, PUBLIC.encode())
    assert web.decision()["address"] == "2a00::dead:0"  # the first that was judged
    wait_for(lambda: closed(web)[-1:] == [PUBLIC])


def test_a_second_answer_changes_nothing(web: Web) -> None:
    web.names.answers["flip.test"] = [["127.0.0.2"], ["127.0.0.1"]]
    assert web.get("flip.test") == (200, b"127.0.0.2")
    assert sorted(web.names.asked) == [("flip.test", 1), ("flip.test", 28)]
    answers = []

    def refused() -> bool:
        answers.append(web.get("flip.test"))
        return answers[-1][0] == 403

    # The first answer is used for a moment; the next one is judged like any other.
    wait_for(refused)
    assert set(answers[:-1]) <= {(200, b"127.0.0.2")}
    assert sorted(web.names.asked) == [("flip.test", 1)] * 2 + [("flip.test", 28)] * 2


def test_many_connections_ask_for_a_name_once(web: Web) -> None:
    web.names.answers["burst.test"] = [["127.0.0.2"]]
    web.gate.open("red", "*.test", "127.0.0.2")
    answers: list[tuple[int, bytes]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(web.get("burst.test"))) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(gate_process.DEADLINE)
    assert answers == [(200, b"127.0.0.2")] * 20
    asked = len(web.names.asked)
    assert asked < 20
    # What one session was answered is not what another one gets.
    request = f"GET http://burst.test:{web.origin.port}/ HTTP/1.0\r\n\r\n".encode()
    assert web.gate.ask("red", request).startswith(b"HTTP/1.1 200 ")
    assert len(web.names.asked) == asked + 2


SPELLINGS = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "0x7f000001",
    "0x7f.1",
    "0X7F.0.0.1",
    "017700000001",
    "0177.0.0.1",
    "2130706433",
    "127.0.0.1.",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
    "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "0",
    "[::]",
    "10.1",
    "0xa9fea9fe",
    "[fe80::1]",
    OWN,
    f"[{OWN6}]",
    "0x0b000001",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_spelling_of_an_address_gets_past(web: Web, spelling: str) -> None:
    web.gate.open("blue", "*")
    before = len(web.forbidden[0].clients)
    assert web.get(spelling)[0] == 403
    assert web.decision()["allowed"] is False
    assert web.socks(spelling.strip("[]").encode()) == NOT_ALLOWED
    assert web.socks(spelling.encode()) == NOT_ALLOWED
    assert web.names.asked == []
    assert len(web.forbidden[0].clients) == before


def test_no_other_digits_get_past(web: Web) -> None:
    """Full-width digits and dots over SOCKS, where names may be UTF-8."""
    web.gate.open("blue", "*")
    full = "\uff11\uff12\uff17"
    for spelling in (f"{full}.0.0.1", "127\u30020\u30020\u30021", "\u2460\u2461\u2466.0.0.1"):
        assert web.socks(spelling.encode()) != 0
    for packed in (b"\x7f\0\0\1", socket.inet_aton(OWN)):
        assert web.socks(packed, kind=1) == NOT_ALLOWED
    for text in ("::1", "::ffff:127.0.0.1", OWN6, "::"):
        assert web.socks(socket.inet_pton(socket.AF_INET6, text), kind=4) == NOT_ALLOWED
    assert web.names.asked == []


def test_a_literal_public_address_needs_a_rule(web: Web) -> None:
    assert web.get(PUBLIC)[0] == 403
    web.gate.open("blue", "*")
    assert web.get(PUBLIC) == (200, PUBLIC.encode())
    assert web.get(f"[{PUBLIC6}]") == (200, PUBLIC6.encode())
    web.gate.open("blue", f"{PUBLIC}:{web.origin.port}")
    assert web.get(PUBLIC) == (200, PUBLIC.encode())
    assert web.get(PUBLIC, 81)[0] == 403
    web.gate.open("blue", "*", deny=["11.0.0.0/24"])
    assert web.get(PUBLIC)[0] == 403
    web.names.answers["shut.test"] = [[PUBLIC]]
    assert web.get("shut.test")[0] == 403


def test_a_name_without_an_address_and_an_address_without_a_route(web: Web) -> None:
    web.names.answers["empty.test"] = [[]]
    status, body = web.get("empty.test")
    assert status == 502
    assert json.loads(body.splitlines()[-1])["kind"] == "no address"
    assert web.decision()["error"]
    assert web.socks(b"empty.test") == 4
    web.names.answers["far.test"] = [["12.0.0.1"]]
    status, body = web.get("far.test")
    assert json.loads(body.splitlines()[-1])["kind"] == "no route"
    assert web.socks(b"far.test") == UNREACHABLE


def test_a_session_with_slow_names_slows_no_other(web: Web) -> None:
    web.gate.open("red", "*.test")
    web.names.answers["quick.test"] = [[PUBLIC]]
    with ExitStack() as stack:
        # More than all threads that look names up, if a session could have them all.
        slow = [stack.enter_context(web.gate.connect("red")) for _ in range(100)]
        for number, sock in enumerate(slow):
            host = f"never{number}.test"
            sock.sendall(f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        wait_for(lambda: any(name.startswith("never") for name, _ in web.names.asked))
        for _ in range(5):
            assert web.get("quick.test") == (200, PUBLIC.encode())
        # Whether the slow ones still waited or not: the resolver is at two of them for 20 seconds.
        assert all(everything(sock).startswith(b"HTTP/1.1 504 ") for sock in slow)
    # Nobody waits any longer, but the resolver is still at the first two: no more until it is done.
    assert len({name for name, _ in web.names.asked if name.startswith("never")}) == 2
    assert web.get("quick.test") == (200, PUBLIC.encode())


def test_explain_says_where_a_name_would_lead(web: Web) -> None:
    web.names.answers["mixed.test"] = [["10.0.0.1", PUBLIC]]
    explained = web.gate.call(
        "explain", policy=gate_process.policy("*.test"), target="mixed.test:80"
    )
    assert explained["allowed"] is True
    said = {each["address"]: each["allowed"] for each in explained["verdicts"]}
    assert said == {"10.0.0.1": False, PUBLIC: True}
    explained = web.gate.call("explain", policy=gate_process.policy("*.test"), target="never.test")
    assert explained["allowed"] is False and "2 s" in explained["problem"]


def test_everything_is_in_the_log(web: Web) -> None:
    assert web.gate.call("verify")["ok"]
    with web.gate.connect("blue") as sock:
        sock.shutdown(socket.SHUT_WR)
        assert everything(sock) == b""
