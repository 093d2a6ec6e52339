"""Each check: green on good evidence, and red, alone, when the image is broken in its one point."""

from __future__ import annotations

import pytest

from serai.common.checks import judge
from serai.image.verify.checks import CHECKS
from serai.image.verify.facts import Evidence
from tests.support.evidence import IMAGE, PROMISED, broken, good
from tests.support.faults import BREAKS, FIRST, SHIPPED


def red(evidence: Evidence) -> list[str]:
    return [result.check.name for result in judge(evidence, {}, CHECKS) if not result.ok]


def test_there_are_checks_and_each_has_its_fault() -> None:
    names = [check.name for check in CHECKS]
    assert names
    assert len(names) == len(set(names))
    assert set(BREAKS) == set(names)
    assert all(BREAKS.values())


def test_a_good_image_passes_every_check() -> None:
    results = judge(broken(), {}, CHECKS)
    assert [(result.check.name, result.detail) for result in results if not result.ok] == []
    assert len(results) == len(CHECKS)


@pytest.mark.parametrize(
    ("name", "changes"),
    [(name, changes) for name, faults in BREAKS.items() for changes in faults],
    ids=[f"{name}-{number}" for name, faults in BREAKS.items() for number in range(len(faults))],
)
def test_a_fault_turns_its_check_red_and_no_other(
    name: str, changes: list[tuple[str, object]]
) -> None:
    assert red(broken(*changes)) == [name]


def test_the_distributions_own_servers_may_also_have_been_the_builds() -> None:
    mirror, usual = "http://deb.example/debian/", f"{FIRST}.apt.usual"
    assert red(broken(("image.base.mirror", mirror), (usual, ["deb.example"]))) == []
    chosen = {**IMAGE.variables, "seal_sources": [f"deb {mirror} bookworm main"]}
    assert red(broken(("image.base.mirror", mirror), ("image.variables", chosen))) == []


def test_what_was_found_is_told_in_words() -> None:
    told = {result.check.name: result for result in judge(broken(), {"bwrap": 1.25}, CHECKS)}
    assert told["bwrap runs as an ordinary user"].detail == "bubblewrap 0.8.0"
    assert told["bwrap runs as an ordinary user"].seconds == 1.25
    many = broken((f"{SHIPPED}.logs", [f"/var/log/{number}" for number in range(9)]))
    told = {result.check.name: result for result in judge(many, {}, CHECKS)}
    assert told["no logs are shipped"].detail == (
        "left: /var/log/0, /var/log/1, /var/log/2 and 6 more"
    )


def test_a_machine_that_does_not_come_up_is_failed_checks_with_the_reason() -> None:
    dead_boots = broken(("first", "no ssh; Kernel panic"), ("second", "no ssh"))
    results = judge(dead_boots, {}, CHECKS)
    dead = [result for result in results if not result.ok]
    assert any("Kernel panic" in result.detail for result in dead)
    # What the bytes alone show is judged all the same.
    assert "no logs are shipped" in {result.check.name for result in results if result.ok}


def test_without_any_evidence_nothing_passes() -> None:
    parts = good().keys() - {"image", "promised"}
    nothing = broken(*((part, "it was not reached") for part in parts))
    assert [result.check.name for result in judge(nothing, {}, CHECKS) if result.ok] == []
    plain = nothing.model_copy(update={"image": IMAGE.model_copy(update={"variables": {}})})
    assert [result.check.name for result in judge(plain, {}, CHECKS) if result.ok] == []


def test_a_profile_promises_no_more_than_it_has() -> None:
    bare = broken(
        *(("exercise.versions", {}), ("exercise.documents", []), ("exercise.compiled", "")),
        *(("image.variables", {}), ("promised", {})),
    )
    assert red(bare) == []
    assert red(bare.model_copy(update={"image": IMAGE})) != []
    assert red(bare.model_copy(update={"promised": PROMISED})) != []


def test_who_asks_for_packages_may_have_any_tool() -> None:
    asked = broken(
        ("image.variables", {"toolchain_packages": ["golang-go"]}),
        ("exercise.uninvited", ["go"]),
    )
    assert red(asked) == []


def test_an_image_may_choose_its_time_zone() -> None:
    chosen = {**IMAGE.variables, "identity_timezone": "Europe/Berlin"}
    assert red(broken(("image.variables", chosen))) == [
        "the clock is right and in the image's time zone"
    ]
    seen = (f"{FIRST}.system.timezone", "Europe/Berlin")
    assert red(broken(("image.variables", chosen), seen)) == []


def test_an_image_that_chooses_other_limits_is_held_to_these() -> None:
    chosen = {**IMAGE.variables, "limits_nofile": 2048, "identity_locale": "en_GB.UTF-8"}
    changed = [("image.variables", chosen)]
    assert red(broken(*changed)) == ["a login has the limits and the locale"]
    seen = [(f"{FIRST}.login.limits.nofile", "2048"), (f"{FIRST}.login.locale", "en_GB.UTF-8")]
    assert red(broken(*changed, *seen)) == []
