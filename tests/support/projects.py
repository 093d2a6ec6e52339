"""A checkout in miniature, and builds in it that take no time: files stand for disks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serai.image import offline
from serai.image.build import build, layer
from serai.image.build.packer_build import LayerBuild
from serai.image.settings import Settings
from serai.image.vm import accelerator
from tests.conftest import ROOT

IMAGE = "debian-12-amd64"
PLAYBOOK = """
- {name: One, hosts: all, tags: [one], roles: [first]}
- {name: Two, hosts: all, tags: [two], roles: [{role: second, with_x: 1}, third]}
"""


def fill(checkout: Settings) -> Settings:
    """Give an empty checkout a Debian image and three small roles in two layers."""
    shutil.copy(ROOT / "images" / f"{IMAGE}.toml", checkout.root / "images")
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


class Builder:
    """Makes bases and layers of a few bytes; ``built`` are the stages that it made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.built: list[str] = []
        monkeypatch.setitem(build._BASES, "bootstrap", self._base)
        monkeypatch.setattr(layer, "run_layers", self._layers)
        monkeypatch.setattr(layer, "compress", lambda disk, target, _log: disk.rename(target))
        monkeypatch.setattr(accelerator, "choose", lambda *_: "tcg")
        monkeypatch.setattr(offline, "opened", self._opened)
        monkeypatch.setattr(build, "_HEADROOM_GIB", 0)

    def _base(self, _image: object, _settings: Settings, target: Path, **_: Any) -> None:
        self.built.append("base")
        target.write_text(f"base {len(self.built)}\n")

    def _layers(self, *_: object, disk: Path, layers: Sequence[LayerBuild], **given: Any) -> None:
        text, work = disk.read_text(), disk.with_name("work")
        for each in layers:
            self.built.append(each.name)
            text += f"{each.name} {len(self.built)}\n"
            work.write_text(text)
            given["made"](each, work, [])

    @contextmanager
    def _opened(self, *_: object) -> Iterator[Any]:
        yield SimpleNamespace(read=lambda _path: "")
