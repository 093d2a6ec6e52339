"""Which task of the roles ran where: read from Ansible's events, kept, and held against the roles.

The record is data/record.json, written by `invoke rehearse` and checked by `invoke lint`. It knows
a task by its role, its file and its name, and a file of variables by its path.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from serai.image import cache, digest

FILE = "src/serai/image/rehearsal/data/record.json"
ALLOWED = "src/serai/image/rehearsal/data/allowed.yml"

# How a task ended, the best way last: of several runs that one counts.
RANK = ("-", "skipped", "ok", "changed")
RAN = ("ok", "changed")

_TASKS = ("tasks", "handlers")
_NESTED = ("block", "rescue", "always")


@dataclass(frozen=True)
class Rehearsed:
    """``contents`` are the digests of the files that decide what runs; ``runs`` are the outcomes.

    Each run has an outcome for each task that it came to.
    """

    contents: dict[str, str]
    runs: dict[str, dict[str, str]]


def known(root: Path) -> list[str]:
    """Every task of every role as "role/tasks/file.yml: Name", and every file of variables.

    Variables in main.yml always count, so only the other files are there: each is a branch.
    """
    found = []
    for path in _files(root):
        place = str(path.relative_to(root / "roles"))
        if path.parent.name in _TASKS:
            found += [f"{place}: {name}" for name in _names(yaml.safe_load(path.read_text()))]
        elif path.name != "main.yml":
            found.append(place)
    return found


def contents(root: Path) -> dict[str, str]:
    """The digest of each file of tasks, handlers and variables; comments do not count."""
    return {
        str(path.relative_to(root / "roles")): digest.of_value(yaml.safe_load(path.read_text()))[
            :16
        ]
        for path in _files(root)
    }


def outcomes(root: Path, events: Iterable[str]) -> dict[str, str]:
    """What became of each task of the roles, from the lines that serai_events.py wrote."""
    found: dict[str, str] = {}
    task = ""
    for line in events:
        event: dict[str, Any] = json.loads(line)
        if event["event"] == "task":
            place = _place(root, event["place"].rpartition(":")[0])
            task = f"{place}: {event['name']}" if place else ""
        elif event["event"] == "result" and event["status"] in RANK:
            read = [_place(root, path) for path in event.get("read", [])]
            for name in [task, *read]:
                if name:
                    found[name] = max(found.get(name, "-"), event["status"], key=RANK.index)
    return found


def load(root: Path) -> Rehearsed:
    """The record as it was written last; an empty one if there is none."""
    if not (root / FILE).exists():
        return Rehearsed({}, {})
    read = json.loads((root / FILE).read_text())
    return Rehearsed(read["contents"], read["runs"])


def renewed(root: Path, contents: dict[str, str], runs: dict[str, dict[str, str]]) -> Rehearsed:
    """The record with these runs, and the others if they had the same contents."""
    kept = load(root)
    others = kept.runs if kept.contents == contents else {}
    return Rehearsed(contents, {**others, **runs})


def write(root: Path, record: Rehearsed) -> None:
    """Keep ``record``."""
    content = {"contents": record.contents, "runs": record.runs}
    (root / FILE).parent.mkdir(parents=True, exist_ok=True)
    cache.write(root / FILE, json.dumps(content, indent=1, sort_keys=True) + "\n")


def allowed(root: Path) -> dict[str, str]:
    """What may have run nowhere, with the reason."""
    read: dict[str, str] = yaml.safe_load((root / ALLOWED).read_text()) or {}
    return read


def complaints(root: Path) -> list[str]:
    """What is wrong with the record, a sentence each: it is old, or something ran nowhere."""
    record, reasons = load(root), allowed(root)
    now = contents(root)
    changed = {
        path for path in {*now, *record.contents} if now.get(path) != record.contents.get(path)
    }
    if changed:
        roles = ", ".join(sorted({path.partition("/")[0] for path in changed}))
        return [f"roles changed since the rehearsal ({roles}): run 'invoke rehearse'"]
    names = known(root)
    found = [f"{name} ran nowhere" for name in nowhere(names, record) if name not in reasons]
    for name in reasons:
        if name not in names:
            found.append(f"{ALLOWED}: there is no {name}")
        elif name not in nowhere(names, record):
            found.append(f"{ALLOWED}: {name} ran, remove it here")
    return found


def nowhere(names: Iterable[str], record: Rehearsed) -> list[str]:
    """Those that ran in none of the runs."""
    ran = {name for run in record.runs.values() for name, how in run.items() if how in RAN}
    return [name for name in names if name not in ran]


def _files(root: Path) -> list[Path]:
    """What decides which tasks run: a role after the other."""
    return [
        path
        for role in sorted((root / "roles").iterdir())
        for kind in (*_TASKS, "vars")
        for path in sorted(role.glob(f"{kind}/*.yml"))
    ]


def _names(tasks: list[dict[str, Any]]) -> Iterator[str]:
    for task in tasks:
        nested = [each for part in _NESTED for each in task.get(part, [])]
        if nested:
            yield from _names(nested)
        elif "ansible.builtin.import_tasks" not in task:  # read before anything runs: no event
            yield task["name"]


def _place(root: Path, path: str) -> str:
    """The path below roles/, '' if it is elsewhere."""
    roles = root / "roles"
    return str(Path(path).relative_to(roles)) if Path(path).is_relative_to(roles) else ""
