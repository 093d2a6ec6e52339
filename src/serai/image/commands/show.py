"""What `invoke images`, `plan` and `pins` print."""

from __future__ import annotations

from datetime import datetime, timezone

from rich.table import Table

from serai.image import console
from serai.image.build import builds
from serai.image.build import plan as plans
from serai.image.definition import definition
from serai.image.definition import pins as pinned
from serai.image.settings import Settings


def images(settings: Settings) -> None:
    """One line an image: name, state, what it is."""
    for name in definition.names(settings):
        image = definition.load(settings, name)
        link = settings.dist / name / builds.LATEST
        state = link.resolve().name if link.exists() else "not built"
        console.say(f"{name:24} {state:16} {image.summary}")


def plan(settings: Settings, name: str, overrides: tuple[str, ...]) -> None:
    """Every value with its source, every tool's version, every stage with its key."""
    image, sources = definition.load_with_sources(settings, name, overrides)
    made = plans.make(settings, image)
    console.say(f"{name} {made.version}")
    values = _table("value", "is", "from")
    for key, value in definition.flat(image).items():
        values.add_row(key, _text(value), sources[key])
    for key, value, source in settings.resolved():
        values.add_row(key, _text(value), source)
    console.out.print(values)
    tools = _table("tool", "version")
    for tool, version in plans.tool_versions(image).items():
        tools.add_row(tool, version)
    console.out.print(tools)
    stages = _table("stage", "key", "state")
    for stage in made.stages:
        stages.add_row(stage.name, stage.key[:16], "cached" if stage.cached else stage.why)
    console.out.print(stages)
    state = "is there" if made.folder.exists() else "would be made"
    console.say(f"result: {made.folder} {state}")


def pins(settings: Settings) -> int:
    """One line for each pin past its review date; 1 if there is one."""
    found = pinned.read(settings)
    late = pinned.overdue(found, datetime.now(timezone.utc).date())
    for line in late:
        console.warn(line)
    if not late:
        first = min(pin.review for pin in found.values())
        console.say(f"{len(found)} pins, none past its review date; the next is {first}")
    return 1 if late else 0


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value) if value != "" else "(the tools' default)"
