from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serai.common import jsonrpc
from serai.common.errors import (
    FAILED,
    GONE,
    INVALID_PARAMS,
    INVALID_REQUEST,
    PARSE,
    SeraiError,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)
MEMBERS = st.sampled_from(["jsonrpc", "id", "method", "params", "x"])


def refused(line: bytes) -> int:
    with pytest.raises(SeraiError) as caught:
        jsonrpc.parse(line)
    return caught.value.code


@settings(max_examples=100)
@given(
    st.binary(max_size=200) | st.dictionaries(MEMBERS, JSON).map(lambda o: json.dumps(o).encode())
)
def test_a_line_is_a_request_or_an_error(line: bytes) -> None:
    try:
        request = jsonrpc.parse(line)
    except SeraiError as error:
        assert error.code in (PARSE, INVALID_REQUEST, INVALID_PARAMS)
        json.loads(jsonrpc.error(jsonrpc.request_id(line), error))
    else:
        assert isinstance(request.method, str)
        assert isinstance(request.params, dict)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"", PARSE),
        (b"{", PARSE),
        (b'{"jsonrpc":"2.0","id":1,"method":"li', PARSE),
        (b"\xff\xfe", PARSE),
        (b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":NaN}}', PARSE),
        (b"[" * 100000, PARSE),
        (b"[]", INVALID_REQUEST),
        (b'[{"jsonrpc":"2.0","id":1,"method":"list"}]', INVALID_REQUEST),
        (b'{"id":1,"method":"list"}', INVALID_REQUEST),
        (b'{"jsonrpc":"1.0","id":1,"method":"list"}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":{},"method":"list"}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":true,"method":"list"}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":"%s","method":"list"}' % (b"x" * 200), INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"method":7}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"method":"list","extra":1}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"method":"list","params":[]}', INVALID_PARAMS),
    ],
)
def test_what_is_no_request_is_refused(line: bytes, code: int) -> None:
    assert refused(line) == code


def test_a_notification_gets_no_answer() -> None:
    assert not jsonrpc.parse(b'{"jsonrpc":"2.0","method":"list"}').reply
    assert jsonrpc.parse(b'{"jsonrpc":"2.0","id":null,"method":"list"}').reply


def test_the_id_of_a_bad_request_is_found_where_there_is_one() -> None:
    assert jsonrpc.request_id(b'{"id":"a"}') == "a"
    for line in (b"{", b"[]", b'{"id":{}}', b"7"):
        assert jsonrpc.request_id(line) is None


def test_an_error_arrives_as_it_was_raised() -> None:
    for sent in (SeraiError("no", "do this", 7), SeraiError("no")):
        with pytest.raises(SeraiError) as caught:
            jsonrpc.answered(json.loads(jsonrpc.error(1, sent)))
        assert vars(caught.value) == vars(sent)
    # As a server of version 0.1 says it.
    with pytest.raises(SeraiError) as caught:
        jsonrpc.answered({"error": {"message": "no", "hint": "do this"}})
    assert (caught.value.message, caught.value.code) == ("no", FAILED)
    assert jsonrpc.answered(json.loads(jsonrpc.result(1, None))) is None


@contextmanager
def saying(path: Path, *lines: bytes) -> Iterator[Path]:
    """A server that answers one client with these lines, and hangs up."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            sock, _ = listener.accept()
            with sock, sock.makefile("rwb") as file:
                file.readline()
                file.writelines(lines)

        thread = threading.Thread(target=serve)
        thread.start()
        yield path
        thread.join()


def test_a_client_keeps_what_comes_before_its_answer(tmp_path: Path) -> None:
    news = jsonrpc.notification("news", {"a": 1})
    lines = (news, jsonrpc.result(99, 0), jsonrpc.result(1, 7))
    with saying(tmp_path / "s", *lines) as path, jsonrpc.Client(path, 10) as client:
        assert client.call("x") == 7
        assert client._events == [json.loads(news)]
        with pytest.raises(SeraiError, match="the server hung up") as caught:
            client.message()
        assert caught.value.code == GONE


def test_who_asks_once_is_answered_or_told_that_nobody_does(tmp_path: Path) -> None:
    with saying(tmp_path / "a", jsonrpc.result(1, [7])) as path:
        assert asyncio.run(jsonrpc.ask(path, "x", {})) == [7]
    with saying(tmp_path / "b", jsonrpc.error(1, SeraiError("no", code=2))) as path:
        with pytest.raises(SeraiError, match="no") as caught:
            asyncio.run(jsonrpc.ask(path, "x", {}))
        assert caught.value.code == 2
    with saying(tmp_path / "c", b'{"jsonrpc"') as path, pytest.raises(EOFError):
        asyncio.run(jsonrpc.ask(path, "x", {}))
    with pytest.raises(OSError, match="No such file"):
        asyncio.run(jsonrpc.ask(tmp_path / "none", "x", {}))
