"""What a verification says, to people and in verify.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serai.common.checks import Check, Finding, Result
from serai.image.verify import verdict
from serai.image.verify.verdict import Report


def a_result(name: str, ok: bool, detail: str, seconds: float) -> Result:
    check: Check[object] = Check("system", name, lambda _: Finding([], ""))
    return Result(check, ok, detail, seconds)


GOOD = a_result("swap is off", True, "none", 0.1234)
BAD = a_result("no logs are shipped", False, "left: /var/log/dpkg.log", 2.0)


def a_report(*results: Result) -> Report:
    return Report("debian-12-amd64", "0.1.0-abc", 61.5, {"packages": 300}, results, "a" * 64)


def test_verify_json_has_the_promised_shape(tmp_path: Path) -> None:
    target = tmp_path / "verify.json"
    target.write_text("{}")
    verdict.write(a_report(GOOD, BAD), target)
    assert json.loads(target.read_text()) == {
        "image": "debian-12-amd64",
        "version": "0.1.0-abc",
        "sha256": "a" * 64,
        "boot_seconds": 61.5,
        "facts": {"packages": 300},
        "checks": [
            {"name": "swap is off", "ok": True, "detail": "none", "seconds": 0.1},
            {
                "name": "no logs are shipped",
                "ok": False,
                "detail": "left: /var/log/dpkg.log",
                "seconds": 2.0,
            },
        ],
        "passed": 1,
        "failed": 1,
    }
    assert [path.name for path in tmp_path.iterdir()] == ["verify.json"]


def test_a_report_is_good_only_if_something_was_checked_and_nothing_failed() -> None:
    assert a_report(GOOD).ok
    assert not a_report(GOOD, BAD).ok
    assert not a_report().ok


def test_the_table_shows_every_check(capsys: pytest.CaptureFixture[str]) -> None:
    verdict.show(a_report(GOOD, BAD))
    shown = " ".join(capsys.readouterr().out.split())
    assert "✓ swap is off" in shown
    assert "✗ no logs are shipped" in shown
    assert "/var/log/dpkg.log" in shown
    assert "1 passed, 1 failed" in shown
