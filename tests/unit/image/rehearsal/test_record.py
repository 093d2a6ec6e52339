"""Which task ran where: the record of made-up roles, and the kept one of the real ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from serai.image.rehearsal import page, record
from serai.image.rehearsal.record import Rehearsed
from serai.image.settings import Settings
from tests.conftest import ROOT

TASKS = [
    {"name": "Read the variables", "ansible.builtin.include_vars": "Ubuntu.yml"},
    {"name": "Purge snaps", "ansible.builtin.command": "true"},
    {"block": [{"name": "Within", "ansible.builtin.command": "true"}]},
]
READ, PURGE = "a/tasks/main.yml: Read the variables", "a/tasks/main.yml: Purge snaps"
WITHIN, HANDLER = "a/tasks/main.yml: Within", "a/handlers/main.yml: Restart"
VARS = "a/vars/Ubuntu.yml"
ALL = [READ, PURGE, WITHIN, HANDLER, VARS]


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout with one role, a record in which all of it ran, and nothing that is allowed."""
    write(tmp_path / "roles/a/tasks/main.yml", TASKS)
    write(tmp_path / "roles/a/handlers/main.yml", [{"name": "Restart"}])
    write(tmp_path / "roles/a/vars/main.yml", {"a_one": 1})
    write(tmp_path / "roles/a/vars/Ubuntu.yml", {"a_two": 2})
    record.write(tmp_path, Rehearsed(record.contents(tmp_path), {"run": dict.fromkeys(ALL, "ok")}))
    write(tmp_path / record.ALLOWED, {})
    return tmp_path


def test_every_task_handler_and_file_of_variables_is_known(root: Path) -> None:
    assert record.known(root) == ALL


def test_all_ran(root: Path) -> None:
    assert record.complaints(root) == []


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("how", ["skipped", "-", None])
def test_what_ran_nowhere_is_told(root: Path, name: str, how: str | None) -> None:
    kept = record.load(root)
    if how:
        kept.runs["run"][name] = how
    else:
        del kept.runs["run"][name]
    record.write(root, kept)
    assert record.complaints(root) == [f"{name} ran nowhere"]
    write(root / record.ALLOWED, {name: "for another release"})
    assert record.complaints(root) == []


def test_a_reason_that_nothing_needs_is_told(root: Path) -> None:
    write(root / record.ALLOWED, {PURGE: "once", "a/tasks/gone.yml: Gone": "once"})
    assert record.complaints(root) == [
        f"{record.ALLOWED}: there is no a/tasks/gone.yml: Gone",
        f"{record.ALLOWED}: {PURGE} ran, remove it here",
    ]


@pytest.mark.parametrize("file", ["tasks/main.yml", "handlers/main.yml", "vars/Ubuntu.yml"])
def test_a_role_that_changed_wants_another_rehearsal(root: Path, file: str) -> None:
    path = root / "roles/a" / file
    path.write_text(f"# A comment changes nothing.\n{path.read_text()}")
    assert record.complaints(root) == []
    path.write_text(path.read_text().replace("a_two", "a_three").replace("name", "when"))
    assert record.complaints(root) == [
        "roles changed since the rehearsal (a): run 'invoke rehearse'"
    ]


def test_a_role_that_is_new_wants_another_rehearsal(root: Path) -> None:
    write(root / "roles/b/tasks/main.yml", [{"name": "New"}])
    assert record.complaints(root) == [
        "roles changed since the rehearsal (b): run 'invoke rehearse'"
    ]


def test_events_become_outcomes(root: Path) -> None:
    """Of a task that ran several times the best outcome counts; failures and others' do not."""
    place = f"{root}/roles/a/tasks/main.yml:4"

    def task(name: str, place: str = place) -> dict[str, object]:
        return {"event": "task", "name": name, "place": place}

    def result(status: str, *read: str) -> dict[str, object]:
        return {"event": "result", "status": status, "read": read}

    events = [
        *(task("Purge snaps"), result("skipped"), task("Purge snaps"), result("changed")),
        *(task("Purge snaps"), result("ok"), task("Within"), result("failed")),
        *(task("Read the variables"), result("ok", f"{root}/roles/{VARS}", "/elsewhere/x.yml")),
        *(task("Look at the machine", f"{root}/playbooks/provision.yml:9"), result("ok")),
        {"event": "end"},
    ]
    lines = [json.dumps(event) for event in events]
    assert record.outcomes(root, lines) == {PURGE: "changed", READ: "ok", VARS: "ok"}


def test_a_run_alone_keeps_the_others_unless_the_roles_changed(root: Path) -> None:
    old = record.load(root)
    new = record.renewed(root, old.contents, {"new": {PURGE: "ok"}})
    assert new.runs == {**old.runs, "new": {PURGE: "ok"}}
    assert record.renewed(root, {}, {"new": {}}).runs == {"new": {}}
    (root / record.FILE).unlink()
    assert record.renewed(root, {}, {"new": {}}).runs == {"new": {}}


def test_no_two_tasks_of_a_file_have_one_name() -> None:
    names = record.known(ROOT)
    assert sorted(names) == sorted(set(names))


def test_the_page_is_what_the_record_says() -> None:
    assert (ROOT / page.PAGE).read_text() == page.text(Settings.of({})), "run 'invoke docs'"


def test_every_file_of_ubuntu_was_read_in_a_rehearsal() -> None:
    """And none of them on Debian."""
    ubuntu = [name for name in record.known(ROOT) if name.endswith("/vars/Ubuntu.yml")]
    assert ubuntu
    for run, outcomes in record.load(ROOT).runs.items():
        read = [name for name in ubuntu if outcomes.get(name) in record.RAN]
        assert bool(read) == run.startswith("ubuntu"), run
