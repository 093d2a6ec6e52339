"""The page that says which task of which role ran where, written from the record."""

from __future__ import annotations

from itertools import groupby

from serai.image.rehearsal import record
from serai.image.rehearsal.record import Rehearsed
from serai.image.settings import Settings

PAGE = "docs/rehearsal.md"

_INTRODUCTION = """# Which task ran where

Written by `invoke docs` from the record of the last `invoke rehearse`. That plays the playbooks in
containers: `image.yml` (image) and `provision.yml` (VM), on Debian 12 and on the stand-ins
for Ubuntu 22.04 and 24.04. [Ubuntu](ubuntu.md) says what a stand-in is, and what it is not.

A row is a task, or a file of variables that one distribution has. *changed* and *ok* mean that it
ran and succeeded, *skipped* that its condition did not hold, and *-* that the run did not come to
it. `invoke lint` fails if a row ran nowhere without a reason, and if a role has changed since.
"""


def text(settings: Settings) -> str:
    """The page, in Markdown."""
    root = settings.root
    kept, names = record.load(root), record.known(root)
    sections = [_INTRODUCTION, _summary(kept, names, record.allowed(root))]
    for role, tasks in groupby(names, lambda name: name.partition("/")[0]):
        sections.append(_section(role, list(tasks), kept))
    return "\n".join(sections)


def _summary(kept: Rehearsed, names: list[str], reasons: dict[str, str]) -> str:
    rows = [
        f"| {run} | {sum(how in record.RAN for how in outcomes.values())} |"
        for run, outcomes in kept.runs.items()
    ]
    without = [f"| `{name}` | {reasons.get(name, '')} |" for name in record.nowhere(names, kept)]
    lines = [f"There are {len(names)} rows.\n", "| run | rows that ran |", "|---|--:|", *rows]
    if without:
        lines += ["\n## Ran nowhere\n", "| row | reason |", "|---|---|", *without]
    return "\n".join(lines) + "\n"


def _section(role: str, names: list[str], kept: Rehearsed) -> str:
    lines = [f"## {role}\n", f"| file | task | {' | '.join(kept.runs)} |"]
    lines.append("|---|---" + "|---" * len(kept.runs) + "|")
    for name in names:
        file, _, task = name.removeprefix(f"{role}/").partition(": ")
        how = " | ".join(outcomes.get(name, "-") for outcomes in kept.runs.values())
        lines.append(f"| `{file}` | {task} | {how} |")
    return "\n".join(lines) + "\n"
