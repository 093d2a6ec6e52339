"""What ``serai doctor`` prints, and the page that lists its checks."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from serai.common.checks import Facts, judge, summary
from serai.common.paths import Paths
from serai.runtime.doctor import collect, report, tenant
from tests.conftest import ROOT
from tests.support.well_vm import CHECKS, WELL


def test_json_has_the_shape_of_verify_json() -> None:
    facts = {**WELL, "registry": {"check": "torn"}}
    told = json.loads(json.dumps(summary(judge(Facts(facts), {"registry": 0.25}, CHECKS))))
    assert set(told) == {"checks", "passed", "failed"}
    assert (told["passed"], told["failed"]) == (len(CHECKS) - 1, 1)
    (failed,) = [each for each in told["checks"] if not each["ok"]]
    assert failed == {
        "name": "the registry is whole",
        "ok": False,
        "detail": "it is torn, not ok",
        "seconds": 0.25,
        "means": "Sessions may be lost: restore .serai/registry.sqlite.",
    }
    assert all(
        set(each) == {"name", "ok", "detail", "seconds"} for each in told["checks"] if each["ok"]
    )


def test_the_table_has_a_line_a_check_and_no_escape_sequence() -> None:
    facts = {**WELL, "registry": {"check": "\033[2Jtorn"}}
    text = report.table(judge(Facts(facts), {}, CHECKS), colour=False)
    lines = [line for line in text.splitlines() if line.startswith(("  ok ", "  FAIL "))]
    assert len(lines) == len(CHECKS)
    assert "\033" not in text
    assert "restore .serai/registry.sqlite" in text
    assert text.endswith(f"{len(CHECKS) - 1} passed, 1 failed")


def test_the_page_lists_every_check() -> None:
    assert (ROOT / "docs/doctor.md").read_text() == report.page(), "run 'invoke docs'"


def test_the_audit_log_is_judged_with_what_the_doctor_itself_brought_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def note(name: str) -> dict[str, object]:
        asked.append(name)
        return (
            {"ok": False, "entries": 4, "problem": "a line is missing"} if name == "audit" else {}
        )

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(collect, "gather", lambda *_: note("vm"))
    monkeypatch.setattr(tenant, "gather", lambda *_: note("sessions"))
    monkeypatch.setattr(collect, "audit", lambda _: note("audit"))
    found = {each.check.name: each.detail for each in report.examine(Paths(tmp_path))}
    assert asked == ["vm", "sessions", "audit"]
    assert found["the audit log is whole"] == "a line is missing"
