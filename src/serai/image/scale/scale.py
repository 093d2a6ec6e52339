"""What `invoke scale` does: measure a fleet's servers, play a large fleet, write docs/scale.md."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from serai.common import files, proc
from serai.image import console
from serai.image.errors import BuildError
from serai.image.fleet.loopback import PROGRAM
from serai.image.run import run
from serai.image.scale import page, simulation
from serai.image.settings import Settings

MEASURED = ("connections", "deaths", "links", "lookups", "offers", "puts", "reloads")
SIMULATION = "simulation"
GROUPS = (*MEASURED, SIMULATION)
COMMAND = ".venv/bin/invoke scale"


def scale(settings: Settings, only: str = "") -> None:
    """Measure the groups, or one, and simulate; what was not asked for stays. Raises BuildError.

    A server's death is always played: it depends on what was measured, and takes a second.
    """
    if only and only not in GROUPS:
        raise BuildError(f"there is no group '{only}'", hint=f"take one of {', '.join(GROUPS)}")
    path = settings.root / page.FILE
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for group in MEASURED:
        if only in ("", group):
            console.say(f"measuring {group}")
            kept["measured"] = {**kept.get("measured", {}), **measured(settings, group)}
            kept |= {"command": COMMAND, "host": host(), "nats-server": version()}
            _keep(path, kept)
    if only in ("", SIMULATION):
        console.say("simulating")
        kept["placement"] = {
            what: page.kept(simulation.placed(of)) for what, of in page.PLACEMENTS.items()
        }
        _keep(path, kept)
    if not kept.get("measured") or not kept.get("placement"):
        raise BuildError(f"{page.FILE} does not have all figures yet", hint=f"run {COMMAND}")
    kept["deaths"] = {
        what: page.kept(simulation.died(of)) for what, of in page.deaths(kept["measured"]).items()
    }
    _keep(path, kept)
    tables = settings.root / page.PAGE
    tables.write_text(page.written(tables.read_text(), kept))


def _keep(path: Path, kept: dict[str, Any]) -> None:
    files.write(path, (json.dumps(kept, indent=1, sort_keys=True) + "\n").encode(), 0o644)


def measured(settings: Settings, group: str) -> dict[str, float]:
    """The figures of a group, which a program with a network of its own prints."""
    if os.geteuid() != 0:
        raise BuildError("this makes a network of its own, and needs root", hint="use sudo")
    program = [sys.executable, "-m", "serai.image.scale.measure", group]
    with_loopback = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh", *program]
    # What the servers keep goes with this, also if the program is killed.
    with tempfile.TemporaryDirectory(prefix="serai-scale.") as work:
        env = {"PYTHONPATH": str(settings.root / "src"), "TMPDIR": work}
        printed = run(["unshare", "--net", *with_loopback], env=env, timeout=900).stdout
    found: dict[str, float] = json.loads(printed)
    return found


def host() -> str:
    """Where this was measured."""
    memory = proc.memory(Path("/proc/meminfo").read_text())["MemTotal"]
    return f"{os.cpu_count()} processors, {platform.machine()}, {memory >> 20} GiB"


def version() -> str:
    """The version of the servers."""
    return run([PROGRAM, "--version"]).stdout.split("v")[-1].strip()
