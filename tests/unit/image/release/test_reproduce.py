"""Two builds of the same inputs: what may differ, and what is said where more does."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from serai.image.build import plan
from serai.image.definition import definition
from serai.image.errors import BuildError
from serai.image.release import allow, reproduce, tree
from serai.image.release.allow import Rule, Rules
from serai.image.release.diff import File
from serai.image.release.tree import Entry
from serai.image.settings import Settings

NAME = "debian-12-amd64"
ONE = [Entry("etc/a", "f", 0o644, 0, 0, 1, "aa"), Entry("var/b", "f", 0o644, 0, 0, 1, "aa")]
TWO = [Entry("etc/a", "f", 0o600, 0, 0, 1, "aa"), Entry("var/b", "f", 0o644, 0, 0, 1, "bb")]


def test_what_is_not_on_the_list_is_told_and_so_is_what_is_there_in_vain() -> None:
    rules = Rules([Rule("var/*", "it lives"), Rule("srv/*", "it lived")])
    found = reproduce.differences(ONE, TWO, rules)
    assert found == reproduce.Outcome(
        unlisted=(File("etc/a", "changed", "mode 0644 → 0600"),),
        allowed=1,
        unused=(Rule("srv/*", "it lived"),),
    )
    assert found.lines == ["changed /etc/a mode 0644 → 0600"]


def test_equal_trees_are_equal() -> None:
    assert reproduce.differences(ONE, ONE, Rules([])).lines == []


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allow, "load", lambda name: Rules([Rule("var/*", name)]))


def builds(*trees: list[Entry], packages: tuple[str, str] = ("1", "1")) -> Callable[..., Path]:
    """A build that publishes ``trees``, one after the other."""
    left = list(zip(trees, packages, ("0.1.0-a",) * len(trees), strict=True))

    def make(settings: Settings, name: str, *, overrides: tuple[str, ...]) -> Path:
        entries, version, folder_name = left.pop(0)
        assert list(settings.cache.iterdir()) == [settings.cache / "downloads"], (
            "a cache of its own"
        )
        assert os.environ["SOURCE_DATE_EPOCH"] == os.environ["E2FSPROGS_FAKE_TIME"]
        folder = settings.dist / name / folder_name
        folder.mkdir(parents=True)
        manifest = {"image": name, "version": folder_name, "revision": "r"}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        (folder / "packages.txt").write_text(f"bash {version} amd64\n")
        (folder / f"{name}.qcow2").touch()
        tree.write(folder / "files.tsv.zst", entries)
        return folder

    return make


def test_two_builds_that_differ_as_allowed(
    checkout: Settings, rules: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce.build_twice(checkout, NAME, make=builds(ONE, [ONE[0], TWO[1]])) == 0
    assert "1 packages, 2 paths; 1 differ as allowed, 0 otherwise" in capsys.readouterr().out
    assert "E2FSPROGS_FAKE_TIME" not in os.environ
    # Once more: what is left of the first time is in nobody's way.
    assert reproduce.build_twice(checkout, NAME, make=builds(ONE, [ONE[0], TWO[1]])) == 0


def test_two_builds_that_differ_otherwise(
    checkout: Settings, rules: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce.build_twice(checkout, NAME, make=builds(ONE, TWO)) == 1
    assert "serai: changed /etc/a mode 0644 → 0600" in capsys.readouterr().err
    assert reproduce.build_twice(checkout, NAME, make=builds(ONE, ONE)) == 0
    assert "warning: var/* was the same in both" in capsys.readouterr().err
    make = builds(ONE, [ONE[0], TWO[1]], packages=("1", "2"))
    assert reproduce.build_twice(checkout, NAME, make=make) == 1
    assert "serai: package bash: 1 and 2" in capsys.readouterr().err


def test_inputs_that_change_meanwhile_are_one_clear_error(checkout: Settings) -> None:
    folders = iter(["0.1.0-a", "0.1.0-b"])

    def make(settings: Settings, name: str, *, overrides: tuple[str, ...]) -> Path:
        return settings.dist / next(folders)

    with pytest.raises(BuildError, match="changed between the builds"):
        reproduce.build_twice(checkout, NAME, make=make)


def test_a_date_that_is_set_is_kept_and_is_an_input(
    monkeypatch: pytest.MonkeyPatch, checkout: Settings
) -> None:
    image = definition.load(Settings.of({}), NAME)
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    undated = plan.make(Settings.of({}), image).stages[0].key
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    with reproduce.source_date(checkout.root):
        assert os.environ["E2FSPROGS_FAKE_TIME"] == "1700000000"
    assert os.environ["SOURCE_DATE_EPOCH"] == "1700000000"
    assert plan.make(Settings.of({}), image).stages[0].key != undated


def test_our_own_list_can_be_read() -> None:
    assert list(allow.load(reproduce.ALLOWED))
