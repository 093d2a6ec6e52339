from __future__ import annotations

import re

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serai.gate import heads
from serai.gate.heads import BadRequest, Head
from serai.gate.hosts import Target

GET = "GET http://example.com/ HTTP/1.1"
POST = "POST http://example.com/ HTTP/1.1"
HOST = "Host: example.com"

fuzz = settings(max_examples=1500, deadline=None, derandomize=True)


def head(*lines: str) -> bytes:
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1")


def get(*headers: str) -> bytes:
    return head(GET, HOST, *headers)


def post(*headers: str) -> bytes:
    return head(POST, HOST, *headers)


# As these programs send them.
CLIENTS = {
    "curl": (
        "GET http://example.com:8080/a?b=c HTTP/1.1",
        "Host: example.com:8080",
        "User-Agent: curl/7.81.0",
        "Accept: */*",
        "Proxy-Connection: Keep-Alive",
    ),
    "curl -T -": (
        "PUT http://example.com/up HTTP/1.1",
        "Host: example.com",
        "User-Agent: curl/7.81.0",
        "Accept: */*",
        "Transfer-Encoding: chunked",
        "Proxy-Connection: Keep-Alive",
        "Expect: 100-continue",
    ),
    "curl https": (
        "CONNECT example.com:443 HTTP/1.1",
        "Host: example.com:443",
        "User-Agent: curl/7.81.0",
        "Proxy-Connection: Keep-Alive",
    ),
    "curl https to IPv6": ("CONNECT [2001:db8::1]:443 HTTP/1.1", "Host: [2001:db8::1]:443"),
    "wget": (
        "GET http://example.com/ HTTP/1.1",
        "User-Agent: Wget/1.21.2",
        "Accept: */*",
        "Accept-Encoding: identity",
        "Host: example.com",
        "Connection: Keep-Alive",
        "Proxy-Connection: Keep-Alive",
    ),
    "wget https": (
        "CONNECT example.com:443 HTTP/1.1",
        "User-Agent: Wget/1.21.2",
        "Host: example.com:443",
    ),
    "apt": (
        "GET http://ports.ubuntu.com/ubuntu-ports/dists/jammy/InRelease HTTP/1.1",
        "Host: ports.ubuntu.com",
        "Cache-Control: max-age=0",
        "Accept: text/*",
        "User-Agent: Debian APT-HTTP/1.3 (2.4.13)",
    ),
    "apt https": (
        "CONNECT deb.nodesource.com:443 HTTP/1.1",
        "Host: deb.nodesource.com:443",
        "User-Agent: Debian APT-HTTP/1.3 (2.4.13)",
    ),
    "git": (
        "GET http://example.com/a.git/info/refs?service=git-upload-pack HTTP/1.1",
        "Host: example.com",
        "User-Agent: git/2.34.1",
        "Accept: */*",
        "Accept-Encoding: deflate, gzip, br",
        "Proxy-Connection: Keep-Alive",
        "Pragma: no-cache",
        "Git-Protocol: version=2",
    ),
    "pip, python before 3.12": ("CONNECT example.com:443 HTTP/1.0",),
    "pip": ("CONNECT example.com:443 HTTP/1.1", "Host: example.com:443"),
    "pip http": (
        "GET http://example.com/simple/ HTTP/1.1",
        "Host: example.com",
        'User-Agent: pip/24.0 {"ci":null,"cpu":"aarch64"}',
        "Accept-Encoding: gzip, deflate",
        "Accept: */*",
        "Connection: keep-alive",
    ),
    "python urllib": (
        "GET http://example.com/ HTTP/1.1",
        "Accept-Encoding: identity",
        "Host: example.com",
        "User-Agent: Python-urllib/3.10",
        "Connection: close",
    ),
    "node undici": (
        "CONNECT example.com:443 HTTP/1.1",
        "host: 127.0.0.1:3128",
        "connection: close",
    ),
    "node https-proxy-agent": (
        "CONNECT example.com:443 HTTP/1.1",
        "Host: example.com",
        "Proxy-Connection: close",
        "Connection: close",
    ),
    "npm http": (
        "GET http://example.com:4873/left-pad HTTP/1.1",
        "connection: keep-alive",
        "user-agent: npm/10.2.4 node/v20.11.0 linux arm64 workspaces/false",
        "accept: application/json; q=1.0, */*",
        "Host: example.com:4873",
    ),
    "Java HttpURLConnection": (
        "GET http://example.com/ HTTP/1.1",
        "User-Agent: Java/17.0.9",
        "Host: example.com",
        "Accept: text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2",
        "Proxy-Connection: keep-alive",
    ),
    "Java HttpURLConnection https": (
        "CONNECT example.com:443 HTTP/1.1",
        "User-Agent: Java/17.0.9",
        "Host: example.com",
        "Accept: text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2",
        "Proxy-Connection: keep-alive",
    ),
    "Java HttpClient": (
        "GET http://example.com/ HTTP/1.1",
        "Connection: Upgrade, HTTP2-Settings",
        "Content-Length: 0",
        "Host: example.com",
        "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
        "Upgrade: h2c",
        "User-Agent: Java-http-client/17.0.9",
    ),
    "libwww-perl": (
        "GET http://example.com/ HTTP/1.1",
        "TE: deflate,gzip;q=0.3",
        "Connection: TE, close",
        "Host: example.com",
        "User-Agent: lwp-request/6.61 libwww-perl/6.61",
    ),
    "socat": ("CONNECT example.com:22 HTTP/1.0",),
    "ab": (
        "GET http://example.com/ HTTP/1.0",
        "Host: example.com",
        "User-Agent: ApacheBench/2.3",
        "Accept: */*",
    ),
    "go": (
        "CONNECT example.com:443 HTTP/1.1",
        "Host: example.com:443",
        "User-Agent: Go-http-client/1.1",
    ),
}


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


