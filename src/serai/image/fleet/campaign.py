"""``invoke fleet``: sessions are placed in a fleet while its VMs and servers are killed at random.

None may be made twice, none may be lost, and all must be found again when everything is back.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from serai.common.errors import SeraiError
from serai.image import cache, console
from serai.image.container import roots
from serai.image.errors import BuildError
from serai.image.fleet.rig import Rig, rig, wait
from serai.image.settings import Settings
from serai.runtime.library import Vm

VMS = ("one", "two", "three")
CLIENTS = 4
PATIENCE = 300.0
"""Seconds for one session, whose VM may have to come back first."""
LABEL = "request"
CHECKED = 5
"""After so many kills all is looked at."""


@dataclass
class Ledger:
    """What clients were told: by request, the session's name and its VM. ``failed`` are tries."""

    made: dict[str, tuple[str, str]] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class CampaignResult:
    """What there is in the end; of requests, but for ``found``, which counts sessions."""

    twice: list[str]
    lost: list[str]
    elsewhere: list[str]
    found: int
    on: dict[str, int]

    @property
    def is_good(self) -> bool:
        return not (self.twice or self.lost or self.elsewhere)


def place(made: Rig, requests: list[str], placed: Ledger, clients: int = CLIENTS) -> None:
    """Make a session for each request, by so many clients at once. Raises SeraiError."""
    waiting = iter(requests)

    def client(_: int) -> None:
        fleet: Vm | None = None
        for request in waiting:
            end = time.monotonic() + PATIENCE
            while request not in placed.made:
                try:
                    fleet = fleet or made.connect()
                    told = fleet.call("create", labels={LABEL: request}, request_id=request)
                    placed.made[request] = (told["name"], told["vm"])
                except SeraiError as error:
                    placed.failed[error.message.partition(":")[0]] += 1
                    if fleet is not None:
                        fleet.close()
                    fleet = None
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.5)  # as a client would: nothing here says when to try again
        if fleet is not None:
            fleet.close()

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))


def check(made: Rig, requests: list[str], placed: Ledger) -> CampaignResult:
    """Ask each VM itself what it has, and the fleet where everything is. Raises SeraiError."""
    there: dict[str, list[tuple[str, str]]] = {}
    for vm in made.vms:
        with made.connect(vm) as each:
            for session in each.sessions():
                request = session["labels"].get(LABEL, "")
                there.setdefault(request, []).append((session["name"], vm))
    lost = [each for each in requests if placed.made.get(each) not in there.get(each, [])]

    def seen() -> dict[str, str]:
        with made.connect() as fleet:
            listed = fleet.sessions()
        return {each["name"]: each["vm"] for each in listed if each["state"] != "gone"}

    told = dict(placed.made.values())
    wait(lambda: told.items() <= seen().items(), "every session is listed where it is")

    known = [each for each in requests if each in placed.made]
    with made.connect() as fleet:
        shown = [fleet.session(placed.made[each][0]).show() for each in known]
    elsewhere = [
        each for each, found in zip(known, shown, strict=True) if found["labels"].get(LABEL) != each
    ]
    return CampaignResult(
        twice=[each for each, sessions in there.items() if len(sessions) > 1],
        lost=lost,
        elsewhere=elsewhere,
        found=len(known) - len(elsewhere),
        on=dict(Counter(vm for _, vm in placed.made.values())),
    )


def kill(made: Rig, chosen: random.Random, *, noticed: bool) -> dict[str, Any]:
    """Kill a VM or a server and start it again; what it was, and how long until it was there.

    It comes back when all have ``noticed``, or at once.
    """
    since = time.monotonic()
    target = chosen.choice([*made.vms, *made.servers])
    if target in made.vms:
        made.cut(target)
        if noticed:
            wait(lambda: made.shown()[target]["state"] == "gone", f"{target} is gone")
        made.boot(target)
    else:
        made.kill(target)
        if noticed:
            wait(lambda: len(made.shown()) == len(made.vms), "two servers have a leader")
        made.start(target)
    made.ready()
    took = round(time.monotonic() - since, 1)
    return {"killed": target, "noticed": noticed, "seconds": took}


def campaign(settings: Settings, sessions: int, kills: int, seed: str) -> int:
    """Try it, print and write what came of it; the exit status. Raises BuildError."""
    if os.geteuid() != 0:
        raise BuildError("a container needs root", hint="run it with sudo")
    root = roots.provisioned(settings)
    chosen = random.Random(seed)  # noqa: S311 - so that it can be done again
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="serai-fleet-"))
        stack.enter_context(console.step("fleet"))
        made = stack.enter_context(rig(root, Path(folder), VMS))
        report = _tried(made, sessions, kills, chosen)
    report["seed"] = seed
    text = json.dumps(report, indent=2) + "\n"
    settings.dist.mkdir(parents=True, exist_ok=True)
    cache.write(settings.dist / "fleet.json", text)
    console.say(text)
    return 0 if report["good"] else 1


def _are_placed(placing: Future[None], placed: Ledger, due: int) -> bool:
    return placing.done() or len(placed.made) >= due


def _tried(made: Rig, sessions: int, kills: int, chosen: random.Random) -> dict[str, Any]:
    requests = [f"request-{number}" for number in range(sessions)]
    placed, done = Ledger(), []
    since = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        for number in range(kills):
            batch = requests[number::kills]
            due = len(placed.made) + len(batch) // 3
            placing = pool.submit(place, made, batch, placed)
            wait(partial(_are_placed, placing, placed, due), f"{due} sessions", PATIENCE)
            done.append(kill(made, chosen, noticed=number % 5 == 1))
            placing.result()
            console.say(f"{len(placed.made)} sessions; {done[-1]}")
            if (number + 1) % CHECKED == 0:
                found = check(made, list(placed.made), placed)
                console.say(f"{number + 1} kills: {found}")
    took = time.monotonic() - since
    found = check(made, requests, placed)
    return {
        "good": found.is_good and len(placed.made) == sessions,
        "sessions": sessions,
        "seconds": round(took, 1),
        "twice": found.twice,
        "lost": found.lost,
        "elsewhere": found.elsewhere,
        "found": found.found,
        "on": found.on,
        "tries_that_failed": dict(placed.failed),
        "kills": done,
    }
