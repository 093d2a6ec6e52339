"""Checks are rows; what they find, what was not there to judge, and what is told of it."""

from __future__ import annotations

import pytest

from serai.common.checks import (
    Absent,
    Check,
    Facts,
    Finding,
    judge,
    none_of,
    problem,
    same,
    section,
    summary,
    the,
)

ROWS: tuple[Check[Facts], ...] = section(
    "disks",
    "mount",
    ("it is mounted", lambda facts: problem(facts["mount"]["why"]), "Nothing can be kept."),
    ("it is ext4", lambda facts: same(facts["mount"]["kind"], "ext4"), "Quotas do not work."),
)


def test_a_section_is_a_check_a_row() -> None:
    assert [(each.area, each.part, each.name, each.means) for each in ROWS] == [
        ("disks", "mount", "it is mounted", "Nothing can be kept."),
        ("disks", "mount", "it is ext4", "Quotas do not work."),
    ]


def test_each_check_is_judged_in_order_with_the_time_of_its_part() -> None:
    facts = Facts({"mount": {"why": "", "kind": "xfs"}})
    results = judge(facts, {"mount": 1.5, "other": 9.0}, ROWS)
    assert [each.check for each in results] == list(ROWS)
    assert [(each.ok, each.detail, each.seconds) for each in results] == [
        (True, "yes", 1.5),
        (False, "it is xfs, not ext4", 1.5),
    ]
    assert [each.seconds for each in judge(facts, {}, ROWS)] == [0.0, 0.0]


def test_several_problems_are_one_line() -> None:
    check: Check[None] = Check("a", "b", lambda _: Finding(["one", "two"], "well"))
    assert judge(None, {}, [check])[0].detail == "one; two"


def test_a_part_that_is_text_is_the_reason_why_it_is_not_there() -> None:
    assert the(7) == 7
    with pytest.raises(Absent, match="no ssh"):
        the("no ssh")
    with pytest.raises(Absent, match="not looked at"):
        Facts({})["mount"]
    results = judge(Facts({"mount": "no such disk"}), {}, ROWS)
    assert [each.detail for each in results] == ["not seen: no such disk"] * 2
    assert not any(each.ok for each in results)


@pytest.mark.parametrize("shape", [{}, [], None, 3, {"why": "", "kind": ""}])
def test_facts_of_an_unknown_shape_pass_no_check(shape: object) -> None:
    results = judge(Facts({"mount": shape}), {}, ROWS[1:])
    assert [each.ok for each in results] == [False]
    assert results[0].detail


def test_a_number_too_large_to_reckon_with_passes_no_check() -> None:
    check: Check[int] = Check("a", "b", lambda told: Finding([], f"{told / 3:.0f}"))
    (result,) = judge(10**400, {}, [check])
    assert not result.ok
    assert "OverflowError" in result.detail


def test_a_mistake_of_a_check_is_not_hidden() -> None:
    check: Check[None] = Check("a", "b", lambda _: Finding([], str(1 / 0)))
    with pytest.raises(ZeroDivisionError):
        judge(None, {}, [check])


def test_a_summary_says_what_a_failure_means_and_nothing_of_what_passed() -> None:
    facts = Facts({"mount": {"why": "", "kind": "xfs"}})
    assert summary(judge(facts, {"mount": 0.12345}, ROWS)) == {
        "checks": [
            {"name": "it is mounted", "ok": True, "detail": "yes", "seconds": 0.123},
            {
                "name": "it is ext4",
                "ok": False,
                "detail": "it is xfs, not ext4",
                "seconds": 0.123,
                "means": "Quotas do not work.",
            },
        ],
        "passed": 1,
        "failed": 1,
    }
    told = summary(judge(facts, {"mount": 0.12345}, ROWS), digits=1)
    assert {each["seconds"] for each in told["checks"]} == {0.1}


def test_findings_are_told_in_words() -> None:
    assert problem("").problems == []
    assert problem("torn", "whole") == Finding(["torn"], "whole")
    assert same([2, 1], [2, 1]) == Finding([], "2, 1")
    assert same({"b", "a"}, set()) == Finding(["it is a, b, not nothing"], "a, b")
    assert same("", "x", "as it should be") == Finding(["it is nothing, not x"], "as it should be")
    assert none_of([]) == Finding([], "none")
    assert none_of(each for each in ("a", ["b", "c"])) == Finding(["a", "b, c"], "none")
