"""What commands print with --json is what docs/json.md says, key for key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serai.common.checks import judge
from serai.image import console
from serai.image.build import builds
from serai.image.commands import show
from serai.image.provision.course import Course, Host
from serai.image.release import inspect
from serai.image.release.inspect import Disk
from serai.image.settings import Settings
from serai.image.verify import verdict
from serai.image.verify.checks import CHECKS
from serai.image.vm import boot
from serai.image.vm.ssh import Ssh
from tests.conftest import ROOT
from tests.support import releases
from tests.support.evidence import broken
from tests.support.releases import IMAGE

HERE = Settings.of({}, ROOT)
OPEN = {"verify-image": ("facts",), "plan": ("values[].value",)}
"""Keys whose values are what the definition or the check makes them."""


def documented(command: str) -> set[str]:
    """The keys of the command's table."""
    section = (ROOT / "docs/json.md").read_text().split(f"\n## {command}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \| .* \|$", section, re.MULTILINE)
    return {key for row in rows for key in re.findall(r"`([^`]+)`", row)}


def keys(value: Any, leaves: tuple[str, ...], path: str = "") -> Iterator[str]:
    """The paths to all that is neither an object nor a list of objects."""
    if isinstance(value, dict) and path not in leaves:
        for key, inner in value.items():
            yield from keys(inner, leaves, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and path not in leaves and isinstance((value or [0])[0], dict):
        for each in value:
            yield from keys(each, leaves, f"{path}[]")
    else:
        yield path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return releases.build(tmp_path_factory.mktemp("json"))


def told(command: str, built: Settings, capsys: pytest.CaptureFixture[str]) -> Any:
    finished = builds.find(built, IMAGE)
    if command == "images":
        show.images(built, as_json=True)
    elif command == "plan":
        show.plan(HERE, IMAGE, (), as_json=True)
    elif command == "build-image":
        show.built(finished, as_json=True)
    elif command == "formats":
        show.formats(finished, [finished.disk], as_json=True)
    elif command == "pins":
        show.pins(HERE, as_json=True)
    elif command == "inspect-image":
        shipped: Any = SimpleNamespace(machine_id="a", dbus_machine_id="")
        for name, *_ in inspect._AT_REST:
            setattr(shipped, name, [])
        assert inspect.show(finished, Disk([], shipped, 1, 1), as_json=True) == 1
    elif command == "verify-image":
        evidence = broken()
        report = verdict.report_of(evidence, "1", judge(evidence, {}, CHECKS))
        return json.loads(json.dumps(verdict.content(report)))
    elif command == "boot":
        guest = SimpleNamespace(name=IMAGE)
        vm: Any = SimpleNamespace(
            guest=guest,
            boot_seconds=1.0,
            ssh=Ssh(1, "root", Path("/key")),
            serial_socket=Path("/s"),
            serial_log=Path("/l"),
        )
        return boot.told(vm)
    else:
        course = Course()
        course.hosts["a"] = Host("a")
        return {**course.report(), "check": True, "log": "/log"}
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "command",
    [
        *("images", "plan", "build-image", "verify-image", "boot", "formats", "inspect-image"),
        *("pins", "provision"),
    ],
)
def test_the_page_has_each_key_and_no_other(
    built: Settings, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    with console.aside(asked=True):  # as `command` has it
        value = told(command, built, capsys)
    found = set(keys(value, OPEN.get(command, ())))
    assert found == documented(command)


def test_what_is_for_people_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with console.aside(asked=True):
        console.say("news")
        console.tell_program({"path": "\x1b[2J\u202e"})
    console.say("again")
    out, err = capsys.readouterr()
    assert err == "news\n"
    assert out == '{\n  "path": "\\u001b[2J\\u202e"\n}\nagain\n'
