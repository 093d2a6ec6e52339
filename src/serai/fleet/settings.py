"""Settings of a VM that is a fleet's, from /etc/serai/fleet.toml, and where its files are."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from serai.common import tables
from serai.common.errors import SeraiError
from serai.common.tables import setting
from serai.fleet.subjects import is_vm

_SERVER = re.compile(r"[A-Za-z0-9.-]+:[0-9]{1,5}|\[[0-9a-f:]+\]:[0-9]{1,5}")


def _name(text: str) -> str:
    if text and not is_vm(text):
        raise ValueError(f"{text!a} is no VM's name: it is of a-z, 0-9 and hyphens")
    return text


def _server(text: str) -> str:
    if not _SERVER.fullmatch(text):
        raise ValueError(f"{text!a} is not HOST:PORT")
    return text


@dataclass(frozen=True)
class Labels:
    """What sessions may ask for when they are placed. The architecture and the image come by
    themselves."""

    zone: str = setting("", "where the VM is, any word of yours; empty: nowhere special")


@dataclass(frozen=True)
class RoomSettings:
    """How much the VM takes of what the fleet places."""

    sessions: int = setting(
        0, "sessions at most; 0: as memory, tasks and disk have room", minimum=0
    )


@dataclass(frozen=True)
class MemberSettings:
    """The file's top."""

    servers: list[str] = setting(list, "the fleet's NATS servers, as HOST:PORT", parse=_server)
    name: str = setting("", "what the VM is called in the fleet; empty: its host name", parse=_name)
    labels: Labels = field(default_factory=Labels)
    room: RoomSettings = field(default_factory=RoomSettings)


@dataclass(frozen=True)
class MemberPaths:
    """Every place that the member uses but the control socket; ``root`` is '/' but in tests."""

    root: Path = Path("/")

    @property
    def settings(self) -> Path:
        return self.root / "etc/serai/fleet.toml"

    @property
    def credentials(self) -> Path:
        return self.root / "etc/serai/fleet"

    @property
    def state(self) -> Path:
        return self.root / "var/lib/serai-fleet"

    @property
    def draining(self) -> Path:
        """It is there while the VM takes no new sessions."""
        return self.state / "draining"

    @property
    def rows(self) -> Path:
        """The names of the sessions that were told."""
        return self.state / "rows.json"


def load(paths: MemberPaths) -> MemberSettings:
    """The settings, with a name. Raises SeraiError."""
    found = tables.load(MemberSettings, paths.settings, "the fleet's settings")
    name = found.name or platform.node().partition(".")[0].lower()
    try:
        if not found.servers:
            raise ValueError("servers must name at least one server")
        name = _name(name)
    except ValueError as error:
        raise SeraiError(f"{paths.settings}: {error}") from None
    return MemberSettings(found.servers, name, found.labels, found.room)


def credentials(environment: Mapping[str, str] = os.environ) -> Path:
    """The directory of a client's certificate."""
    return Path(environment.get("SERAI_FLEET") or Path.home() / ".config/serai/fleet")
