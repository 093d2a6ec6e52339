from __future__ import annotations

import h11
import pytest

from serai.gate.messages import responses
from serai.gate.messages.responses import Body

LENGTH, CHUNKED, BOTH = (
    (("Content-Length", "5"),),
    (("Transfer-Encoding", "chunked"),),
    (("Content-Length", "5"), ("Transfer-Encoding", "chunked")),
)
Headers = tuple[tuple[str, str], ...]


def response(*headers: tuple[str, str], status: int = 200) -> h11.Response:
    return h11.Response(status_code=status, headers=list(headers), reason="Fine")


def lines(head: bytes) -> list[str]:
    assert head.endswith(b"\r\n\r\n") and head.count(b"\r\n\r\n") == 1
    return head.decode().split("\r\n")[:-2]


@pytest.mark.parametrize(
    ("came", "goes"),
    [
        ("Content Type: text/html", ""),
        ("get-ban/forum.php: userdata not support", ""),
        ("Trying to read config", ""),
        ("Transfer-Encoding: identity", ""),
        ("transfer-encoding :Identity ", ""),
        ("Odd one: 1\r\n  folded\r\nX: 2\r\n 3", "X: 2\r\n 3"),
        (": nameless", ""),
        ("Set-Cookie : a=b", "Set-Cookie: a=b"),
        # Nothing is wrong with these.
        ("X-A_b: 1\r\nY:\r\nZ: a: b", "X-A_b: 1\r\nY:\r\nZ: a: b"),
        # These say where the body ends, or seem to: h11 refuses them.
        ("Content-Length : 3", "Content-Length : 3"),
        (" Transfer-Encoding: chunked", " Transfer-Encoding: chunked"),
        ("Transfer-Encoding: identity, chunked", "Transfer-Encoding: identity, chunked"),
        ("Content-Length", "Content-Length"),
    ],
)
@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_lines_that_are_no_headers_go_and_what_frames_stays(came: str, goes: str, end: str) -> None:
    def head(lines: str) -> bytes:
        text = "\r\n".join(["HTTP/1.1 200 OK", *([lines] if lines else []), "A: 1", "", ""])
        return text.replace("\r\n", end).encode()

    assert responses.readable(head(came)) == head(goes)


@pytest.mark.parametrize(
    ("asked", "status", "headers", "framing", "said"),
    [
        ("GET 1.1", 200, LENGTH, Body.LENGTH, ["Content-Length: 5"]),
        ("GET 1.0", 200, LENGTH, Body.LENGTH, ["Content-Length: 5"]),
        ("GET 1.1", 200, CHUNKED, Body.CHUNKED, ["Transfer-Encoding: chunked"]),
        ("GET 1.0", 200, CHUNKED, Body.CLOSE, []),
        # The coding counts, and the length does not go on beside it.
        ("GET 1.1", 200, BOTH, Body.CHUNKED, ["Transfer-Encoding: chunked"]),
        ("GET 1.0", 200, BOTH, Body.CLOSE, []),
        ("GET 1.1", 200, (), Body.CHUNKED, ["Transfer-Encoding: chunked"]),
        ("GET 1.0", 200, (), Body.CLOSE, []),
        ("HEAD 1.1", 200, LENGTH, Body.NONE, ["Content-Length: 5"]),
        ("HEAD 1.1", 200, CHUNKED, Body.NONE, []),
        ("HEAD 1.1", 200, BOTH, Body.NONE, []),
        ("GET 1.1", 304, LENGTH, Body.NONE, ["Content-Length: 5"]),
        ("GET 1.1", 204, LENGTH, Body.NONE, []),
        ("GET 1.1", 204, CHUNKED, Body.NONE, []),
    ],
)
def test_a_body_has_one_framing(
    asked: str, status: int, headers: Headers, framing: Body, said: list[str]
) -> None:
    method, version = asked.split()
    event = response(*headers, status=status)
    assert responses.body(method, version, event) is framing
    assert lines(responses.head(event, framing, close=False))[1:] == said


def test_what_holds_for_one_hop_does_not_go_on() -> None:
    event = response(
        ("Connection", "keep-alive, X-Hop"),
        ("X-Hop", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authenticate", "Basic"),
        ("Upgrade", "h2c"),
        ("X-End", "1"),
        ("x-end", "2"),
        ("Content-Length", "5"),
    )
    kept = ["X-End: 1", "x-end: 2", "Content-Length: 5", "Connection: close"]
    assert lines(responses.head(event, Body.LENGTH, close=True)) == ["HTTP/1.1 200 Fine", *kept]


def test_nobody_can_take_the_length_away() -> None:
    event = response(("Connection", "content-length"), ("Content-Length", "5"))
    assert lines(responses.head(event, Body.LENGTH, close=False))[1:] == ["Content-Length: 5"]


def test_only_a_switch_has_its_upgrade() -> None:
    headers = [("Connection", "upgrade"), ("Upgrade", "websocket"), ("Content-Length", "5")]
    event = h11.InformationalResponse(status_code=101, headers=headers, reason="")
    switch = lines(responses.head(event, Body.NONE, close=False, upgrade=True))
    assert switch[1:] == ["Connection: upgrade", "Upgrade: websocket"]
    assert lines(responses.head(event, Body.NONE, close=False)) == ["HTTP/1.1 101 "]


def test_a_piece_of_a_chunked_body_never_ends_it() -> None:
    assert responses.framed(b"0123456789abcdef", Body.CHUNKED) == b"10\r\n0123456789abcdef\r\n"
    assert responses.framed(b"", Body.CHUNKED) == b""
    assert responses.framed(b"as it is", Body.LENGTH) == b"as it is"
    assert responses.framed(b"as it is", Body.CLOSE) == b"as it is"
