"""What a build would do: its stages, each with a key over all that goes into it.

Two builds with equal keys would make the same disk, so a stage whose key is in the cache is not
built again, whichever image it was made for. Making a plan reads files and asks tools for their
versions; it changes nothing.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

from serai import __version__
from serai.image import cache, digest
from serai.image.build import age, base_bootstrap, base_cloudimage, layer, playbook
from serai.image.build.age import Limit
from serai.image.definition import brought, variables
from serai.image.definition.arch import ARCHITECTURES
from serai.image.definition.definition import Image
from serai.image.run import run
from serai.image.settings import Settings

BASE = "base"
DISK = "disk.qcow2"
RECORD = "stage.json"
LOG = "build.log"

_VERSION = re.compile(r"\d+(\.\d+)+\S*")
_PATIENCE = 120  # seconds for a tool to say its version, which a host full of builds stretches


@dataclass(frozen=True)
class Stage:
    """One step of a build. ``why`` says why it would be built; it is '' for a cached stage.

    ``chosen`` are the image's values for the variables of the layer's roles. A result in the cache
    counts within ``limit``. ``base_made`` is when the base of a cached stage was made.
    """

    name: str
    key: str
    inputs: dict[str, object]
    folder: Path
    why: str
    chosen: dict[str, Any]
    limit: Limit
    base_made: datetime | None = None

    @property
    def cached(self) -> bool:
        """Whether the cache holds this stage's result."""
        return not self.why

    @property
    def disk(self) -> Path:
        """The disk that this stage makes."""
        return self.folder / DISK

    def record(self) -> dict[str, Any]:
        """What was noted when the stage was built: inputs, seconds, tasks."""
        return _record(self.folder)

    def is_there(self, previous: Path | None) -> bool:
        """Whether the cache holds a result now that can be used on top of the disk ``previous``."""
        below = previous.with_name(RECORD) if previous else None
        own = self.folder / RECORD
        return own.is_file() and not self.limit.fault(own, below)


@dataclass(frozen=True)
class Plan:
    """A whole build: the stages in order, and the version and folder that they lead to."""

    image: Image
    stages: tuple[Stage, ...]
    version: str
    folder: Path

    @property
    def limit(self) -> Limit:
        """How old its base may be."""
        return self.stages[0].limit


def make(settings: Settings, image: Image, *, fresh: bool = False) -> Plan:
    """The plan for ``image``; with ``fresh``, no stage counts that is in the cache by now.

    Raises BuildError where the playbook or a setting is not as it must be.
    """
    limit = age.limit(settings, fresh=fresh)
    tools = tool_versions(image)
    inputs = _base_inputs(image, settings, tools)
    stages = [_stage(settings, image, BASE, inputs, limit=limit)]
    for each in playbook.read(settings, image.roles):
        chosen = variables.of_roles(settings, image.variables, each.roles)
        brought.check(chosen)
        sealed = playbook.SEALING_ROLE in each.roles
        inputs = {
            "previous stage": stages[-1].key,
            "image": {
                "distribution": image.distribution,
                "disk.bus": image.disk.bus,
                **({"name": image.name} if sealed else {}),
            },
            **{
                f"variables.{name}": value
                for name, value in variables.contents(settings, chosen).items()
            },
            **each.digests,
            **layer.inputs(settings),
            "ansible.cfg": digest.of_file(settings.root / "ansible.cfg"),
            **{name: tools[name] for name in ("packer", "ansible-core", "mitogen")},
        }
        stage = _stage(
            settings, image, each.name, inputs, chosen=chosen, limit=limit, previous=stages[-1]
        )
        if sealed:  # the version is made of the key, so it cannot be part of that
            said = {"seal_image_id": image.name, "seal_image_version": _version_of(stage)}
            stage = replace(stage, chosen={**chosen, **said})
        stages.append(stage)
    version = _version_of(stages[-1])
    return Plan(image, tuple(stages), version, settings.dist / image.name / version)


def _version_of(stage: Stage) -> str:
    return f"{__version__}-{stage.key[:8]}"


def tool_versions(image: Image) -> dict[str, str]:
    """The version of every tool that a build of ``image`` uses; 'not installed' where it is not."""
    emulator = ARCHITECTURES[image.arch].emulator
    asked = {
        "mmdebstrap": ("mmdebstrap", "--version"),
        "mke2fs": ("mke2fs", "-V"),
        "packer": ("packer", "version"),
        "qemu-img": ("qemu-img", "--version"),
        emulator: (emulator, "--version"),
    }
    found = {name: _version(argv) for name, argv in asked.items()}
    packages = {name: package_version(name) for name in ("ansible-core", "mitogen")}
    return {**found, **packages, "serai": __version__}


@functools.cache
def _version(argv: tuple[str, ...]) -> str:
    if shutil.which(argv[0]) is None:
        return "not installed"
    done = run(argv, check=False, timeout=_PATIENCE, env={"CHECKPOINT_DISABLE": "1"})
    match = _VERSION.search(done.stdout + done.stderr)
    return match.group() if match else "unknown"


def _base_inputs(image: Image, settings: Settings, tools: dict[str, str]) -> dict[str, object]:
    if image.base.kind == "bootstrap":
        used = ("mmdebstrap", "mke2fs", "qemu-img")
        # The tools heed it: with another one, another disk.
        dates = {name: os.environ[name] for name in ("SOURCE_DATE_EPOCH",) if name in os.environ}
        return {
            **base_bootstrap.inputs(image, settings),
            **{name: tools[name] for name in used},
            **dates,
        }
    return {**base_cloudimage.inputs(image), "qemu-img": tools["qemu-img"]}


def _stage(
    settings: Settings,
    image: Image,
    name: str,
    inputs: dict[str, object],
    *,
    limit: Limit,
    chosen: dict[str, Any] | None = None,
    previous: Stage | None = None,
) -> Stage:
    key = digest.of_value(inputs)
    home = settings.cache / "stages" / name
    folder = home / key[:16]
    record = folder / RECORD
    if not record.is_file():
        why = _why(home, image.name, inputs)
    elif previous and not previous.cached:
        why = f"{previous.name} is built again"
    else:
        why = limit.fault(record, previous.folder / RECORD if previous else None)
    made = None if why else age.base_made(record)
    return Stage(name, key, inputs, folder, why, chosen or {}, limit, made)


def _record(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / RECORD).read_text())
    return loaded


def _why(home: Path, image: str, inputs: dict[str, object]) -> str:
    """What differs from the newest result that the image has used."""
    records = [use.parents[1] / RECORD for use in cache.uses(home, image)]
    if not records:
        return "never built here"
    old = _record(records[-1].parent)["inputs"]
    new = json.loads(json.dumps(inputs, default=str))
    changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    return "changed: " + ", ".join(changed)
