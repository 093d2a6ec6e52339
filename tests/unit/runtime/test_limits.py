"""A session's limits are written once, in the settings' dataclasses, and none starts without."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jinja2
import pytest
import yaml

from serai.image.verify.checks import tools
from serai.runtime import settings
from serai.runtime.sessions.supervising import supervisor
from tests.conftest import ROOT

UNIT = (ROOT / "src/serai/install/units/serai-session@.service").read_text()
ROLE = ROOT / "roles/runtime"
LIMITS = [
    each.name for kind in (settings.Limits, settings.Resources) for each in dataclasses.fields(kind)
]
USUAL, OTHER = settings.Resources().memory_max, "33%"
MEMORY = f'        "{USUAL}",\n        "memory: '


def written(folder: Path, **chosen: object) -> Path:
    """The session.toml that the role writes."""
    jinja = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined)  # noqa: S701  # no HTML
    jinja.filters["to_json"] = json.dumps
    jinja.filters["bool"] = lambda value: str(value).lower() == "true"
    jinja.filters["difference"] = lambda these, those: [x for x in these if x not in those]
    template = jinja.from_string((ROLE / "templates/session.toml.j2").read_text())
    path = folder / "session.toml"
    path.write_text(
        template.render(
            {
                **yaml.safe_load((ROLE / "defaults/main.yml").read_text()),
                "runtime_own_authorities": False,
                **chosen,
            }
        )
    )
    return path


@pytest.fixture
def changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The settings with one line changed: a session has a third of the VM's memory."""
    source = Path(settings.__file__).read_text()
    assert source.count(MEMORY) == 1
    path = tmp_path / "changed_settings.py"
    path.write_text(source.replace(MEMORY, MEMORY.replace(USUAL, OTHER)))
    spec = importlib.util.spec_from_file_location("changed_settings", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "changed_settings", module)  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


def test_another_default_for_memory_is_one_changed_line(
    changed: ModuleType, tmp_path: Path
) -> None:
    before = supervisor.drop_in(settings.load(written(tmp_path)))
    after = supervisor.drop_in(changed.load(written(tmp_path)))
    assert f"MemoryMax={USUAL}\n" in before
    assert after == before.replace(f"MemoryMax={USUAL}", f"MemoryMax={OTHER}")


def test_nothing_else_that_ships_has_a_default_of_a_limit() -> None:
    names = "|".join([*LIMITS, *(f"runtime_{name}" for name in LIMITS)])
    literal = re.compile(
        rf"""(?<!-)\b({names})\b["']?(: \w+)?\s*[:=]\s*(setting\()?["']?(\d|infinity)"""
    )
    for text in ("memory_max = 50%", "runtime_tasks_max: 1", '"nofile": 1', "nofile: int = 1"):
        assert literal.search(text), "the pattern finds nothing"
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for top in ("src", "roles/runtime", "playbooks", "images")
        for path in (ROOT / top).rglob("*")
        if path.is_file() and path.suffix in {".py", ".yml", ".toml", ".j2", ".service"}
        for line in path.read_text().splitlines()
        if literal.search(line)
    ]
    assert {line.split(":")[0] for line in found} == {"src/serai/runtime/settings.py"}, found
    options: dict[str, Any] = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())
    for name, option in options["argument_specs"]["main"]["options"].items():
        if name.removeprefix("runtime_") in (*LIMITS, "disk_quota", "attachable"):
            assert "default" not in option, name


def test_the_role_writes_what_was_chosen_and_nothing_else(tmp_path: Path) -> None:
    assert settings.load(written(tmp_path)) == settings.SessionSettings()
    chosen = settings.load(
        written(
            tmp_path,
            runtime_memory_max="1G",
            runtime_tasks_max=10,
            runtime_cpu_weight=20,
            runtime_io_weight=30,
            runtime_disk_quota="40%",
            runtime_attachable=["/data"],
            runtime_environment={"A": 1},
        )
    )
    assert chosen == settings.SessionSettings(
        resources=settings.Resources("1G", 10, 20, 30),
        disk=settings.Disk(quota="40%"),
        attachable=("/data",),
        environment={"A": "1"},
    )


def test_a_sessions_unit_has_no_limit_of_its_own_and_does_not_start_without_sessionds() -> None:
    keys = {line.split("=")[0] for line in UNIT.splitlines()}
    limits = {
        line.split("=")[0]
        for line in supervisor.drop_in(settings.SessionSettings()).splitlines()[1:]
    }
    assert len(limits - {"Environment", "MemorySwapMax"}) == len(LIMITS)  # nobody chooses those
    assert not keys & limits
    assert f"AssertPathExists={supervisor.DROP_IN}\n" in UNIT


def test_whoever_logs_in_has_the_limits_of_a_session() -> None:
    defaults = yaml.safe_load((ROOT / "roles/limits/defaults/main.yml").read_text())
    assert {name: defaults[f"limits_{name}"] for name in tools.LIMITS} == tools.LIMITS


def test_where_there_are_more_authorities_payloads_are_told_of_them(tmp_path: Path) -> None:
    own = {"SSL_CERT_FILE": "/etc/ssl/mine.pem"}
    path = written(tmp_path, runtime_own_authorities=True, runtime_environment=own)
    found = settings.load(path).environment
    bundle = "/etc/ssl/certs/ca-certificates.crt"
    names = ("GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE")
    assert found == {**dict.fromkeys(names, bundle), **own}
