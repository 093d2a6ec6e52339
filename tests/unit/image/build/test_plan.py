"""Stages and their keys: what changes them, what is told about it, and what never changes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from serai.image.build import build, plan, playbook
from serai.image.definition import definition
from serai.image.errors import BuildError
from serai.image.settings import Settings
from tests.conftest import ROOT

PLAYBOOK = """
- {name: One, hosts: all, tags: [one], roles: [first]}
- {name: Two, hosts: all, tags: [two], roles: [{role: second, with_x: 1}, third]}
"""


@pytest.fixture
def project(checkout: Settings) -> Settings:
    """A checkout with a Debian image and three small roles in two layers."""
    shutil.copy(ROOT / "images" / "debian-12-amd64.toml", checkout.images)
    shutil.copytree(ROOT / "packer", checkout.root / "packer")
    (checkout.root / "ansible.cfg").touch()
    (checkout.root / "playbooks" / "image.yml").write_text(PLAYBOOK)
    network = checkout.root / "roles/base/files/80-dhcp.network"
    network.parent.mkdir(parents=True)
    network.touch()
    for role in ("first", "second", "third"):
        tasks = checkout.root / "roles" / role / "tasks" / "main.yml"
        tasks.parent.mkdir(parents=True)
        tasks.write_text(f"# {role}\n")
    return checkout


def made(project: Settings, *overrides: str) -> plan.Plan:
    return plan.make(project, definition.load(project, "debian-12-amd64", overrides))


def finish(stage: plan.Stage) -> None:
    """Put a result for ``stage`` into the cache."""
    stage.folder.mkdir(parents=True)
    record = {"inputs": stage.inputs, "seconds": 1, "tasks": []}
    (stage.folder / plan.RECORD).write_text(json.dumps(record, default=str))


def states(a_plan: plan.Plan) -> dict[str, str]:
    return {stage.name: stage.why or "cached" for stage in a_plan.stages}


def test_nothing_is_cached_at_first(project: Settings) -> None:
    assert states(made(project)) == dict.fromkeys(("base", "one", "two"), "never built here")


def test_the_same_inputs_are_cached_and_a_plan_changes_nothing(project: Settings) -> None:
    for stage in made(project).stages:
        finish(stage)
    before = sorted(str(path) for path in project.cache.rglob("*"))
    assert set(states(made(project)).values()) == {"cached"}
    assert sorted(str(path) for path in project.cache.rglob("*")) == before
    assert not project.dist.exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            "roles/third/tasks/main.yml",
            {"base": "cached", "one": "cached", "two": "changed: roles/third"},
        ),
        (
            "roles/first/tasks/main.yml",
            {
                "base": "cached",
                "one": "changed: roles/first",
                "two": "changed: previous stage",
            },
        ),
        (
            "packer/image.pkr.hcl",
            {
                "base": "cached",
                "one": "changed: packer template",
                "two": "changed: packer template, previous stage",
            },
        ),
        (
            "ansible.cfg",
            {
                "base": "cached",
                "one": "changed: ansible.cfg",
                "two": "changed: ansible.cfg, previous stage",
            },
        ),
    ],
)
def test_a_change_reaches_its_own_stage_and_those_after_it(
    project: Settings, change: str, expected: dict[str, str]
) -> None:
    for stage in made(project).stages:
        finish(stage)
    with (project.root / change).open("a") as stream:
        stream.write("# changed\n")
    assert states(made(project)) == expected


def test_the_base_changes_with_what_it_is_made_of(project: Settings) -> None:
    for stage in made(project).stages:
        finish(stage)
    assert states(made(project, "base.suite=trixie"))["base"] == "changed: suite"
    assert states(made(project, "disk.size=12G"))["base"] == "changed: size"


def test_the_builders_machine_is_no_input(project: Settings) -> None:
    assert made(project).version == made(project, "machine.cpus=4", "summary=other").version


def test_leftovers_of_editors_are_no_input(project: Settings) -> None:
    before = made(project).version
    (project.root / "roles" / "first" / "tasks" / ".main.yml.swp").touch()
    cache = project.root / "roles" / "first" / "files" / "__pycache__"
    cache.mkdir(parents=True)
    (cache / "x.pyc").touch()
    assert made(project).version == before


def test_the_source_of_the_runtime_is_an_input_of_the_layer_that_installs_it(
    project: Settings,
) -> None:
    playbook = PLAYBOOK.replace("third", "runtime")
    (project.root / "playbooks/image.yml").write_text(playbook)
    (project.root / "roles/third").rename(project.root / "roles/runtime")
    source = project.root / "src/serai"
    for folder in ("runtime", "gate", "common"):
        (source / folder).mkdir(parents=True)
        (source / folder / "__init__.py").touch()
    for path in ("__init__.py", "common/notify.py", "gate/server.py", "runtime/data"):
        (source / path).write_text("one\n")
    pyproject = project.root / "pyproject.toml"
    pyproject.write_text("[project]\nversion = '1'\n[tool.ruff]\nline-length = 1\n")
    for stage in made(project).stages:
        finish(stage)
    assert set(states(made(project)).values()) == {"cached"}

    pyproject.write_text("[project]\nversion = '1'\n[tool.ruff]\nline-length = 2\n")
    (source / "image").mkdir()
    (source / "image/__init__.py").write_text("the build host's\n")
    assert set(states(made(project)).values()) == {"cached"}

    pyproject.write_text("[project]\nversion = '2'\n")
    for path in ("__init__.py", "common/notify.py", "gate/server.py", "runtime/data"):
        (source / path).write_text("two\n")
    changed = "pyproject.toml (wheel), src/serai/__init__.py, src/serai/common, "
    changed += "src/serai/gate, src/serai/runtime"
    assert states(made(project)) == {
        "base": "cached",
        "one": "cached",
        "two": f"changed: {changed}",
    }


def test_two_versions_never_share_a_folder(project: Settings) -> None:
    first = made(project)
    (project.root / "roles" / "third" / "tasks" / "main.yml").write_text("other\n")
    assert first.folder != made(project).folder


@pytest.mark.parametrize(
    ("playbook", "said"),
    [
        ("- {name: One, hosts: all, roles: []}", "'One' must have exactly one tag"),
        ("- {name: One, hosts: all, tags: [a, b], roles: []}", "exactly one tag"),
        ("- {name: One, hosts: all, tags: [one], roles: [absent]}", "role 'absent', which is not"),
    ],
)
def test_a_wrong_playbook_is_one_line(project: Settings, playbook: str, said: str) -> None:
    (project.root / "playbooks" / "image.yml").write_text(playbook)
    with pytest.raises(BuildError, match=said):
        made(project)


def test_the_shipped_layers_end_with_the_seal() -> None:
    shipped = playbook.read(Settings.of({}))
    assert [layer.name for layer in shipped] == ["system", "serai"]
    assert shipped[-1].roles[-1] == "seal"
    assert all("seal" not in layer.roles for layer in shipped[:-1])


def test_the_base_is_there_once_it_is_in_the_cache(project: Settings) -> None:
    image = definition.load(project, "debian-12-amd64")
    with pytest.raises(BuildError, match=r"debian-12-amd64 is not in the cache; run 'invoke"):
        build.base(project, image)
    stage = made(project).stages[0]
    finish(stage)
    assert build.base(project, image) == stage.disk


def test_a_full_disk_stops_a_build_before_it_begins(
    project: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_HEADROOM_GIB", 10**9)
    with pytest.raises(BuildError, match=r"GiB free, a build needs .*SERAI_CACHE or SERAI_DIST"):
        build.build(project, "debian-12-amd64")


def test_the_checkout_says_its_revision(tmp_path: Path) -> None:
    assert build.revision(tmp_path) == "unknown"
