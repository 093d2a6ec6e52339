from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serai.common.errors import INVALID_PARAMS, SeraiError
from serai.runtime.sessions import names


@pytest.mark.parametrize("name", ["a", "fix-login", "a1-b2", "x" * 31])
def test_a_plain_name_is_allowed(name: str) -> None:
    assert names.check(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "-rf", "--help", "../x", "a/b", ".", "..", ".serai", "1a", "A", "a--b", "a-", "a_b"),
        *("a\n", "a b", "a\0", "x" * 32, "x" * 300, "ä", "\u0430", "a%i", "a@b", "a.service"),
        *("root", "nobody", "systemd-network", "serai", "serai-gate", "parrot"),
    ],
)
def test_everything_else_is_refused(name: str) -> None:
    with pytest.raises(SeraiError) as caught:
        names.check(name, taken={"parrot"})
    assert caught.value.code == INVALID_PARAMS
    assert len(str(caught.value).splitlines()) == 1


@given(st.text(max_size=40))
def test_what_is_allowed_is_safe_as_a_file_user_and_unit_name(name: str) -> None:
    try:
        names.check(name)
    except SeraiError:
        return
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert name[0].isalpha()
    assert len(name) < 32


def test_made_up_names_are_allowed_and_never_used_before() -> None:
    used: set[str] = set()
    for _ in range(500):
        name = names.make_up(used.__contains__)
        assert names.check(name) == name
        assert name.count("-") == 2
        assert name not in used
        used.add(name)


def test_making_up_gives_up_when_every_name_is_used() -> None:
    with pytest.raises(SeraiError, match="give the session a name"):
        names.make_up(lambda _name: True)


def test_every_word_can_be_part_of_a_name() -> None:
    for kind in ("adjectives", "nouns"):
        words = (Path(names.__file__).parent / "data" / f"{kind}.txt").read_text().split()
        assert len(words) == len(set(words)) > 200
        for word in words:
            names.check(f"{word}-x")
            assert len(word) <= 10


def test_the_vms_own_users_and_groups_are_found(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (tmp_path / "group").write_text("wheel:x:10:\n")
    assert names.system_names(tmp_path) == {"root", "wheel"}
