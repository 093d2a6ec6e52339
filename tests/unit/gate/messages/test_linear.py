"""The gate's patterns for h11: they take what h11's take, and their time is the line's length."""

from __future__ import annotations

import re
import time

import h11
import pytest
from h11 import _abnf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serai.gate import exchange
from serai.gate.messages import linear

THEIRS = {
    linear.HEADER: re.compile(_abnf.header_field.encode("ascii")),
    linear.CHUNK: re.compile(_abnf.chunk_header.encode("ascii")),
}
BLANKS = b" " * 30_000
PIECES = [
    b"a",
    b"F",
    b"5",
    b":",
    b";",
    b" ",
    b"\t",
    b"\r\n",
    b"\n",
    b"\x00",
    b"\x0b",
    b"\xff",
    b"  ",
]


@pytest.mark.parametrize("ours", THEIRS)
@settings(max_examples=400)
@given(line=st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join))
@example(line=b"X: a b \t")
@example(line=b"5;a=b \r\n")
@example(line=b"5 \r\n")
def test_they_take_what_h11_takes(ours: re.Pattern[bytes], line: bytes) -> None:
    for start in (b"", b"X:", b"5", b"5;"):
        got, theirs = ours.fullmatch(start + line), THEIRS[ours].fullmatch(start + line)
        assert (got is None) == (theirs is None)
        for name in ("field_name", "field_value", "chunk_size"):
            if got is not None and theirs is not None and name in theirs.groupdict():
                assert got[name] == theirs[name]


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (linear.HEADER, b"X:" + BLANKS + b"\x0b"),
        (linear.HEADER, b"X:" + b"a " * 15_000 + b"\x0b"),
        (linear.CHUNK, b"5;" + BLANKS + b"\n\r\n"),
        (linear.CHUNK, b"5" + BLANKS + b"\n\r\n"),
    ],
)
def test_a_line_twice_as_long_takes_about_twice_the_time(
    pattern: re.Pattern[bytes], line: bytes
) -> None:
    def seconds(line: bytes) -> float:
        best = 1.0
        for _ in range(9):
            begin = time.thread_time()
            assert pattern.fullmatch(line) is None
            best = min(best, time.thread_time() - begin)
        return best

    short = line[:2] + line[-4000:]
    assert seconds(line) < 30 * seconds(short)  # 7.5 times as long; its square is 56


def test_h11_uses_them() -> None:
    assert exchange.H11_PIECE  # it has called patch()
    head = b"HTTP/1.1 200 OK\r\nX:" + BLANKS + BLANKS + b"\x0b\r\n\r\n"
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    client.receive_data(head)
    begin = time.thread_time()
    with pytest.raises(h11.RemoteProtocolError, match="illegal header line"):
        client.next_event()
    assert time.thread_time() - begin < 2.0  # some ten seconds with h11's own
