"""The tables of docs/scale.md, from docs/scale.json: what was measured, computed and simulated."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from serai.image.errors import BuildError
from serai.image.scale import model
from serai.image.scale.simulation import Aftermath, Balance, Death, Placement

PAGE, FILE = "docs/scale.md", "docs/scale.json"
COLUMNS = (3, 100, 1_000, 10_000, 50_000)
TENS = 10
ROWS = (1_000, 10_000, 100_000)

PLACEMENTS = {
    "three offers": Placement(1000, 100),
    "one offer, that is a random VM": Placement(1000, 100, choices=1),
    "two offers": Placement(1000, 100, choices=2),
    "three offers, of 20 sessions a VM": Placement(1000, 20),
    "two offers, of 20 sessions a VM": Placement(1000, 20, choices=2),
    "three offers, of 15 VMs with 20 sessions": Placement(15, 20),
    "three offers, of three VMs": Placement(3, 100),
    "three offers, of 10,000 VMs with 20 sessions": Placement(10_000, 20),
    "three offers, and 10 % of all come within a second": Placement(1000, 100, burst=0.1),
    "the same, with loads that are up to 5 s old": Placement(1000, 100, stale=5, burst=0.1),
    "the same, and a VM does not count its offers": Placement(
        1000, 100, stale=5, burst=0.1, offered=0
    ),
}


def deaths(figures: Mapping[str, float]) -> dict[str, Death]:
    """The deaths of servers that are played."""
    connect = figures["connect, of 1000: CPU of all servers, µs"] / 1e6
    return {
        "1,000 VMs": Death(1_000, connect),
        "10,000 VMs": Death(10_000, connect),
        "50,000 VMs": Death(50_000, connect),
        "50,000, and a heartbeat counts for 15 s": Death(50_000, connect, dead=15),
        "50,000, all at once": Death(50_000, connect, spread=0, wait=(1, 1)),
        "50,000, all at once, given up after 2 s": Death(
            50_000, connect, spread=0, wait=(1, 1), patience=2
        ),
        "50,000, within 30 s": Death(50_000, connect, spread=30),
    }


def written(text: str, kept: Mapping[str, Any]) -> str:
    """The page with all its tables. Raises BuildError."""
    try:
        found = tables(kept)
    except KeyError as error:
        hint = "measure it: 'invoke scale' takes five minutes"
        raise BuildError(f"{FILE} has no figure {error}", hint=hint) from None
    for name, lines in found.items():
        begin, end = f"<!-- table: {name} -->\n", "<!-- end -->"
        pattern = re.compile(re.escape(begin) + ".*?" + end, re.DOTALL)
        if not pattern.search(text):
            raise BuildError(f"{PAGE} has no place for the table '{name}'")
        whole = begin + "\n" + "\n".join(lines) + "\n\n" + end
        text = pattern.sub(whole, text)  # no table has a backslash
    return text


def tables(kept: Mapping[str, Any]) -> dict[str, list[str]]:
    """The lines of each table."""
    figures = kept["measured"]
    return {
        "costs": _costs(figures),
        "rows": _rows(figures),
        "others": _others(figures),
        "loads": _loads(figures),
        "sizes": _sizes(figures),
        "placement": _placement(kept["placement"]),
        "deaths": _deaths(kept["deaths"], list(deaths(figures))),
    }


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    line = "|---" + "|--:" * (len(head) - 1) + "|"
    return [f"| {' | '.join(head)} |", line, *(f"| {' | '.join(row)} |" for row in rows)]


def number(value: float) -> str:
    """Three digits that count, and a comma for thousands."""
    if value == math.inf:
        return "never"
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    rounded = round(value, 2 - math.floor(math.log10(abs(value))))
    return f"{rounded:,.{min(digits, 3)}f}"


def _costs(figures: Mapping[str, float]) -> list[str]:
    kinds = ("CPU of all servers, µs", "CPU of the busiest server, µs", "bytes on all wires")
    whats = (
        *("heartbeat", "row of a session", "claim", "three offers"),
        *("message to a VM, and its answer", "client subscribes", "connect, of 1000"),
        *("MiB through a link", "heartbeat that is not kept"),
    )
    rows = []
    for what in whats:
        alone = figures.get(f"{what}: alone, ms")
        cells = [number(figures[f"{what}: {kind}"]) for kind in kinds]
        rows.append([what, *cells, number(alone) if alone else ""])
    return _table(["", *kinds, "alone, ms"], rows)


def _rows(figures: Mapping[str, float]) -> list[str]:
    whats = {
        **{
            f"lookup by {way}: {kind}": f"lookup by {way}, {{}} rows: {kind}"
            for way in ("claim", "wildcard", "consumer")
            for kind in ("CPU of all servers, µs", "alone, ms")
        },
        **{
            f"list: {kind}": f"list, {{}} rows: {kind}"
            for kind in ("CPU of the client, s", "CPU of all servers, s", "MB on all wires")
        },
    }
    head = ["", *(f"{rows:,} rows" for rows in ROWS)]
    return _table(
        head,
        [
            [what, *(number(figures[key.format(rows)]) for rows in ROWS)]
            for what, key in whats.items()
        ],
    )


def _others(figures: Mapping[str, float]) -> list[str]:
    begins = ("VM connected", "client subscribes: KiB", "row kept", "reload", "death", "return")
    found = [[what, number(value)] for what, value in figures.items() if what.startswith(begins)]
    return _table(["", "measured"], found)


def _loads(figures: Mapping[str, float]) -> list[str]:
    head = ["50,000 VMs", "a second", "processors of all servers", "Mbit/s on all wires"]
    return _table(
        head,
        [
            [each.what, number(each.each_second), number(each.processors), number(each.megabits)]
            for each in model.loads(figures, COLUMNS[-1])
        ],
    )


def _sizes(figures: Mapping[str, float]) -> list[str]:
    found = [dict(model.sizes(figures, vms)) for vms in COLUMNS]
    head = ["VMs", *(f"{vms:,}" for vms in COLUMNS)]
    return _table(head, [[what, *(number(each[what]) for each in found)] for what in found[0]])


def _placement(kept: Mapping[str, Mapping[str, float]]) -> list[str]:
    keys = ("fullest", "emptiest", "deviation")
    rows = [[what, *(_percent(kept[what][key]) for key in keys)] for what in PLACEMENTS]
    return _table(["", "fullest VM", "emptiest VM", "standard deviation"], rows)


def _percent(value: float) -> str:
    percent = 100 * value
    return f"{percent:.1f} %" if 0 < percent < TENS else f"{percent:.0f} %"


def _deaths(kept: Mapping[str, Mapping[str, float | None]], whats: Sequence[str]) -> list[str]:
    rows = []
    for what in whats:
        never = {key: math.inf if value is None else value for key, value in kept[what].items()}
        gone = _percent(never["gone"])
        cells = (number(never[key]) for key in ("connected", "tries", "oldest"))
        rows.append([what, *cells, gone])
    head = ["", "s until all are connected", "tries of each", "oldest heartbeat, s"]
    return _table([*head, "wrongly gone"], rows)


def kept(result: Balance | Aftermath) -> dict[str, float | None]:
    """As JSON, which has no infinity."""
    found = asdict(result)
    return {
        key: None if value == math.inf else float(f"{value:.4g}") for key, value in found.items()
    }
