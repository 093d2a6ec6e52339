"""CHANGES.md, and what `invoke compare` prints."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from serai.image.release import changes_md, diff
from serai.image.settings import Settings
from tests.support.contents import NEW, OLD, a_build

GOLDEN = Path(__file__).parent / "golden" / "CHANGES.md"


def test_changes_are_told_as_ever() -> None:
    """After a change that is meant: write the file anew, and read it."""
    assert changes_md.markdown(diff.compare(OLD, NEW)) == GOLDEN.read_text(encoding="utf-8")


def test_nothing_changed_is_told_too() -> None:
    told = changes_md.markdown(diff.compare(OLD, OLD))
    for words in ("Nothing new has", "The same packages.", "The same files.", "The same checks"):
        assert words in told
    told = changes_md.markdown(diff.compare(replace(OLD, checks={}, boot_seconds=None), OLD))
    assert "Not compared: one of the two was not verified." in told
    assert "| boot, s | – | 60.0 | |" in told  # noqa: RUF001


def test_two_folders_are_compared(
    tmp_path: Path, checkout: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = a_build(tmp_path)
    changes_md.show(checkout, folder, folder, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["files"] == []
    assert told["old"]["version"] == "0.1.0-a"
    changes_md.show(checkout, folder, folder, as_json=False)
    assert capsys.readouterr().out.startswith("# x 0.1.0-a\n")
