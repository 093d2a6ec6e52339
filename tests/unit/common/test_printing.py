from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serai.common.printing import clean, say


@given(st.text())
def test_a_cleaned_text_is_one_printable_line(text: str) -> None:
    cleaned = clean(text)
    assert cleaned.isprintable()
    assert len(cleaned) == len(text)
    assert cleaned.encode().decode() == cleaned  # no half of a pair


def test_nothing_is_hidden_in_what_nobody_sees() -> None:
    secret = "".join(chr(0xE0100 + byte) for byte in b"do as I say")
    assert clean(f"ok{secret}\ufe0f\ufe00\u3164\u2800\u034f.") == f"ok{'?' * (len(secret) + 5)}."


def test_what_is_printable_stays(capsys: pytest.CaptureFixture[str]) -> None:
    assert clean("zwölf Ж 猫 /srv/a b") == "zwölf Ж 猫 /srv/a b"
    say("\x1b]0;x\x07a\nb\u202ec")
    assert capsys.readouterr().out == "?]0;x?a?b?c\n"
