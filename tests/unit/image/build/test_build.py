"""What a build makes, and what it leaves as it is: stages that are new, cached, or too old."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from serai.image.build import age, build, plan
from serai.image.definition import definition
from serai.image.errors import BuildError
from serai.image.settings import Settings
from tests.support import projects
from tests.support.projects import IMAGE, Builder

ALL = ["base", "one", "two"]


@pytest.fixture
def project(checkout: Settings) -> Settings:
    return projects.fill(checkout)


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> Builder:
    return Builder(monkeypatch)


def planned(project: Settings, *, fresh: bool = False) -> plan.Plan:
    return plan.make(project, definition.load(project, IMAGE), fresh=fresh)


def grow_old(project: Settings, days: float) -> None:
    """Let all stages and builds stand on a base that was made so long ago."""
    made = (datetime.now(timezone.utc) - timedelta(days=days)).strftime(age.ISO)
    stages = [stage.folder / plan.RECORD for stage in planned(project).stages]
    for path in (*stages, *project.dist.glob("*/*/manifest.json")):
        content = json.loads(path.read_text())
        for record in content.get("stages", [content]):
            record[age.BASE_MADE] = made
        path.write_text(json.dumps(content))


def disk(folder: Path) -> str:
    return (folder / f"{IMAGE}.qcow2").read_text()


def test_a_second_build_makes_nothing(project: Settings, builder: Builder) -> None:
    first = build.build(project, IMAGE)
    assert build.build(project, IMAGE) == first
    assert builder.built == ALL
    assert disk(first) == "base 1\none 2\ntwo 3\n"


def test_a_fresh_build_makes_all_anew_in_the_same_place(
    project: Settings, builder: Builder
) -> None:
    first = build.build(project, IMAGE)
    (first / "verify.json").touch()
    grow_old(project, 1 / 24)
    assert build.build(project, IMAGE, fresh=True) == first
    assert builder.built == [*ALL, *ALL]
    assert disk(first) == "base 4\none 5\ntwo 6\n"
    assert not (first / "verify.json").exists()  # it was about another disk
    assert all(stage.cached for stage in planned(project).stages)
    assert [path.name for path in project.dist.glob("*/.*")] == []


def test_a_base_older_than_the_limit_is_made_anew_and_a_line_says_so(
    project: Settings, builder: Builder, capsys: pytest.CaptureFixture[str]
) -> None:
    limited = replace(project, cache_max_age="30")
    build.build(project, IMAGE)
    grow_old(project, 29.9)
    build.build(limited, IMAGE)
    assert builder.built == ALL
    grow_old(project, 31.5)
    build.build(project, IMAGE)  # without a limit any age will do
    assert builder.built == ALL
    capsys.readouterr()
    build.build(limited, IMAGE)
    assert builder.built == [*ALL, *ALL]
    said = "base: its base is 31 days old, older than 30 days (SERAI_CACHE_MAX_AGE)"
    assert said in capsys.readouterr().out


def test_a_layer_counts_for_the_base_that_it_was_built_on(
    project: Settings, builder: Builder
) -> None:
    folder = build.build(project, IMAGE)
    grow_old(project, 3)
    base = planned(project).stages[0]
    path = base.folder / plan.RECORD
    record = json.loads(path.read_text())
    # as another image's build with --fresh leaves it
    path.write_text(json.dumps(record | {age.BASE_MADE: "2026-11-28T00:00:00Z"}))
    states = [stage.why for stage in planned(project).stages]
    assert states == ["", "its base was made again since", "one is built again"]
    (folder / "manifest.json").unlink()
    build.build(project, IMAGE)
    assert builder.built == [*ALL, "one", "two"]
    assert {stage.record()[age.BASE_MADE] for stage in planned(project).stages} == {
        "2026-11-28T00:00:00Z"
    }


def test_stages_of_before_there_were_times_still_count(project: Settings, builder: Builder) -> None:
    build.build(project, IMAGE)
    for stage in planned(project).stages:
        record = stage.record()
        del record[age.BASE_MADE]
        (stage.folder / plan.RECORD).write_text(json.dumps(record))
    found = planned(replace(project, cache_max_age="1")).stages
    assert [stage.why for stage in found] == ["", "", ""]
    assert builder.built == ALL


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "a month", "99999999"])
def test_a_limit_that_is_none_is_one_line(project: Settings, text: str) -> None:
    with pytest.raises(BuildError, match=r"SERAI_CACHE_MAX_AGE is .*; a number of days from 1"):
        planned(replace(project, cache_max_age=text))


def test_ci_has_a_limit_unless_it_says_otherwise(tmp_path: Path) -> None:
    def limit(**environ: str) -> tuple[str, str]:
        settings = Settings.of(environ, tmp_path)
        return settings.cache_max_age, settings.sources["cache_max_age"]

    assert limit() == ("", "default")
    assert limit(CI="true") == ("30", "CI")
    assert limit(CI="true", SERAI_CACHE_MAX_AGE="none") == ("none", "SERAI_CACHE_MAX_AGE")
    assert limit(SERAI_CACHE_MAX_AGE="7") == ("7", "SERAI_CACHE_MAX_AGE")
    none = age.limit(Settings.of({"SERAI_CACHE_MAX_AGE": "none"}, tmp_path))
    assert none.since is None


@pytest.mark.parametrize(
    ("hours", "told"), [(0, "0 hours"), (1.1, "1 hour"), (47.9, "47 hours"), (49, "2 days")]
)
def test_ages_are_told_in_hours_and_days(hours: float, told: str) -> None:
    assert age.ago(datetime.now(timezone.utc) - timedelta(hours=hours)) == told
