"""All tasks, as Invoke has them."""

from __future__ import annotations

from invoke.collection import Collection

from serai.image.tasks import checkout, fleets, images, releases, trials, vms


def collection(*names: str) -> Collection:
    """The tasks of these names, or all."""
    rooms = (checkout, fleets, images, releases, trials, vms)
    tasks = {n: t for room in rooms for n, t in Collection.from_module(room).tasks.items()}
    found = Collection()
    for name in names or sorted(tasks):
        found.add_task(tasks[name], name=name)
    return found
