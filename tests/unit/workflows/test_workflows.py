"""GitHub's workflows: what they run, and that nothing of others changes under them."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from serai.image.commands import LAYERS, pythons
from tests.conftest import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
PINNED = re.compile(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+|\./\.github/workflows/\S+\.yml")
# By its version: the digest could not be looked up when it was written.
UNPINNED = {"docker://rhysd/actionlint:1.7.12"}


def jobs(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows" / name).read_text())["jobs"]
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_by_its_commit(path: Any) -> None:
    used = re.findall(r"^ *(?:- )?uses: (.*)$", path.read_text(), re.MULTILINE)
    assert used
    assert [each for each in used if not PINNED.fullmatch(each)] == [
        each for each in used if each in UNPINNED
    ]


def test_ci_runs_every_test_layer_and_no_test_is_skipped_silently() -> None:
    test = jobs("ci.yml")["test"]
    assert tuple(test["strategy"]["matrix"]["layer"]) == LAYERS
    commands = [step["run"] for step in test["steps"] if "invoke test" in step.get("run", "")]
    assert commands[0] == ".venv/bin/invoke test --layer unit"
    assert all("env CI=true" in command for command in commands if command.startswith("sudo"))
    assert "test" in jobs("ci.yml")["build"]["needs"]


def test_ci_tries_the_python_of_every_release() -> None:
    steps = jobs("ci.yml")["pythons"]["steps"]
    (given,) = [step["with"] for step in steps if "setup-python" in step.get("uses", "")]
    wanted = {each.python for each in pythons.RELEASES.values()}
    assert set(given["python-version"].split()) == wanted
    assert steps[-1]["run"] == ".venv/bin/invoke pythons"
    assert "pythons" in jobs("ci.yml")["build"]["needs"]


@pytest.mark.parametrize("name", ["ci.yml", "release.yml"])
def test_a_new_image_needs_no_change_in_a_workflow(name: str) -> None:
    matrices = [job["strategy"]["matrix"] for job in jobs(name).values() if "strategy" in job]
    assert {"image": "${{ fromJSON(needs.images.outputs.names) }}"} in matrices
    assert jobs(name)["images"] == {"uses": "./.github/workflows/images.yml"}
