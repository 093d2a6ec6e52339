from __future__ import annotations

from pathlib import Path

import pytest

from serai.common import errors
from serai.common.errors import FAILED, GONE, SeraiError
from serai.image.errors import BuildError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (SeraiError("It broke."), "It broke."),
        (SeraiError("it broke.", "mend it."), "it broke; mend it"),
        (BuildError("it broke", hint="mend it"), "it broke; mend it"),
        (BuildError("it broke.", log=Path("a.log")), "it broke; details: a.log"),
        (
            BuildError("it broke.", hint="mend it.", log=Path("a.log")),
            "it broke; mend it; details: a.log",
        ),
    ],
)
def test_an_error_is_one_line_with_what_to_do(error: SeraiError, text: str) -> None:
    assert str(error) == text


def test_a_client_decides_by_the_code() -> None:
    assert SeraiError("x").code == BuildError("x").code == FAILED
    assert SeraiError("x", code=GONE).code == GONE


def test_no_two_errors_share_a_code() -> None:
    codes = [value for name, value in vars(errors).items() if name.isupper()]
    assert len(codes) == len(set(codes)) == 20
