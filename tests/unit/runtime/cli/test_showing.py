from __future__ import annotations

import time

import pytest

from serai.runtime.cli import showing


def test_a_table_has_columns_and_its_last_one_is_as_it_comes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    showing.table([("NAME", "STATE", "LABELS"), ("otter", "ready", "a=1 keep="), ("a", "b", "")])
    assert capsys.readouterr().out.splitlines() == [
        "NAME   STATE  LABELS",
        "otter  ready  a=1 keep=",
        "a      b",
    ]


def test_a_time_is_that_of_the_clock_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC-2")
    time.tzset()
    try:
        assert showing.when(86400.5) == "1970-01-02 02:00:00"
    finally:
        monkeypatch.undo()
        time.tzset()
