from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serai.common import tables
from serai.common.errors import SeraiError
from serai.common.tables import setting
from serai.gate.profiles import Profile
from serai.gate.settings import Settings
from serai.runtime.folders.shares import Shares
from serai.runtime.settings import SessionSettings


def upper(text: str) -> str:
    if not text.isalpha():
        raise ValueError(f"{text!a} is not a word")
    return text.upper()


@dataclasses.dataclass(frozen=True)
class Inner:
    port: int = setting(80, "a port", minimum=1, maximum=65535)
    key: str = setting("", "a secret", parse=upper, secret=True)


@dataclasses.dataclass(frozen=True)
class Table:
    name: str
    count: int = 0
    share: float | None = setting(None, "a part", minimum=0, maximum=1)
    days: float = setting(1, "days", minimum=0)
    flag: bool = False
    kind: str = setting("a", "which", choices=("a", "b"))
    words: tuple[str, ...] = setting((), "words", parse=upper)
    numbers: list[int] = setting(list, "numbers")
    env: Mapping[str, str] = setting(dict, "variables")
    inner: Inner = setting(Inner(), "more")
    many: dict[str, Inner] = setting(dict, "by name")
    any: Any = None


def test_everything_is_read_as_what_it_is() -> None:
    data = {
        "name": "n",
        "count": -3,
        "share": 0.5,
        "days": 10**9,
        "flag": True,
        "kind": "b",
        "words": ["x", "y"],
        "numbers": [1],
        "env": {"A": "b"},
        "inner": {"port": 1, "key": "k"},
        "many": {"one": {"port": 2}},
        "any": [None],
    }
    assert tables.read(Table, data) == Table(
        "n",
        -3,
        0.5,
        10**9,
        True,
        "b",
        ("X", "Y"),
        [1],
        {"A": "b"},
        Inner(1, "K"),
        {"one": Inner(2)},
        [None],
    )


def test_what_is_not_named_has_its_default() -> None:
    assert tables.read(Table, {"name": "n"}) == Table("n")
    assert tables.read(Table, {"name": "n", "share": None}).share is None


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({}, "key t.name is missing"),
        ({"nam": 1}, "unknown key t.nam; known are name, count, "),
        ({"a\nb": 1}, r"unknown key t.'a\nb'; known"),
        ({1: 1}, "unknown key t.1; known"),
        ([], "t must be a table"),
        ({"name": 7}, "t.name must be a text, not 7"),
        ({"name": "a\0b"}, r"t.name must be a text, not 'a\x00b'"),
        ({"name": "\ud800"}, "t.name must be a text"),
        ({"name": "x" * 1000, "count": "y" * 1000}, "t.count must be a whole number, not 'yyy"),
        ({"name": "n", "count": True}, "t.count must be a whole number, not True"),
        ({"name": "n", "count": 1.0}, "t.count must be a whole number, not 1.0"),
        ({"name": "n", "count": 1 << 63}, "t.count must be a whole number"),
        ({"name": "n", "share": "1"}, "t.share must be a number or null, not '1'"),
        ({"name": "n", "share": 1.5}, "t.share must be 0..1, not 1.5"),
        ({"name": "n", "share": float("nan")}, "t.share must be a number or null, not nan"),
        ({"name": "n", "days": -1}, "t.days must be 0 or more, not -1"),
        ({"name": "n", "days": float("inf")}, "t.days must be a number, not inf"),
        ({"name": "n", "flag": 1}, "t.flag must be true or false, not 1"),
        ({"name": "n", "kind": "c"}, 't.kind must be "a" or "b", not \'c\''),
        ({"name": "n", "words": "word"}, "t.words must be a list of texts, not 'word'"),
        ({"name": "n", "words": ["a", 1]}, "t.words must be a list of texts"),
        ({"name": "n", "words": ["a", "1"]}, "t.words: '1' is not a word"),
        ({"name": "n", "numbers": ["a"]}, "t.numbers must be a list of whole numbers"),
        ({"name": "n", "env": ["a"]}, "t.env must be a table"),
        ({"name": "n", "env": {"A": 1}}, "t.env.A must be a text, not 1"),
        ({"name": "n", "env": {"A\0": "b"}}, "t.env must be a table"),
        ({"name": "n", "inner": 1}, "t.inner must be a table"),
        ({"name": "n", "inner": {"port": 0}}, "t.inner.port must be 1..65535, not 0"),
        ({"name": "n", "inner": {"prt": 0}}, "unknown key t.inner.prt; known are port, key"),
        ({"name": "n", "many": {"x": {"port": "y"}}}, "t.many.x.port must be a whole number"),
    ],
)
def test_what_is_wrong_is_named(data: Any, says: str) -> None:
    with pytest.raises(ValueError, match=r"\bt\b") as caught:
        tables.read(Table, data, "t.")
    assert says in str(caught.value)
    assert len(str(caught.value)) < 200
    assert len(str(caught.value).splitlines()) == 1


def test_a_secret_is_never_shown() -> None:
    with pytest.raises(ValueError, match="must be a text") as caught:
        tables.read(Inner, {"key": 5311})
    assert "5311" not in str(caught.value)
    assert "KEPT" not in repr(tables.read(Inner, {"key": "kept"}))


def test_a_file_is_read_or_the_file_and_the_key_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    assert tables.load(Inner, path, "the file", absent=Inner(7)) == Inner(7)
    with pytest.raises(SeraiError, match=r"cannot read the file .*t\.toml: "):
        tables.load(Inner, path, "the file")
    path.write_text("port = 8")
    assert tables.load(Inner, path, "the file") == Inner(8)
    path.write_text("port = 'x'")
    with pytest.raises(SeraiError, match=r"t\.toml: port must be a whole number") as caught:
        tables.load(Inner, path, "the file", hint="see there")
    assert caught.value.hint == "see there"
    for wrong in (b"port = ", b"\xff", b"port = " + b"[" * 9000, b"port = " + b"{a=" * 9000):
        path.write_bytes(wrong)
        with pytest.raises(SeraiError, match="cannot read the file") as caught:
            tables.load(Inner, path, "the file", absent=Inner(7))
        assert "\n" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)
NAMES = st.sampled_from([*(field.name for field in dataclasses.fields(Table)), "x"])


@settings(max_examples=100)
@given(st.dictionaries(NAMES, JSON))
def test_a_table_is_right_or_refused_in_one_line(data: dict[str, Any]) -> None:
    try:
        table = tables.read(Table, data)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert type(table.name) is str
        assert "\0" not in table.name
        assert type(table.count) is int
        assert type(table.flag) is bool
        assert table.kind in ("a", "b")
        assert table.days >= 0
        assert all(word.isupper() for word in table.words)


def schemas(kind: Any) -> Iterator[Any]:
    """A dataclass, and those inside it."""
    yield kind
    for hint in typing.get_type_hints(kind).values():
        inner = typing.get_args(hint)[-1] if typing.get_origin(hint) is Mapping else hint
        if dataclasses.is_dataclass(inner):
            yield from schemas(inner)


@pytest.mark.parametrize("file", [SessionSettings, Settings, Profile, Shares])
def test_every_setting_says_what_it_is(file: Any) -> None:
    found = [field for kind in schemas(file) for field in dataclasses.fields(kind)]
    assert found
    assert [field.name for field in found if not field.metadata.get("help")] == []