REFUSED = {
    # Two ways to tell where the body ends
    "CL.TE": post("Content-Length: 6", "Transfer-Encoding: chunked"),
    "TE.CL": post("Transfer-Encoding: chunked", "Content-Length: 4"),
    "CL.TE, any case": post("content-length: 6", "TRANSFER-ENCODING: chunked"),
    "CL.CL": post("Content-Length: 6", "Content-Length: 5"),
    "CL.CL equal": post("Content-Length: 6", "Content-Length: 6"),
    "CL.CL in one": post("Content-Length: 6, 6"),
    "TE.TE": post("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
    "TE.TE other": post("Transfer-Encoding: chunked", "Transfer-encoding: cow"),
    "TE identity": post("Transfer-Encoding: identity"),
    "TE gzip, chunked": post("Transfer-Encoding: gzip, chunked"),
    "TE chunked, identity": post("Transfer-Encoding: chunked, identity"),
    "TE chunked twice": post("Transfer-Encoding: chunked, chunked"),
    "TE list with nothing": post("Transfer-Encoding: ,chunked"),
    "TE with a parameter": post("Transfer-Encoding: chunked;a=b"),
    "TE x": post("Transfer-Encoding: xchunked"),
    "TE quoted": post('Transfer-Encoding: "chunked"'),
    "TE empty": post("Transfer-Encoding:"),
    "TE with VT": post("Transfer-Encoding:\x0bchunked"),
    "TE with FF": post("Transfer-Encoding: chunked\x0c"),
    "TE with NBSP": post("Transfer-Encoding: chunked\xa0"),
    "TE space before colon": post("Transfer-Encoding : chunked"),
    "TE tab before colon": post("Transfer-Encoding\t: chunked"),
    "TE space before name": post(" Transfer-Encoding: chunked"),
    "TE folded": post("Transfer-Encoding:", " chunked"),
    "TE folded with tab": post("Transfer-Encoding:", "\tchunked"),
    "TE behind a bare CR": post("X: y\rTransfer-Encoding: chunked"),
    "TE behind a bare LF": post("X: y\nTransfer-Encoding: chunked"),
    "TE behind NUL": post("\0Transfer-Encoding: chunked"),
    "TE with NUL": post("Transfer-Encoding: chunked\0"),
    "TE with underscore": post("Transfer_Encoding: chunked"),
    "TE in HTTP/1.0": head(POST[:-1] + "0", HOST, "Transfer-Encoding: chunked"),
    "CL with underscore": post("Content_Length: 3"),
    "CL +": post("Content-Length: +6"),
    "CL -": post("Content-Length: -6"),
    "CL 0x": post("Content-Length: 0x6"),
    "CL 06": post("Content-Length: 06"),
    "CL 6.0": post("Content-Length: 6.0"),
    "CL 1e1": post("Content-Length: 1e1"),
    "CL 1_0": post("Content-Length: 1_0"),
    "CL 6 6": post("Content-Length: 6 6"),
    "CL empty": post("Content-Length:"),
    "CL superscript": post("Content-Length: \xb2"),
    "CL huge": post("Content-Length: 1" + "0" * 18),
    "CL space before colon": post("Content-Length : 6"),
    "Connection takes CL away": post("Content-Length: 6", "Connection: close, content-length"),
    "Connection takes TE away": post("Transfer-Encoding: chunked", "Connection: Transfer-Encoding"),
    # Two ways to tell where a line or the head ends
    "bare LF": get("X: y").replace(b"\r\n", b"\n"),
    "one bare LF": get("X: y").replace(b"com\r\nX", b"com\nX"),
    "bare LF at the end": get("X: y").replace(b"y\r\n\r\n", b"y\n\r\n"),
    "bare LF as blank line": get("X: y")[:-2] + b"\n",
    "bare CR": get("X: y\rz"),
    "bare CR in the request line": head("GET http://example.com/\r HTTP/1.1", HOST),
    "CR CR LF": get("X: y\r"),
    "folded": get("X: y", " z"),
    "folded first header": head(GET, " X: y", HOST),
    "blank line in front": b"\r\n" + get(),
    "something after it": get() + b"G",
    "two heads": get() + get(),
    "not at its end": get()[:-1],
    "nothing": b"",
    "blank": b"\r\n\r\n",
    # Two ways to tell who is meant
    "no Host": head(GET),
    "two Hosts": get(HOST),
    "two different Hosts": get("host: other.example"),
    "other Host": head(GET, "Host: other.example"),
    "other port": head(GET, "Host: example.com:81"),
    "port left out": head("GET http://example.com:81/ HTTP/1.1", HOST),
    "Host in HTTP/1.0": head(GET[:-1] + "0", "Host: other.example"),
    "empty Host": head(GET, "Host:"),
    "Host with user": head(GET, "Host: a@example.com"),
    "Host with path": head(GET, "Host: example.com/"),
    "Host list": head(GET, "Host: example.com, other.example"),
    "Host with space": head(GET, "Host: example.com other.example"),
    "Host with underscore": get("H_ost: a", "HOST: example.com"),
    "Host not ASCII": head(GET, "Host: ex\xe4mple.com"),
    "CONNECT Host with user": head("CONNECT example.com:443 HTTP/1.1", "Host: a@example.com"),
    "CONNECT two Hosts": head("CONNECT example.com:443 HTTP/1.1", HOST, HOST),
    "user": head("GET http://a@example.com/ HTTP/1.1", HOST),
    "user and password": head("GET http://a:b@example.com/ HTTP/1.1", HOST),
    "host in front of a user": head("GET http://example.com:80@other.example/ HTTP/1.1", HOST),
    "backslash": head("GET http://example.com\\@other.example/ HTTP/1.1", HOST),
    "percent in the host": head("GET http://example%2ecom/ HTTP/1.1", "Host: example%2ecom"),
    "no host": head("GET http:///a HTTP/1.1", HOST),
    "no host but a port": head("GET http://:80/ HTTP/1.1", "Host: :80"),
    "port 0": head("GET http://example.com:0/ HTTP/1.1", "Host: example.com:0"),
    "port 65536": head("GET http://example.com:65536/ HTTP/1.1", "Host: example.com:65536"),
    "port +80": head("GET http://example.com:+80/ HTTP/1.1", HOST),
    "fragment": head("GET http://example.com/#a HTTP/1.1", HOST),
    "fragment after host": head("GET http://example.com#@other.example/ HTTP/1.1", HOST),
    "origin-form": head("GET / HTTP/1.1", HOST),
    "two slashes": head("GET //example.com/ HTTP/1.1", HOST),
    "asterisk": head("OPTIONS * HTTP/1.1", HOST),
    "https": head("GET https://example.com/ HTTP/1.1", HOST),
    "ftp": head("GET ftp://example.com/ HTTP/1.1", HOST),
    "file": head("GET file:///etc/passwd HTTP/1.1", HOST),
    "one slash": head("GET http:/example.com/ HTTP/1.1", HOST),
    "no slash": head("GET http:example.com HTTP/1.1", HOST),
    "authority-form": head("GET example.com:80 HTTP/1.1", HOST),
    "CONNECT with user": head("CONNECT a@example.com:443 HTTP/1.1", HOST),
    "CONNECT with password": head("CONNECT a:b@example.com:443 HTTP/1.1", HOST),
    "CONNECT without port": head("CONNECT example.com HTTP/1.1", HOST),
    "CONNECT without host": head("CONNECT :443 HTTP/1.1", HOST),
    "CONNECT with path": head("CONNECT example.com:443/ HTTP/1.1", HOST),
    "CONNECT absolute": head("CONNECT http://example.com:443/ HTTP/1.1", HOST),
    "CONNECT origin-form": head("CONNECT / HTTP/1.1", HOST),
    "CONNECT bare IPv6": head("CONNECT ::1:443 HTTP/1.1", "Host: [::1]:443"),
    "CONNECT with CL": head("CONNECT example.com:443 HTTP/1.1", HOST, "Content-Length: 1"),
    "CONNECT with TE": head("CONNECT example.com:443 HTTP/1.1", HOST, "Transfer-Encoding: chunked"),
    "connect": head("connect example.com:443 HTTP/1.1", HOST),
    "connect absolute": head("Connect http://example.com/ HTTP/1.1", HOST),
    # Request lines and headers that are none
    "HTTP/0.9": head("GET http://example.com/"),
    "HTTP/0.9 spelled": head("GET http://example.com/ HTTP/0.9"),
    "HTTP/1.2": head("GET http://example.com/ HTTP/1.2", HOST),
    "HTTP/1.10": head("GET http://example.com/ HTTP/1.10", HOST),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\n",
    "http/1.1": head("GET http://example.com/ http/1.1", HOST),
    "two spaces": head("GET  http://example.com/ HTTP/1.1", HOST),
    "tab": head("GET\thttp://example.com/ HTTP/1.1", HOST),
    "space in front": head(" GET http://example.com/ HTTP/1.1", HOST),
    "space at the end": head("GET http://example.com/ HTTP/1.1 ", HOST),
    "space in the address": head("GET http://example.com/a b HTTP/1.1", HOST),
    "no method": head(" http://example.com/ HTTP/1.1", HOST),
    "method with a colon": head("GET: http://example.com/ HTTP/1.1", HOST),
    "method not ASCII": head("G\xcbT http://example.com/ HTTP/1.1", HOST),
    "path not ASCII": head("GET http://example.com/\xe4 HTTP/1.1", HOST),
    "host not ASCII": head("GET http://ex\xe4mple.com/ HTTP/1.1", HOST),
    "NUL in the request line": head("GET http://example.com/\0 HTTP/1.1", HOST),
    "NUL in a value": get("X: \0"),
    "DEL in a value": get("X: \x7f"),
    "escape in a value": get("X: \x1b[2J"),
    "no colon": get("X"),
    "no name": get(": y"),
    "space before the colon": get("X : y"),
    "space in the name": get("X Y: z"),
    "name in brackets": get("[X]: z"),
    "name not ASCII": get("\xc4: y"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_may_have_two_meanings_is_refused(case: str) -> None:
    with pytest.raises(BadRequest) as raised:
        heads.check(REFUSED[case])
    assert str(raised.value).isprintable()
    assert str(raised.value).isascii()


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
