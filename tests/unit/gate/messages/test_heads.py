from __future__ import annotations

import re

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serai.gate.messages import heads
from serai.gate.messages.heads import BadRequest, Head
from serai.gate.policy.hosts import Target
from tests.support.request_heads import CLIENTS, GET, HOST, POST, REFUSED, get, head, post

fuzz = settings(max_examples=1500)


@pytest.mark.parametrize("client", CLIENTS)
def test_requests_of_clients_are_taken(client: str) -> None:
    lines = CLIENTS[client]
    found = heads.check(head(*lines))
    method, address, version = lines[0].split()
    assert (found.method, f"HTTP/{found.version}") == (method, version)
    assert found.connect is (method == "CONNECT")
    assert str(found.target.host) in address
    assert found.path == ("" if found.connect else re.sub("http://[^/]*", "", address))
    assert found.upgrade is None
    assert len(found.headers) == len(lines) - 1


@pytest.mark.parametrize("case", REFUSED)
def test_what_may_have_two_meanings_is_refused(case: str) -> None:
    with pytest.raises(BadRequest) as raised:
        heads.check(REFUSED[case])
    assert str(raised.value).isprintable()
    assert str(raised.value).isascii()


def test_without_it_h11_reads_many_of_them_as_requests() -> None:
    """One of the two ways, and not always the one that the origin server takes."""
    read = []
    for case, text in REFUSED.items():
        try:
            connection = h11.Connection(h11.SERVER)
            connection.receive_data(text)
            read += [case] if isinstance(connection.next_event(), h11.Request) else []
        except h11.RemoteProtocolError:
            pass
    assert {"CL.TE", "CL.CL equal"} <= set(read)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("GET / HTTP/1.1", "this is a proxy"),
        ("GET https://example.com/ HTTP/1.1", "use CONNECT"),
        ("GET ftp://example.com/ HTTP/1.1", "'ftp' is not carried"),
        ("CONNECT a:b@example.com:443 HTTP/1.1", "user name or password"),
        ("CONNECT example.com HTTP/1.1", "host:port"),
    ],
)
def test_a_refusal_says_what_to_do(line: str, why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        heads.check(head(line, HOST))


@pytest.mark.parametrize(
    ("line", "goes"),
    [
        ("GET http://example.com/größe?ä=ö HTTP/1.1", "/gr%C3%B6%C3%9Fe?%C3%A4=%C3%B6"),
        ("POST HTTP://example.com?ä HTTP/1.1", "/?%C3%A4"),
        ("GET http://example.com/%C3%B6 HTTP/1.1", "/%C3%B6"),
    ],
)
def test_a_path_that_is_not_ascii_is_encoded(line: str, goes: str) -> None:
    raw = f"{line}\r\n{HOST}\r\n\r\n".encode()
    assert heads.check(heads.encoded(raw)).path == goes


@pytest.mark.parametrize(
    "raw",
    [
        "GET http://größe.example/ HTTP/1.1",
        "CONNECT größe.example:443 HTTP/1.1",
        "GET https://example.com/größe HTTP/1.1",
        "GÉT http://example.com/ HTTP/1.1",
        "GET http://example.com/ö HTTP/1.1 ö",
        "GET http://example.com/ö\u0085 HTTP/1.1\rX: 1",
    ],
)
def test_everything_else_that_is_not_ascii_is_refused(raw: str) -> None:
    with pytest.raises(BadRequest):
        heads.check(heads.encoded(f"{raw}\r\n{HOST}\r\n\r\n".encode()))
    with pytest.raises(BadRequest):
        heads.check(head("GET http://example.com/\xe4 HTTP/1.1", HOST))


@pytest.mark.parametrize(
    ("address", "host", "target", "path"),
    [
        ("http://example.com", "example.com", "example.com:80", "/"),
        ("HTTP://Example.COM.:80/A", "example.com", "example.com:80", "/A"),
        ("http://example.com/", "EXAMPLE.com:80", "example.com:80", "/"),
        ("http://example.com?a=/b", "example.com", "example.com:80", "/?a=/b"),
        ("http://a.example:81//a/../b?c@d:e", "a.example:81", "a.example:81", "//a/../b?c@d:e"),
        ("http://[::1]:81/{a|b}", "[::1]:81", "[::1]:81", "/{a|b}"),
        ("http://0x7f.1/", "127.0.0.1", "127.0.0.1:80", "/"),
        ("http://[::ffff:192.0.2.1]/", "192.0.2.1", "192.0.2.1:80", "/"),
    ],
)  # fmt: skip
def test_an_address_is_brought_to_one_form(address: str, host: str, target: str, path: str) -> None:
    found = heads.check(head(f"GET {address} HTTP/1.1", f"Host: {host}"))
    assert (str(found.target), found.path) == (target, path)
    assert dict(heads.forwarded(found))[b"Host"].decode() == target.removesuffix(":80")


def test_what_is_one_connections_own_stays_behind() -> None:
    found = heads.check(
        post(
            "Connection: keep-alive, X-Private , ,close",
            "Keep-Alive: timeout=5",
            "Proxy-Authorization: Basic YTpi",
            "proxy-connection: keep-alive",
            "Proxy-Anything: a",
            "TE: trailers",
            "Trailer: X-Sum",
            "Upgrade: h2c",
            "x-private: secret",
            "Transfer-Encoding:\t Chunked ",
            "Accept: a",
            "accept: b",
            "X-Empty:",
            "X-Latin: \xe4",
        )
    )
    assert heads.forwarded(found) == [
        (b"Host", b"example.com"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Accept", b"a"),
        (b"accept", b"b"),
        (b"X-Empty", b""),
        (b"X-Latin", b"\xe4"),
    ]


@pytest.mark.parametrize(
    ("version", "headers", "expected"),
    [
        ("1.1", [], True),
        ("1.1", ["Connection: keep-alive"], True),
        ("1.1", ["Connection: foo, Close"], False),
        ("1.1", ["Connection: foo", "Connection: close"], False),
        ("1.1", ["Proxy-Connection: close"], False),
        ("1.0", [], False),
        ("1.0", ["Connection: keep-alive"], False),
    ],
)
def test_whether_another_request_may_follow(
    version: str, headers: list[str], expected: bool
) -> None:
    found = heads.check(head(f"GET http://example.com/ HTTP/{version}", HOST, *headers))
    assert found.keep_alive is expected


@pytest.mark.parametrize(
    ("version", "headers", "expected"),
    [
        ("1.1", ["Connection: Upgrade", "Upgrade: websocket"], "websocket"),
        ("1.1", ["connection: keep-alive, upgrade", "upgrade: WebSocket"], "WebSocket"),
        ("1.1", ["Connection: Upgrade", "Upgrade: SPDY/3.1"], "SPDY/3.1"),
        ("1.1", ["Upgrade: websocket"], None),
        ("1.1", ["Connection: Upgrade"], None),
        ("1.1", ["Connection: Upgrade", "Upgrade: websocket, h2c"], None),
        ("1.1", ["Connection: Upgrade", "Upgrade: websocket", "Upgrade: tcp"], None),
        ("1.1", ["Connection: Upgrade", "Upgrade: H2C"], None),
        ("1.1", ["Connection: Upgrade", "Upgrade: TLS/1.2"], None),
        ("1.0", ["Connection: Upgrade", "Upgrade: websocket"], None),
    ],
)
def test_upgrades(version: str, headers: list[str], expected: str | None) -> None:
    found = heads.check(head(f"GET http://example.com/ HTTP/{version}", HOST, *headers))
    assert found.upgrade == expected
    sent = {name.lower(): value.decode() for name, value in heads.forwarded(found)}
    assert sent.get(b"upgrade") == expected
    assert sent.get(b"connection") == (expected and "Upgrade")


def test_the_length_of_a_head_in_pieces() -> None:
    data = get("X: y") + b"body\n"
    length = len(data) - 5
    for size in range(len(data) + 1):
        expected = length if size >= length else None
        assert heads.head_length(data[:size]) == expected
        for searched in (max(0, size - 1), size // 2):
            if searched < length:
                assert heads.head_length(bytearray(data[:size]), searched) == expected


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_a_head_that_would_never_end_is_refused_at_once(size: int) -> None:
    data = REFUSED["bare LF"]
    with pytest.raises(BadRequest, match="LF"):
        for searched in range(0, len(data), size):
            heads.head_length(data[: searched + size], searched)


# Whatever is taken means the same to h11, which is another's reading of the same RFC.
def _check_meaning(raw: bytes, found: Head) -> None:
    theirs = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    theirs.receive_data(raw)
    request = theirs.next_event()
    assert isinstance(request, h11.Request)
    assert request.method.decode() == found.method
    assert request.http_version.decode() == found.version
    assert [(name.lower(), value) for name, value in found.headers] == list(request.headers)
    if found.connect:
        return
    ours = h11.Connection(h11.CLIENT)
    sent = ours.send(
        h11.Request(method=found.method, target=found.path, headers=heads.forwarded(found))
    )
    assert sent is not None
    again = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    again.receive_data(sent)
    assert isinstance(again.next_event(), h11.Request)
    # The body is as long for the one as for the other.
    for body in (b"", b"0\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"):
        assert _events(raw + body) == _events(sent + body)


def _events(data: bytes) -> list[object]:
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    server.receive_data(data)
    server.next_event()
    found: list[object] = []
    try:
        while isinstance(event := server.next_event(), h11.Data):
            found.append(bytes(event.data))
        found.append(type(event))
    except h11.RemoteProtocolError:
        found.append("error")
    return found


@pytest.mark.parametrize("client", CLIENTS)
def test_requests_of_clients_mean_the_same_to_h11(client: str) -> None:
    raw = head(*CLIENTS[client])
    _check_meaning(raw, heads.check(raw))


_PARTS = [
    b"GET ", b"CONNECT ", b"http://", b"example.com", b":443", b":80", b"/", b"?", b"#", b"@", b" ",
    b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"\r\n", b"\n", b"\r", b"\0", b"\t", b"\x0b", b"\xff", b":",
    b"Host: example.com\r\n", b"Host:", b"Content-Length: 3\r\n", b"Content-Length:", b"0x", b"+1",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding:", b"chunked", b"Connection:", b"close",
    b"Upgrade: websocket\r\n", b"Connection: Upgrade\r\n", b"X: y\r\n", b",", b"[::1]", b"127.1",
]  # fmt: skip
_HEADERS = [
    "Content-Length: 3", "Content-Length: 18", "Transfer-Encoding: chunked", "Connection: close",
    "Connection: Upgrade", "Upgrade: websocket", "Connection: Host, X", "X: y", "X:",
    "TE: trailers", "Expect: 100-continue", "Connection:,", "Upgrade: /", "Keep-Alive: a",
    "Host: example.com",
]  # fmt: skip

almost = st.tuples(
    st.sampled_from([GET, POST, "CONNECT example.com:80 HTTP/1.1", POST[:-1] + "0"]),
    st.lists(st.sampled_from(_HEADERS), max_size=6),
).map(lambda parts: head(parts[0], HOST, *parts[1]))
mutated = st.tuples(almost, st.integers(0, 400), st.integers(0, 3), st.sampled_from(_PARTS)).map(
    lambda parts: parts[0][: parts[1]] + parts[3] + parts[0][parts[1] + parts[2] :]
)
raw_heads = st.one_of(
    st.binary(max_size=200).map(lambda data: data + heads.HEAD_END),
    st.lists(st.sampled_from(_PARTS), max_size=25).map(lambda p: b"".join(p) + heads.HEAD_END),
    almost,
    mutated,
    mutated,
)


@fuzz
@given(raw_heads)
def test_any_bytes_are_refused_or_mean_one_thing(raw: bytes) -> None:
    try:
        found = heads.check(raw)
    except BadRequest as error:
        assert str(error).isprintable()
        return
    assert heads.head_length(raw) == len(raw)
    assert isinstance(found.target, Target)
    assert found.connect or found.path.startswith("/")
    _check_meaning(raw, found)
