"""What `invoke images`, `plan`, `build-image`, `formats` and `pins` print."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.table import Table

from serai.image import console, sign
from serai.image.build import age, builds
from serai.image.build import plan as plans
from serai.image.build.builds import Finished
from serai.image.definition import definition
from serai.image.definition import pins as pinned
from serai.image.settings import Settings


def images(settings: Settings, *, as_json: bool) -> None:
    """One line an image: name, state, what it is."""
    found = []
    for name in definition.names(settings):
        image = definition.load(settings, name)
        link = settings.dist / name / builds.LATEST
        about = {key: getattr(image, key) for key in ("summary", "distribution", "release", "arch")}
        latest = link.resolve().name if link.exists() else None
        found.append({"image": name, "latest": latest, **about})
    if as_json:
        console.tell_program(found)
        return
    for each in found:
        console.say(f"{each['image']:24} {each['latest'] or 'not built':16} {each['summary']}")


def plan(settings: Settings, name: str, overrides: tuple[str, ...], *, as_json: bool) -> None:
    """Every value with its source, every tool's version, every stage with its key."""
    image, sources = definition.load_with_sources(settings, name, overrides)
    made = plans.make(settings, image)
    found = {key: (value, sources[key]) for key, value in definition.flat(image).items()}
    found |= {key: (value, source) for key, value, source in settings.resolved()}
    versions = plans.tool_versions(image)
    if as_json:
        console.tell_program(_planned(made, found, versions))
        return
    console.say(f"{name} {made.version}")
    values = _table("value", "is", "from")
    for key, (value, source) in found.items():
        values.add_row(key, _text(key, value), source)
    console.out.print(values)
    tools = _table("tool", "version")
    for tool, version in versions.items():
        tools.add_row(tool, version)
    console.out.print(tools)
    stages = _table("stage", "key", "state")
    for stage in made.stages:
        stages.add_row(stage.name, stage.key[:16], _state(stage))
    console.out.print(stages)
    state = "is there" if made.folder.exists() else "would be made"
    console.say(f"result: {made.folder} {state}")


def built(finished: Finished, *, as_json: bool) -> None:
    """Where the disk is that a build made."""
    if as_json:
        console.tell_program({**_named(finished), **_file(finished, finished.disk)})
    else:
        console.say(str(finished.disk))


def formats(finished: Finished, made: Sequence[Path], *, as_json: bool) -> None:
    """The files of other formats, one line each."""
    if as_json:
        console.tell_program(
            {**_named(finished), "files": [_file(finished, path) for path in made]}
        )
        return
    for path in made:
        console.say(str(path))


def pins(settings: Settings, *, as_json: bool) -> int:
    """One line for each pin past its review date; 1 if there is one."""
    found, today = pinned.read(settings), datetime.now(timezone.utc).date()
    late = pinned.overdue(found, today)
    if as_json:
        rows = [
            {
                "name": name,
                "version": pin.version,
                "reason": pin.reason,
                "link": pin.link,
                "review": str(pin.review),
                "overdue": pin.review < today,
            }
            for name, pin in found.items()
        ]
        console.tell_program(rows)
        return 1 if late else 0
    for line in late:
        console.warn(line)
    if not late:
        first = min(pin.review for pin in found.values())
        console.say(f"{len(found)} pins, none past its review date; the next is {first}")
    return 1 if late else 0


def _planned(
    made: plans.Plan, found: dict[str, tuple[object, str]], tools: dict[str, str]
) -> dict[str, Any]:
    return {
        "image": made.image.name,
        "version": made.version,
        "folder": str(made.folder),
        "built": made.folder.exists(),
        "values": [
            {"name": key, "value": value, "source": source}
            for key, (value, source) in found.items()
        ],
        "tools": [{"name": name, "version": version} for name, version in tools.items()],
        "stages": [
            {
                "name": stage.name,
                "key": stage.key,
                "cached": stage.cached,
                "why": stage.why,
                "base_made": stage.base_made and stage.base_made.strftime(age.ISO),
            }
            for stage in made.stages
        ],
    }


def _state(stage: plans.Stage) -> str:
    if stage.base_made is None:
        return stage.why
    old = f", {age.ago(stage.base_made)} old" if stage.name == plans.BASE else ""
    return f"cached{old}"


def _named(finished: Finished) -> dict[str, str]:
    return {"image": finished.image.name, "version": finished.folder.name}


def _file(finished: Finished, path: Path) -> dict[str, Any]:
    sums = sign.listed(finished.folder)
    return {"path": str(path), "bytes": path.stat().st_size, "sha256": sums[path.name]}


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


# What an empty value means.
_EMPTY = {
    "cache_sign_key": "(none: nothing is put into a shared cache)",
    "cache_max_age": "(none)",
    "cache_remote": "(none)",
    "cache_signers": "(none)",
    "accelerator": "(the fastest that works, found by trying)",
    "base.mirror": "(mmdebstrap's own choice)",
    "mirror": "(mmdebstrap's own choice)",
    "base.security_mirror": "(none)",
    "security_mirror": "(none)",
}


def _text(key: str, value: object) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "none"
    return str(value) if value != "" else _EMPTY.get(key, "(empty)")
