"""One layer built in a directory of a test's own, by whatever is called packer there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from serai.image.build import layer
from serai.image.build.packer_build import LayerBuild
from serai.image.definition.definition import Image
from serai.image.progress import Event, TaskTiming
from serai.image.settings import Settings


def build(
    image: Image,
    settings: Settings,
    folder: Path,
    on_event: Callable[[Event], None],
    *,
    keep: bool = False,
) -> list[TaskTiming]:
    """The layer ``system`` on ``folder``'s base.qcow2, as result.qcow2, with its build.log."""
    found: list[TaskTiming] = []

    def made(what: LayerBuild, disk: Path, tasks: list[TaskTiming]) -> None:
        layer.compress(disk, folder / "result.qcow2", what.log)
        found.extend(tasks)

    layer.run_layers(
        image,
        settings,
        accelerator="tcg",
        disk=folder / "base.qcow2",
        layers=[LayerBuild("system", {}, folder / "build.log")],
        made=made,
        keep=keep,
        on_event=on_event,
    )
    return found
