"""One layer built in a directory of a test's own, by whatever is called packer there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from serai.image.build import layer
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
    return layer.run_layer(
        image,
        settings,
        accelerator="tcg",
        disk=folder / "base.qcow2",
        layer="system",
        chosen={},
        target=folder / "result.qcow2",
        log=folder / "build.log",
        keep=keep,
        on_event=on_event,
    )
