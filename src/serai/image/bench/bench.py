"""What `invoke bench` does: measure in a container, compare with the budgets, keep the figures.

With an image it measures in that, booted: what one session at its worst can do to others shows
there alone, where the kernel is the image's own and limits hold.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from serai.image import cache, console
from serai.image.bench import fleet
from serai.image.build.builds import Finished
from serai.image.container import container, others, peers, roots
from serai.image.errors import BuildError
from serai.image.guest import measure_density, measure_full, measure_peers, measure_switch
from serai.image.guest.measure import BURSTS, SOCKETS_TITLE
from serai.image.guest.measure_fairness import ATTACKS
from serai.image.settings import Settings
from serai.image.vm import vm
from serai.image.vm.boot import finish_boot

RESULT = "bench.json"
PROGRAMS = {
    **dict.fromkeys(("memory", "start", "archive", "many", "burst", "pool"), "measure.py"),
    "density": "measure_density.py",
    "folders": "measure_folders.py",
    "gate": "measure_gate.py",
    "ended": "measure_ended.py",
    "fairness": "measure_fairness.py",
    "fleet": "../bench/fleet.py",
    "outside": "measure_outside.py",
    "peers": "measure_peers.py",
    "storm": "measure_storm.py",
    "switch": "measure_switch.py",
}
GROUPS = tuple(PROGRAMS)
ASKED = ("peers",)  # not without --only: npm has to reach a registry for it
IN_IMAGES = {
    "density": "measure_density.py",
    "fairness": "measure_fairness.py",
    "full": "measure_full.py",
    "kernel": "measure_kernel.py",
    "outside": "measure_outside.py",
    "storm": "measure_storm.py",
}
ROOTS = {"ended": peers.equipped, "gate": peers.equipped, "peers": others.equipped}
REFERENCE = {"cpus": 4, "memory": "3891M"}
"""The VM in which ``density`` counts what an image holds."""
SESSIONS_DISK = "1200M"  # of an image: full in a minute, also where it is emulated
DEADLINE = 1800.0
IMAGE_DEADLINE = 7200.0

# At most so many times the baseline; without one, at most so much of the row's own unit. A row that
# is not named here is only shown.
BUDGETS = {
    **{f"create{which}": 3.5 for which in ("", SOCKETS_TITLE)},
    **{f"exec{which}": 1.0 for which in ("", SOCKETS_TITLE)},
    "serai exec": 5.0,
    "create, from the pool": 0.6,
    "archive, 100,000 files": 2.0,
    "reopen, 100,000 files": 2.0,
    **{f"idle memory{which}": 4.0 for which in ("", SOCKETS_TITLE)},
    "create, 1,000 archived": 1.2,
    # 60 a second on two processors, and nobody waits long before the first one has its session.
    "100 creates at once, each": 1000 / 60,
    "100 creates at once, first answer": 3.0,
    **{f"{count} creates at once, failed": 0.0 for count in BURSTS},
    f"{measure_peers.BURST} at once, failed, {measure_peers.NEW}": 0.0,
    # 0.95 of the throughput of the session's own home; bindfs is only told.
    "8 MiB read, idmapped": 1 / 0.95,
    "8 MiB written, idmapped": 1 / 0.95,
    "attach, idmapped": 20.0,
    "200 tunnels at once, p99, gate": 100.0,
    "200 tunnels at once, failed, gate": 0.0,
    # 1.2 ms, where the bridge's socat alone takes 0.48 ms (docs/decisions/0016).
    "200 requests at once, p99, gate": 2.0,
    "200 requests at once, failed, gate": 0.0,
    "small request, p50, gate": 1.2 / 0.48,
    # 0.55 of the throughput of a client without a gate.
    "256 MiB, gate": 1 / 0.55,
    "256 MiB by tunnel, gate": 1 / 0.55,
    "gate, 1,000 idle tunnels": 60.0,
    "exchange on a kept connection, ended": 3.0,
    # 0.25 of the throughput of TLS without a gate.
    "256 MiB by TLS, ended": 4.0,
    "exec by ssh, less there and back": 1.5,
    "forwarded request": 2.0,
    "exec, by a fleet": 5.0,
    f"member, {fleet.LINKS} links": 128.0,
    "256 MiB of output": 1 / 0.3,
    "sessiond, 1,000 idle jobs": 4.0,
    **dict.fromkeys(
        ("jobs made twice or not at all", "logs that are not whole", "statuses that are wrong"), 0.0
    ),
    # 100 ms, where a `serai` that asks nothing takes 36.
    f"serai list, {measure_density.NUMBER} live": 100 / 36,
    f"exec, {measure_density.NUMBER} live": 1.2,
    measure_density.MISSING: 0.0,
    **dict.fromkeys(("switch, p50", "switch, p99", "switch, computing, p50"), 10.0),
    **dict.fromkeys(measure_switch.COUNTED, 0.0),
    # Beside a hostile session at most three times as long as without it, and nothing fails.
    **{f"{what} beside {attack}, p50": 3.0 for attack in ATTACKS for what in ("exec", "request")},
    **{
        f"{what} beside {attack}, failed": 0.0 for attack in ATTACKS for what in ("exec", "request")
    },
    **{f"stop after {attack}": 10_000.0 for attack in ATTACKS},
    **dict.fromkeys(
        (
            *(
                f"{what}{title}"
                for what in measure_full.COUNTED
                for title in ("", measure_full.TITLE)
            ),
            *("creates failed", f"not named in the log{measure_full.TITLE}"),
        ),
        0.0,
    ),
}


@dataclass(frozen=True)
class Row:
    """One measurement; ``ok`` is None where there is no budget."""

    name: str
    value: float
    unit: str
    baseline: float | None
    ratio: float | None
    budget: float | None
    ok: bool | None


def bench(
    settings: Settings, *, only: str | None, check: bool, image: Finished | None = None
) -> int:
    """Measure, write bench.json in the checkout, print the table; 1 if a budget is exceeded.

    In a container, or in a finished ``image``. Raises BuildError for an unknown group, or if
    nothing could be measured.
    """
    programs = IN_IMAGES if image else PROGRAMS
    if only is not None and only not in programs:
        where = " with an image" if image else ""
        hint = f"there are {', '.join(programs)}{where}"
        raise BuildError(f"there is no group {only!r}", hint=hint)
    if image is None and os.geteuid() != 0:
        raise BuildError("a container needs root", hint="run it with sudo")
    measured: list[dict[str, Any]] = []
    for group in [only] if only else [each for each in programs if each not in ASKED]:
        program = Path(__file__).parents[1] / "guest" / programs[group]
        with (
            console.step(f"bench: {group}"),
            tempfile.TemporaryDirectory(prefix="serai-bench-") as work,
            _booted(settings, image, group, Path(work)) as run,
        ):
            measured += json.loads(run(program))
    rows = [judged(each) for each in measured]
    cache.write(settings.root / RESULT, json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    show(rows)
    return 1 if check and any(row.ok is False for row in rows) else 0


@contextmanager
def _booted(
    settings: Settings, image: Finished | None, group: str, work: Path
) -> Iterator[Callable[[Path], str]]:
    """What runs a group's program in a throwaway container or VM, and returns its stdout."""
    if image is not None:
        more: dict[str, Any] = {"settings": settings, "work": work, "sessions_size": SESSIONS_DISK}
        more |= REFERENCE if group == "density" else {}
        with vm.booted(image.image, image.disk, **more) as guest:
            finish_boot(guest)

            def in_vm(program: Path) -> str:
                guest.ssh.copy(program, "/root")
                argv = f"/usr/bin/python3 /root/{program.name} {group}"
                return guest.ssh.run(argv, timeout=IMAGE_DEADLINE).stdout

            yield in_vm
        return
    root = ROOTS.get(group, roots.provisioned)(settings)
    with container.booted(root, work) as inside:

        def in_container(program: Path) -> str:
            if group == "fleet":  # a client's, from outside
                return json.dumps(fleet.measured(Path(f"/proc/{inside.pid}/root"), work))
            inside.copy([program])
            argv = ["/usr/bin/python3", f"/root/{program.name}", group]
            return inside.run(*argv, timeout=DEADLINE).stdout

        yield in_container


def judged(measured: dict[str, Any]) -> Row:
    """A measurement beside its budget."""
    value, baseline = float(measured["value"]), measured["baseline"]
    ratio = None if baseline is None else value / baseline
    budget = BUDGETS.get(measured["name"])
    return Row(
        name=measured["name"],
        value=round(value, 3),
        unit=measured["unit"],
        baseline=None if baseline is None else round(baseline, 3),
        ratio=None if ratio is None else round(ratio, 3),
        budget=budget,
        ok=None if budget is None else (value if ratio is None else ratio) <= budget,
    )


def show(rows: list[Row]) -> None:
    """Print the rows as a table."""
    table = Table(box=None, pad_edge=False)
    for title in ("", "what", "value", "unit", "baseline", "ratio", "budget"):
        table.add_column(title, justify="left" if title in ("", "what", "unit") else "right")
    marks = {True: Text("✓", "green"), False: Text("✗", "bold red"), None: Text("")}
    for row in rows:
        numbers = [_shown(each) for each in (row.baseline, row.ratio, row.budget)]
        name, unit = (Text(console.clean(text)) for text in (row.name, row.unit))
        table.add_row(marks[row.ok], name, _shown(row.value), unit, *numbers)
    console.out.print(table, soft_wrap=False)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
