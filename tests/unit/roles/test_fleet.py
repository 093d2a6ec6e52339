"""What the role fleet writes is what the member reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from serai.common import tables
from serai.fleet.settings import MemberSettings
from serai.image.definition import pins
from serai.image.settings import Settings
from serai.install import fleet
from tests.conftest import ROOT

ROLE = ROOT / "roles/fleet"


@pytest.mark.parametrize(
    "chosen",
    [
        {"fleet_servers": ["nats-1.example:4222"]},
        {
            "fleet_servers": ["192.0.2.1:4222", "[2001:db8::1]:4222"],
            "fleet_name": "vm-1",
            "fleet_zone": 'a "zone"',
            "fleet_sessions": 40,
        },
    ],
)
def test_the_members_settings_are_as_the_role_writes_them(
    tmp_path: Path, chosen: dict[str, Any]
) -> None:
    values = {**yaml.safe_load((ROLE / "defaults/main.yml").read_text()), **chosen}
    environment = jinja2.Environment(trim_blocks=True, keep_trailing_newline=True)  # noqa: S701
    environment.filters["to_json"] = json.dumps
    template = environment.from_string((ROLE / "templates/fleet.toml.j2").read_text())
    file = tmp_path / "fleet.toml"
    file.write_text(template.render(values))
    found = tables.load(MemberSettings, file, "the settings")
    assert found.servers == values["fleet_servers"]
    assert found.name == values["fleet_name"]
    assert found.labels.zone == values["fleet_zone"]
    assert found.room.sessions == values["fleet_sessions"]


def test_the_wheel_is_the_one_of_the_lock_file() -> None:
    """What tests have tried is what VMs get."""
    pin = pins.read(Settings.of({}))["nats_py"]
    lock = (ROOT / "requirements.lock").read_text()
    assert f"nats-py=={pin.version} \\\n    --hash=sha256:{pin.sha256['any']}\n" in lock


def test_the_unit_has_no_more_than_it_needs() -> None:
    """A way out and one socket: what its process may do is what a thief of it may."""
    lines = (ROOT / "src" / fleet.SOURCE).read_text().splitlines()
    for wanted in (
        "CapabilityBoundingSet=",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
        "SocketBindDeny=any",
        "User=serai-fleet",
        "Restart=always",
    ):
        assert wanted in lines
    assert any(line.startswith("MemoryMax=") for line in lines)
