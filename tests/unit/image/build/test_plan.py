"""Stages and their keys: what changes them, what is told about it, and what never changes."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from serai.image import cache
from serai.image.build import build, plan, playbook
from serai.image.definition import definition
from serai.image.errors import BuildError
from serai.image.settings import Settings
from tests.support import projects
from tests.support.projects import IMAGE, PLAYBOOK


@pytest.fixture
def project(checkout: Settings) -> Settings:
    return projects.fill(checkout)


def made(project: Settings, *overrides: str) -> plan.Plan:
    return plan.make(project, definition.load(project, IMAGE, overrides))


def finish(stage: plan.Stage, image: str = IMAGE) -> None:
    """Put a result for ``stage`` into the cache."""
    stage.folder.mkdir(parents=True)
    record = {"inputs": stage.inputs, "seconds": 1, "tasks": []}
    (stage.folder / plan.RECORD).write_text(json.dumps(record, default=str))
    cache.use(stage.folder, image)


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


def test_images_share_the_stages_that_are_the_same(project: Settings) -> None:
    flavour = f'name = "{IMAGE}-lean"\nsummary = "lean"\nflavour_of = "{IMAGE}"\n'
    (project.root / "images" / f"{IMAGE}-lean.toml").write_text(
        f"{flavour}[disk]\nbus = 'virtio'\n"
    )
    one, two = made(project), plan.make(project, definition.load(project, f"{IMAGE}-lean"))
    assert one.stages[0].folder == two.stages[0].folder
    assert one.stages[1].folder != two.stages[1].folder
    finish(one.stages[0])
    assert plan.make(project, two.image).stages[0].cached


def specify(project: Settings, role: str, **types: str) -> None:
    spec = {"argument_specs": {"main": {"options": {n: {"type": t} for n, t in types.items()}}}}
    path = project.root / "roles" / role / "meta" / "argument_specs.yml"
    path.parent.mkdir()
    path.write_text(json.dumps(spec))


@pytest.mark.parametrize(
    "change",
    ["run.sh: other bytes", "run.sh: mode", "new", "link: elsewhere", "cache~", "deep: empty"],
)
def test_all_of_a_directory_that_a_variable_names_is_an_input(
    project: Settings, tmp_path: Path, change: str
) -> None:
    specify(project, "second", second_skills="path", second_prefix="str")
    skills = tmp_path / "skills"
    (skills / "deep").mkdir(parents=True)
    (skills / "run.sh").write_text("echo\n")
    (skills / "other.sh").write_text("echo\n")
    (skills / "link").symlink_to("run.sh")
    chosen = (f"variables.second_skills={skills}", "variables.second_prefix=/not/here")
    for stage in made(project, *chosen).stages:
        finish(stage)
    assert set(states(made(project, *chosen)).values()) == {"cached"}
    if change == "run.sh: other bytes":
        (skills / "run.sh").write_text("exit\n")
    elif change == "run.sh: mode":
        (skills / "run.sh").chmod(0o755)
    elif change == "link: elsewhere":
        (skills / "link").unlink()
        (skills / "link").symlink_to("other.sh")
    elif change == "deep: empty":
        (skills / "deep").rmdir()
    else:
        (skills / change).touch()
    assert states(made(project, *chosen)) == {
        "base": "cached",
        "one": "cached",
        "two": "changed: variables.second_skills",
    }


def test_where_the_directory_lies_is_no_input(project: Settings, tmp_path: Path) -> None:
    specify(project, "second", second_skills="path")
    for name in ("one", "two"):
        (project.root / name).mkdir()
        (project.root / name / "skill").write_text("the same")
    versions = {made(project, f"variables.second_skills={name}").version for name in ("one", "two")}
    assert len(versions) == 1
    relative = made(project, "variables.second_skills=one").stages[2].chosen
    assert relative == {"second_skills": str(project.root / "one")}
    assert made(project, "variables.second_skills=''").stages[2].chosen == {"second_skills": ""}


def test_what_cannot_go_into_an_image_fails_in_the_plan(project: Settings, tmp_path: Path) -> None:
    specify(project, "second", second_skills="path")
    skills = tmp_path / "skills"
    chosen = f"variables.second_skills={skills}"
    with pytest.raises(BuildError, match=rf"variables.second_skills: there is no {skills}; it is"):
        made(project, chosen)
    skills.mkdir()
    (skills / "out").symlink_to("/etc/passwd")
    with pytest.raises(
        BuildError,
        match=rf"{skills}/out is a link out of {skills}; make it relative",
    ):
        made(project, chosen)
    (skills / "out").unlink()
    os.mkfifo(skills / "pipe")
    with pytest.raises(BuildError, match="pipe is neither a file, a directory nor a link"):
        made(project, chosen)
    (skills / "pipe").unlink()
    (skills / "run").touch()
    for mode in (0o4755, 0o2755, 0o666):
        (skills / "run").chmod(mode)
        with pytest.raises(BuildError, match=rf"run has the mode {mode:04o}, and would have it"):
            made(project, chosen)


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
    shipped = playbook.read(Settings.of({}), definition.Additions())
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
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-C", str(tmp_path)]
    (tmp_path / "file").write_text("one\n")
    for words in (["init", "--quiet"], ["add", "file"], ["commit", "--quiet", "-m", "a"]):
        subprocess.run([*git, *words], check=True)
    clean = build.revision(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", clean)
    (tmp_path / "new.toml").touch()
    assert build.revision(tmp_path) == f"{clean}-dirty"
    (tmp_path / "file").write_text("two\n")
    assert build.revision(tmp_path) == f"{clean}-dirty"


def test_a_tool_may_take_long_to_say_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a host full of builds, mmdebstrap has taken more than ten seconds."""
    patience: list[float] = []

    def slow(
        argv: tuple[str, ...], *, timeout: float, **_rest: object
    ) -> subprocess.CompletedProcess[str]:
        patience.append(timeout)
        return subprocess.CompletedProcess(argv, 0, "sh 1.2.3", "")

    monkeypatch.setattr(plan, "run", slow)
    assert plan._version.__wrapped__(("sh", "--version")) == "1.2.3"
    assert patience[0] >= 60
