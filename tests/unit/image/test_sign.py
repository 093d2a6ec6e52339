from __future__ import annotations

from pathlib import Path

import pytest

from serai.image import sign
from serai.image.errors import BuildError


def test_what_sums_writes_is_listed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    found = sign.digests(tmp_path)
    (tmp_path / "SHA256SUMS").write_text(sign.sums(found))
    assert sign.listed(tmp_path) == found == sign.digests(tmp_path)


@pytest.mark.parametrize("text", ["abc  a\n", f"{'0' * 64}  a", f"{'0' * 64}  ../a\n", "é\n"])
def test_damaged_sums_are_one_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "SHA256SUMS").write_text(text)
    with pytest.raises(BuildError, match=r"SHA256SUMS has the line .*; build it again"):
        sign.listed(tmp_path)
