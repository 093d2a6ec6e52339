from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from serai.common import tables
from serai.common.errors import SeraiError
from serai.runtime.settings import Limits, SessionSettings, load


def test_without_a_file_the_settings_are_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path / "none.toml") == SessionSettings()


def test_a_file_overrides_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "session.toml"
    path.write_text(
        'hostname = "room"\nvisible = ["/usr"]\n[limits]\nnofile = 1024\n'
        '[resources]\nmemory_max = "4G"\n[environment]\nTZ = "UTC"\n'
    )
    settings = load(path)
    assert settings.limits == dataclasses.replace(Limits(), nofile=1024)
    assert (settings.hostname, settings.visible) == ("room", ("/usr",))
    assert settings.resources.memory_max == "4G"
    assert settings.resources.tasks_max == SessionSettings().resources.tasks_max
    assert settings.environment == {"TZ": "UTC"}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("colour = 1", "colour"),
        ("[limits]\nnofiles = 1", "limits.nofiles"),
        ("[limits]\nnofile = '1'", "limits.nofile"),
        ("[limits]\nnofile = true", "limits.nofile"),
        ("[limits]\nnofile = -1", "limits.nofile"),
        ("limits = 3", "limits"),
        ("[resources]\nmemory_max = 'a lot'", "memory_max"),
        ("[resources]\nmemory_max = 5", "memory_max"),
        ("[resources]\ncpu_weight = 20000", "cpu_weight"),
        ("hostname = 'Not A Name'", "hostname"),
        ("hostname = '-x'", "hostname"),
        ("visible = '/usr'", "visible"),
        ("visible = ['usr']", "visible"),
        ("visible = ['/usr/../sessions']", "visible"),
        ("visible = ['/']", "visible"),
        ("visible = ['/sessions']", "visible"),
        ("visible = ['/run/docker.sock']", "visible"),
        ("[environment]\n'A=B' = 'x'", "A=B"),
        ("[environment]\nA = 1", "environment.A"),
        ("hostname = ", "session.toml"),
    ],
)
def test_what_the_settings_must_not_say_is_an_error_that_names_it(
    tmp_path: Path, text: str, named: str
) -> None:
    path = tmp_path / "session.toml"
    path.write_text(text)
    with pytest.raises(SeraiError, match=re.escape(named)):
        load(path)


def test_every_default_value_is_one_that_a_file_may_say() -> None:
    plain = dataclasses.asdict(SessionSettings())
    lists = {key: list(plain[key]) for key in ("visible", "attachable")}
    assert tables.read(SessionSettings, {**plain, **lists}) == SessionSettings()
