from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serai.runtime.api import rpc
from serai.runtime.errors import INVALID_PARAMS, INVALID_REQUEST, PARSE, SeraiError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)
NAMES = st.sampled_from(["name", "argv", "env", "count", "share", "flag", "x"])
MEMBERS = st.sampled_from(["jsonrpc", "id", "method", "params", "x"])


@dataclass(frozen=True)
class Params:
    name: str
    argv: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    count: int = 0
    share: float | None = None
    flag: bool = False


def refused(line: bytes) -> int:
    with pytest.raises(SeraiError) as caught:
        rpc.parse(line)
    return caught.value.code


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=200) | st.dictionaries(MEMBERS, JSON).map(lambda o: json.dumps(o).encode())
)
def test_a_line_is_a_request_or_an_error(line: bytes) -> None:
    try:
        request = rpc.parse(line)
    except SeraiError as error:
        assert error.code in (PARSE, INVALID_REQUEST, INVALID_PARAMS)
        json.loads(rpc.error(rpc.request_id(line), error))
    else:
        assert isinstance(request.method, str)
        assert isinstance(request.params, dict)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(NAMES, JSON))
def test_parameters_are_right_or_refused(params: dict[str, Any]) -> None:
    try:
        checked = rpc.check(Params, params)
    except SeraiError as error:
        assert error.code == INVALID_PARAMS
    else:
        assert isinstance(checked.name, str)
        assert "\0" not in checked.name
        assert all(isinstance(each, str) for each in checked.argv)
        assert type(checked.count) is int
        assert type(checked.flag) is bool


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


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({}, "parameter name is missing"),
        ({"name": 7}, "name must be a text"),
        ({"name": "a\0b"}, "name must be a text"),
        ({"name": "\ud800"}, "name must be a text"),
        ({"name": "a", "x": 1}, "unknown parameter x; known are name, argv"),
        ({"name": "a", "count": True}, "count must be a whole number"),
        ({"name": "a", "count": 1.5}, "count must be a whole number"),
        ({"name": "a", "count": 1 << 63}, "count must be a whole number"),
        ({"name": "a", "share": "1"}, "share must be a number or null, not '1'"),
        ({"name": "a", "argv": "ls"}, "argv must be a list of texts"),
        ({"name": "a", "argv": ["ls", None]}, "argv must be a list of texts"),
        ({"name": "a", "env": {"K": 1}}, "env.K must be a text, not 1"),
        ({"name": "a", "flag": 1}, "flag must be true or false"),
    ],
)
def test_wrong_parameters_are_named(params: dict[str, Any], says: str) -> None:
    with pytest.raises(SeraiError) as caught:
        rpc.check(Params, params)
    assert says in str(caught.value)


def test_bytes_that_are_no_utf_8_pass_as_surrogates() -> None:
    assert (
        rpc.check(Params, {"name": "a\udcff"}).name.encode("utf-8", "surrogateescape") == b"a\xff"
    )


def test_a_notification_gets_no_answer() -> None:
    assert not rpc.parse(b'{"jsonrpc":"2.0","method":"list"}').reply
    assert rpc.parse(b'{"jsonrpc":"2.0","id":null,"method":"list"}').reply


def test_the_id_of_a_bad_request_is_found_where_there_is_one() -> None:
    assert rpc.request_id(b'{"id":"a"}') == "a"
    for line in (b"{", b"[]", b'{"id":{}}', b"7"):
        assert rpc.request_id(line) is None
