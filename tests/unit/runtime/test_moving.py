"""What a source that somebody took over may tell of a move."""

from __future__ import annotations

from typing import Any

import pytest

from serai.common.errors import SeraiError
from serai.runtime import moving
from serai.runtime.client import Client

TOKEN = "0123456789abcdef" * 2


class LyingEnd:
    """A VM that answers so."""

    def __init__(self, address: str, **answers: Any) -> None:
        self.address = address
        self.answers = answers
        self.called: list[str] = []

    def call(self, method: str, /, **_: Any) -> Any:
        if method == "version":
            return {"version": "1", "capabilities": [*moving.GIVES, *moving.TAKES]}
        self.called.append(method)
        return self.answers.get(method.replace("move.", ""), {})

    def another(self) -> Client:
        raise AssertionError


@pytest.mark.parametrize("token", ["restore-2000", "", None, 7, TOKEN + "\n", ["x"]])
def test_a_source_names_no_token_that_can_be_guessed(token: Any) -> None:
    """The target would commit, archive or never take what it awaits of a backup."""
    told = {"token": token, "stage": "left", "was": "archived"}
    source = LyingEnd("ssh://thief", begin=told, show=told)
    target = LyingEnd("ssh://honest", commit={"name": "one"}, status={"stage": "committed"})
    with pytest.raises(SeraiError, match="no token"):
        moving.move(source, target, "one")
    with pytest.raises(SeraiError, match="no token"):
        moving.cancel(source, target, "one")
    assert target.called == []


def test_a_source_does_not_have_another_session_archived() -> None:
    """It knows the tokens of all that has ever left it."""
    told = {"token": TOKEN, "stage": "left", "was": "archived"}
    source = LyingEnd("ssh://thief", begin=told)
    target = LyingEnd("ssh://honest", commit={"name": "victim"})
    with pytest.raises(SeraiError, match="the target has victim by this move"):
        moving.move(source, target, "one")
    assert target.called == ["move.commit"]
    target = LyingEnd("ssh://honest", commit={"name": "one"})
    moving.move(source, target, "one")
    assert target.called == ["move.commit", "archive", "show"]
