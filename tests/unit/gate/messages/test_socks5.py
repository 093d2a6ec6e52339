from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serai.gate.messages import socks5
from serai.gate.messages.socks5 import BadMessage, Request

LONGEST = 262
NAME = b"\x05\x01\x00\x03\x0bexample.com\x01\xbb"

fuzz = settings(max_examples=1500)


@pytest.mark.parametrize(
    ("message", "methods"),
    [
        (b"\x05\x01\x00", b"\x00"),  # ssh's ProxyCommand with nc, PySocks
        (b"\x05\x02\x00\x01", b"\x00\x01"),  # curl without GSSAPI for a user
        (b"\x05\x03\x00\x01\x02", b"\x00\x01\x02"),
        (b"\x05\xff" + bytes(range(255)), bytes(range(255))),
        (b"\x05\x01\x02", b"\x02"),
        (b"\x05\x00", b""),  # no method at all, which is answered as none that suits
    ],
)
def test_greetings_of_clients(message: bytes, methods: bytes) -> None:
    assert socks5.greeting(message) == (len(message), methods)
    assert socks5.greeting(message + b"more") == (len(message), methods)
    assert all(socks5.greeting(message[:size]) is None for size in range(len(message)))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (NAME, Request(socks5.CONNECT, "example.com", 443)),
        (b"\x05\x01\x00\x01\xc0\x00\x02\x07\x00\x16", Request(1, "192.0.2.7", 22)),
        (b"\x05\x01\x00\x04" + bytes(15) + b"\x01\xff\xff", Request(1, "::1", 65535)),
        (b"\x05\x01\x00\x03\x05127.1\x00\x50", Request(1, "127.1", 80)),
        (b"\x05\x01\x00\x03\x06b\xc3\xbc.de\x00\x50", Request(1, "bü.de", 80)),
        (b"\x05\x01\x00\x03\xff" + b"a" * 255 + b"\x00\x50", Request(1, "a" * 255, 80)),
        (b"\x05\x02\x00\x01" + bytes(6), Request(socks5.BIND, "0.0.0.0", 0)),  # noqa: S104
        (b"\x05\x03\x00\x04" + bytes(18), Request(socks5.UDP_ASSOCIATE, "::", 0)),
        (b"\x05\xf0\x00\x01" + bytes(6), Request(0xF0, "0.0.0.0", 0)),  # noqa: S104
    ],
)
def test_requests(message: bytes, expected: Request) -> None:
    assert socks5.request(message) == (len(message), expected)
    assert socks5.request(bytearray(message + b"\x16\x03\x01")) == (len(message), expected)
    assert all(socks5.request(message[:size]) is None for size in range(len(message)))


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00", "version 4"),
        (b"GET / HTTP/1.1\r\n", "speak HTTP"),
        (b"\x16\x03\x01", "version 22"),
    ],
)
def test_greetings_that_are_none(message: bytes, why: str) -> None:
    with pytest.raises(BadMessage, match=why):
        socks5.greeting(message)


@pytest.mark.parametrize(
    ("message", "why", "code"),
    [
        (b"\x04", "version 4", socks5.FAILURE),
        (b"\x05\x01\x01", "reserved", socks5.FAILURE),
        (b"\x05\x01\x00\x02", "type 2", socks5.ADDRESS_TYPE_NOT_SUPPORTED),
        (b"\x05\x01\x00\x03\x00", "empty", socks5.FAILURE),
        (b"\x05\x01\x00\x03\x01\xff\x00\x50", "UTF-8", socks5.FAILURE),
        (b"\x05\x01\x00\x03\x01a\x00\x00", "port 0", socks5.FAILURE),
    ],
)
def test_requests_that_are_none(message: bytes, why: str, code: int) -> None:
    with pytest.raises(BadMessage, match=why) as raised:
        socks5.request(message)
    assert raised.value.code == code


def test_a_reply_names_no_address() -> None:
    assert socks5.reply(socks5.NOT_ALLOWED) == b"\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00"


def _outcome(parse: Callable[[bytes], Any], data: bytes) -> object:
    try:
        return parse(data)
    except BadMessage as error:
        return str(error), error.code


def _byte_by_byte(parse: Callable[[bytes], Any], data: bytes) -> object:
    """What a server sees that gets a byte at a time and stops when it knows."""
    for size in range(len(data)):
        if (found := _outcome(parse, data[:size])) is not None:
            return found
    return _outcome(parse, data)


messages = st.one_of(
    st.binary(max_size=300),
    st.binary(max_size=300).map(lambda rest: b"\x05" + rest),
    st.tuples(st.integers(0, 255), st.integers(0, 5), st.binary(max_size=300)).map(
        lambda parts: bytes((5, parts[0], 0, parts[1])) + parts[2]
    ),
    st.tuples(st.binary(min_size=1, max_size=255), st.binary(max_size=4)).map(
        lambda parts: b"\x05\x01\x00\x03" + bytes((len(parts[0]),)) + parts[0] + parts[1]
    ),
)


@fuzz
@given(messages)
def test_any_bytes_are_a_message_or_none_and_pieces_do_not_matter(data: bytes) -> None:
    for parse in (socks5.greeting, socks5.request):
        whole = _outcome(parse, data)
        assert _byte_by_byte(parse, data) == whole
        assert whole is not None or len(data) < LONGEST
        if isinstance(whole, tuple) and isinstance(whole[0], int):
            assert 2 <= whole[0] <= min(len(data), LONGEST)
