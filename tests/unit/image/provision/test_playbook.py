"""The playbook of `invoke provision`, and the handlers that it catches up on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from serai.image.definition import variables
from tests.conftest import ROOT

PLAYS = yaml.safe_load((ROOT / "playbooks/provision.yml").read_text())
ROLES = [role["role"] for role in PLAYS[0]["roles"]]


def test_provision_applies_the_roles_of_an_image_but_for_the_seal() -> None:
    image = yaml.safe_load((ROOT / "playbooks/image.yml").read_text())
    roles = [role for play in image for role in play["roles"]]
    assert [role for role in roles if role != "seal"] == ROLES
    assert all(role["tags"] == [role["role"]] for role in PLAYS[0]["roles"])
    others = [*PLAYS[0]["pre_tasks"], *PLAYS[0]["post_tasks"]]
    assert all(task["tags"] == "always" for task in others), "--only leaves none of them out"


def handlers() -> Iterator[tuple[str, dict[str, Any]]]:
    for role in ROLES:
        path = ROOT / "roles" / role / "handlers/main.yml"
        for handler in yaml.safe_load(path.read_text()) if path.exists() else []:
            yield f"{role}: {handler['name']}", handler


def topics(handler: dict[str, Any]) -> list[str]:
    listen = handler.get("listen", [])
    return [listen] if isinstance(listen, str) else listen


def test_every_handler_is_caught_up_on_after_a_run_that_was_cut_off() -> None:
    catching_up = next(task for task in PLAYS[0]["post_tasks"] if "notify" in task)
    assert catching_up["notify"] == "Catch up"
    found = dict(handlers())
    assert len(found) > 5
    for name, handler in found.items():
        assert "Catch up" in topics(handler), name


def test_what_is_notified_is_there() -> None:
    known = {topic for _, handler in handlers() for topic in [handler["name"], *topics(handler)]}
    for path in (ROOT / "roles").glob("*/tasks/*.yml"):
        for task in yaml.safe_load(path.read_text()):
            notified = task.get("notify", [])
            for name in [notified] if isinstance(notified, str) else notified:
                assert name in known or name.startswith("{{"), f"{path}: {name}"


def test_the_playbooks_say_once_whether_the_machine_runs() -> None:
    image = yaml.safe_load((ROOT / "playbooks/image.yml").read_text())
    assert [play["vars"]["serai_live"] for play in (*image, *PLAYS)] == [False, False, True]
    files = [path for path in (ROOT / "roles").rglob("*.yml") if "files" not in path.parts]
    using = {
        path.relative_to(ROOT / "roles").parts[0]
        for path in files
        if "serai_live" in path.read_text()
    }
    assert using == {"base", "fleet", "gate", "hardening", "runtime", "session_disk", "shares"}
    for name in variables.FORMER_LIVE:
        assert not any(name in path.read_text() for path in files), name


def test_a_change_of_a_limit_ends_no_connected_command() -> None:
    """A restart of sessiond does, so only an upgrade and a cut-off run restart it."""
    tasks = yaml.safe_load((ROOT / "roles/runtime/tasks/main.yml").read_text())
    (settings,) = (task for task in tasks if task["name"] == "Write the settings of sessions")
    assert settings["notify"] == "Reload sessiond"
    handlers = yaml.safe_load((ROOT / "roles/runtime/handlers/main.yml").read_text())
    reload = next(each for each in handlers if each["name"] == "Reload sessiond")
    assert reload["ansible.builtin.systemd_service"]["state"] == "reloaded"
    restart = "Restart Serai after an upgrade"
    told = [task["name"] for task in tasks if task.get("notify") == restart]
    assert told == ["Install Serai from the wheel"]
