"""The gate's HTTP proxy over real sockets, with clients and servers that behave and that do not."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import gate_process, origins
from tests.support.gate_process import Gated, everything, until
from tests.support.origins import Origin, digest, serving
from tests.support.request_heads import REFUSED
from tests.support.waiting import wait_for

BIG = 8 << 20
# Of a stream these ask for something else: for two requests, or for none yet.
NOT_OVER_A_SOCKET = {"blank line in front", "something after it", "two heads", "not at its end"}
HARMFUL = sorted(set(REFUSED) - NOT_OVER_A_SOCKET - {"nothing", "CONNECT without port"})


@pytest.fixture(scope="module")
def gate() -> Iterator[Gated]:
    with gate_process.gate("[timeouts]\nheader = 0.4\n[limits]\nheader_bytes = 8192\n") as running:
        running.open("blue", "127.0.0.1")
        yield running


@pytest.fixture(scope="module")
def web() -> Iterator[Origin]:
    with serving(origins.web) as server:
        yield server


@pytest.fixture(autouse=True)
def unharmed(gate: Gated) -> Iterator[None]:
    """After each test the gate is as before: no connection, no descriptor is left."""
    yield
    wait_for(lambda: gate.call("status")["blue"] == 0)
    wait_for(lambda: gate.descriptors() <= 16)


def request(web: Origin, path: str, *headers: str, method: str = "GET", body: bytes = b"") -> bytes:
    lines = [f"{method} http://{web.place}{path} HTTP/1.1", f"Host: {web.place}", *headers, ""]
    return "".join(f"{line}\r\n" for line in lines).encode() + body


def once(web: Origin, path: str, *headers: str, method: str = "GET", body: bytes = b"") -> bytes:
    return request(web, path, "Connection: close", *headers, method=method, body=body)


def split(response: bytes) -> tuple[str, list[str], bytes]:
    head, _, body = response.partition(b"\r\n\r\n")
    status, *headers = head.decode("latin-1").split("\r\n")
    return status, headers, body


def dechunked(body: bytes) -> bytes:
    whole = b""
    while True:
        size, _, body = body.partition(b"\r\n")
        count = int(size, 16)
        whole, body = whole + body[:count], body[count:]
        assert body.startswith(b"\r\n")
        body = body[2:]
        if count == 0:
            assert body == b""
            return whole


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (*parts, b""))


def read_one(sock: socket.socket) -> tuple[str, list[str], bytes]:
    """One response with a Content-Length, and not a byte more."""
    head = until(sock, b"\r\n\r\n")
    status, headers, _ = split(head)
    length = next(int(h.split(": ")[1]) for h in headers if h.lower().startswith("content-length"))
    body = b""
    while len(body) < length:
        body += sock.recv(length - len(body))
    return status, headers, body


def test_a_get_reaches_the_origin_without_what_is_meant_for_the_proxy(
    gate: Gated, web: Origin
) -> None:
    status, headers, body = split(
        gate.ask(
            "blue",
            once(
                web,
                "/a?b=c",
                "Proxy-Authorization: Basic c2VjcmV0",
                "Proxy-Connection: keep-alive",
                "Connection: X-Mine",
                "X-Mine: hop by hop",
                "TE: trailers",
                "Keep-Alive: 5",
                "x-Case: Kept",
            ),
        )
    )
    assert status == "HTTP/1.1 200 OK"
    assert [h for h in headers if not h.startswith("Content-Length")] == [
        "X-End: may pass",
        "Connection: close",
    ]
    seen = json.loads(body)
    assert seen["line"] == "GET /a?b=c HTTP/1.1"
    assert seen["headers"] == [
        ["Host", web.place],
        ["x-Case", "Kept"],
        ["Connection", "close"],
    ]


def test_bodies_arrive_whole_both_ways(gate: Gated, web: Origin) -> None:
    sent = bytes(range(251)) * (BIG // 251)
    for headers, body in (
        ([f"Content-Length: {len(sent)}"], sent),
        (
            ["Transfer-Encoding: chunked"],
            chunked(*(sent[i : i + 99_999] for i in range(0, len(sent), 99_999))),
        ),
    ):
        _, _, answer = split(gate.ask("blue", once(web, "/x", *headers, method="POST", body=body)))
        seen = json.loads(answer)
        assert (seen["length"], seen["digest"]) == (len(sent), digest(sent))
    _, _, got = split(gate.ask("blue", once(web, f"/big?{BIG}")))
    assert digest(got) == digest(bytes(range(256)) * (BIG // 256))


def test_a_body_in_the_smallest_chunks_holds_nobody_up(gate: Gated, web: Origin) -> None:
    body = b"1;ext=1\r\na\r\n" * 20_000 + b"0\r\nX-Trailer: dropped\r\n\r\n"
    with gate.connect("blue") as slow:
        slow.sendall(
            once(web, "/x", "Transfer-Encoding: chunked", method="POST") + body[: len(body) // 2]
        )
        for _ in range(20):
            assert gate.ask("blue", once(web, "/204")).startswith(b"HTTP/1.1 204 ")
        slow.sendall(body[len(body) // 2 :])
        assert json.loads(split(everything(slow))[2])["length"] == 20_000


def test_chunked_and_unending_responses(gate: Gated, web: Origin) -> None:
    whole = b"one" + b"two" * 99 + b"three"
    _, headers, body = split(gate.ask("blue", once(web, "/chunked")))
    assert "Transfer-Encoding: chunked" in headers
    assert dechunked(body) == whole
    status, headers, body = split(gate.ask("blue", once(web, "/close")))
    assert "Transfer-Encoding: chunked" in headers
    assert dechunked(body) == b"to the end"
    # A client of HTTP/1.0 knows no chunks.
    for path, expected in (("/chunked", whole), ("/close", b"to the end")):
        old = f"GET http://{web.place}{path} HTTP/1.0\r\n\r\n".encode()
        status, headers, body = split(gate.ask("blue", old))
        assert status == "HTTP/1.1 200 OK"
        assert body == expected
        assert not any("chunked" in h for h in headers)


def test_responses_without_a_body(gate: Gated, web: Origin) -> None:
    status, headers, body = split(gate.ask("blue", once(web, "/204")))
    assert (status, body) == ("HTTP/1.1 204 No Content", b"")
    assert "X-Kept: yes" in headers
    status, headers, body = split(gate.ask("blue", once(web, "/304")))
    assert (status, body) == ("HTTP/1.1 304 Not Modified", b"")
    assert "ETag: 1" in headers
    status, headers, body = split(gate.ask("blue", once(web, "/x", method="HEAD")))
    assert (status, body) == ("HTTP/1.1 200 OK", b"")
    assert any(h.startswith("Content-Length: ") for h in headers)


def test_the_gates_own_answers_to_head_have_no_body(gate: Gated, web: Origin) -> None:
    for place in ("denied.example", f"{web.place}/hang-up"):
        request = f"HEAD http://{place} HTTP/1.1\r\nHost: {place.partition('/')[0]}\r\n\r\n"
        status, headers, body = split(gate.ask("blue", request.encode()))
        assert status.split()[1] in ("403", "502")
        assert body == b""
        assert any(h.startswith("Content-Length: ") for h in headers)


def test_an_error_of_the_origin_passes_untouched(gate: Gated, web: Origin) -> None:
    assert gate.ask("blue", once(web, "/404")) == (
        b"HTTP/1.1 404 Nothing Here\r\ncontent-LENGTH: 4\r\nX-a: 1\r\nx-A: 2\r\n"
        b"Connection: close\r\n\r\ngone"
    )


def test_informational_responses_come_first(gate: Gated, web: Origin) -> None:
    answer = gate.ask("blue", once(web, "/hints"))
    assert answer.startswith(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n")
    old = f"GET http://{web.place}/hints HTTP/1.0\r\n\r\n".encode()
    assert gate.ask("blue", old).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_client_may_wait_for_100_continue(gate: Gated, web: Origin) -> None:
    with gate.connect("blue") as sock:
        sock.sendall(
            once(web, "/continue", "Expect: 100-continue", "Content-Length: 5", method="PUT")
        )
        assert until(sock, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"hello")
        assert json.loads(split(everything(sock))[2])["digest"] == digest(b"hello")


def test_requests_follow_one_another_on_a_connection(gate: Gated, web: Origin) -> None:
    with gate.connect("blue") as sock:
        for number in range(5):
            sock.sendall(
                request(web, f"/{number}", "Content-Length: 3", method="POST", body=b"abc")
            )
            _, _, body = read_one(sock)
            assert json.loads(body)["line"] == f"POST /{number} HTTP/1.1"


def test_pipelined_requests_are_answered_in_order(gate: Gated, web: Origin) -> None:
    many = [request(web, f"/{n}", "Transfer-Encoding: chunked", method="POST") for n in range(10)]
    with gate.connect("blue") as sock:
        sock.sendall(
            b"".join(each + chunked(b"body") + b"\r\n" for each in many) + once(web, "/end")
        )
        for number in range(10):
            _, _, body = read_one(sock)
            seen = json.loads(body)
            assert (seen["line"], seen["length"]) == (f"POST /{number} HTTP/1.1", 4)
        assert json.loads(split(everything(sock))[2])["line"] == "GET /end HTTP/1.1"


def test_a_client_that_says_no_more_is_answered_still(gate: Gated, web: Origin) -> None:
    with gate.connect("blue") as sock:
        sock.sendall(request(web, "/x"))
        sock.shutdown(socket.SHUT_WR)
        assert everything(sock).startswith(b"HTTP/1.1 200 OK\r\n")


def test_an_early_answer_is_not_lost(gate: Gated, web: Origin) -> None:
    with gate.connect("blue") as sock:
        sock.sendall(request(web, "/early", f"Content-Length: {1 << 30}", method="POST"))
        # More than all the buffers between: nobody reads it.
        sock.settimeout(0.2)
        with pytest.raises((TimeoutError, BrokenPipeError, ConnectionResetError)):
            while True:
                sock.sendall(bytes(1 << 20))
        sock.settimeout(gate_process.DEADLINE)
        status, headers, body = split(until(sock, b"no\n"))
        assert (status, body) == ("HTTP/1.1 413 Too Much", b"no\n")
        assert "Connection: close" in headers


def test_a_websocket(gate: Gated, web: Origin) -> None:
    with gate.connect("blue") as sock:
        sock.sendall(
            request(
                web,
                "/socket",
                "Connection: keep-alive, Upgrade",
                "Upgrade: websocket",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            )
        )
        head = until(sock, b"\r\n\r\n")
        assert head == (
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        for frame in (b"\x81\x03abc", bytes(1 << 20), b"GET http://x/ HTTP/1.1\r\n\r\n"):
            sock.sendall(frame)
            got = b""
            while len(got) < len(frame):
                got += sock.recv(1 << 20)
            assert got == frame
        sock.shutdown(socket.SHUT_WR)
        assert everything(sock) == b""


def test_an_upgrade_that_nobody_wants_is_an_ordinary_request(gate: Gated, web: Origin) -> None:
    with gate.connect("blue") as sock:
        for offer in ("websocket", "h2c"):
            sock.sendall(request(web, "/x", "Connection: Upgrade", f"Upgrade: {offer}"))
            status, _, body = read_one(sock)
            assert status == "HTTP/1.1 200 OK"
            offered = ["Upgrade", "websocket"] in json.loads(body)["headers"]
            assert offered == (offer == "websocket")


@pytest.mark.parametrize(
    ("path", "status"),
    [("/hang-up", "502"), ("/garbage", "502"), ("/half", "200"), ("/half-chunked", "200")],
)
def test_an_origin_that_breaks_off_looks_like_it(
    gate: Gated, web: Origin, path: str, status: str
) -> None:
    first, headers, body = split(gate.ask("blue", request(web, path)))
    assert first.split(" ")[1] == status
    if path == "/half":
        assert ("Content-Length: 100" in headers) and body == b"only this"
    elif path == "/half-chunked":
        assert body.startswith(b"5\r\nonly ")
        assert not body.endswith(b"0\r\n\r\n")
    else:
        assert b"gave no answer that can be passed on" in body


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *[(path, "200") for path in ("/space", "/slash", "/nocolon", "/colon", "/identity")],
        *[(path, "502") for path in ("/length", "/bighead", "/icy")],
    ],
)
def test_answers_that_browsers_take(gate: Gated, web: Origin, path: str, status: str) -> None:
    first, headers, body = split(gate.ask("blue", once(web, path)))
    assert first.split(" ")[1] == status
    if status == "200":
        assert b"ok" in body and {"Date: now"} <= set(headers)
    else:
        assert b"gave no answer that can be passed on" in body


def test_a_path_that_is_not_ascii_arrives_encoded(gate: Gated, web: Origin) -> None:
    for method, body in (("GET", b""), ("POST", b"body")):
        length = [f"Content-Length: {len(body)}"] if body else []
        asked = once(web, "/gr\u00f6\u00dfe", *length, method=method, body=body)
        seen = json.loads(split(gate.ask("blue", asked))[2])
        assert seen["line"] == f"{method} /gr%C3%B6%C3%9Fe HTTP/1.1"
        assert seen["length"] == len(body)


def test_a_client_that_breaks_off_in_a_body_takes_the_origin_along(gate: Gated) -> None:
    ended: list[bytes] = []

    def patient(client: socket.socket) -> None:
        ended.append(everything(client))

    with serving(patient) as web:
        with gate.connect("blue") as sock:
            sock.sendall(request(web, "/x", "Content-Length: 100", method="POST", body=b"half"))
            wait_for(lambda: web.clients)
        wait_for(lambda: ended)
        assert ended[0].endswith(b"\r\n\r\nhalf")
        with gate.connect("blue") as sock:
            sock.sendall(request(web, "/x", "Transfer-Encoding: chunked", method="POST"))
            sock.sendall(b"5\r\nhello\r\nnot a size\r\n")
            status, _, body = split(everything(sock))
            assert status.split(" ")[1] == "400"
            assert b"its body is malformed" in body


def test_a_request_with_too_large_a_head_is_refused(gate: Gated, web: Origin) -> None:
    before = len(web.clients)
    for headers in ([f"X-{n}: {'x' * 1000}" for n in range(10)], [f"X-{n}: 1" for n in range(300)]):
        status, _, body = split(gate.ask("blue", request(web, "/x", *headers)))
        assert status.split(" ")[1] == "431"
        assert b"The request" in body
    with gate.connect("blue") as sock:
        sock.sendall(b"GET http://" + b"a" * 20_000)
        assert everything(sock).startswith(b"HTTP/1.1 431 ")
    assert len(web.clients) == before


def test_a_slow_head_is_not_waited_for(gate: Gated, web: Origin) -> None:
    with gate.connect("blue") as sock:
        end = time.monotonic() + gate_process.DEADLINE
        # Each byte comes in time, the head does not.
        sock.settimeout(0.1)
        answer = b""
        for byte in request(web, "/x") * 100:
            assert time.monotonic() < end
            with contextlib.suppress(BrokenPipeError):  # it has hung up: there is an answer
                sock.sendall(bytes([byte]))
            with contextlib.suppress(TimeoutError):
                answer = sock.recv(65536)
                break
        assert answer.startswith(b"HTTP/1.1 408 ")


def test_who_asks_for_nothing_gets_nothing(gate: Gated) -> None:
    with gate.connect("blue") as sock:
        sock.sendall(b"GET http://127.0.0.1/ HT")
        sock.shutdown(socket.SHUT_WR)
        assert everything(sock) == b""


@pytest.mark.parametrize("name", HARMFUL)
def test_what_can_be_read_in_two_ways_reaches_no_origin(
    gate: Gated, web: Origin, name: str
) -> None:
    before = len(web.clients)
    # The unit tests' requests, for an origin that exists.
    harmful = REFUSED[name].replace(b"example.com", web.place.encode())
    answer = gate.ask("blue", harmful + b"0\r\n\r\nGET /x HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert answer.count(b"HTTP/1.1 400") == 1
    assert answer.count(b"HTTP/1.1 200") == 0
    assert len(web.clients) == before


def test_every_request_and_its_end_is_noted_down(gate: Gated, web: Origin) -> None:
    before = len(gate.entries())
    gate.ask("blue", once(web, "/x", "Content-Length: 5", method="POST", body=b"hello"))
    found: list[dict[str, Any]] = []

    def noted() -> bool:
        found[:] = gate.entries()[before:]
        return len(found) == 2

    wait_for(noted)
    decision, closed = found
    assert decision["event"] == "decision"
    assert (decision["allowed"], decision["rule"]) == (True, "allow 127.0.0.1")
    assert decision["session"] == closed["session"] == "blue"
    assert (closed["event"], closed["sent"], closed["port"]) == ("closed", 5, web.port)
    assert closed["received"] > 100
    assert "error" not in closed
