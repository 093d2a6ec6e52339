"""The command `serai-build`: those tasks of Invoke that make images, wherever one stands.

They are ``tasks.py`` of the checkout, or of the copy of a checkout that the wheel carries.
"""

from __future__ import annotations

import importlib.util
import sys

from invoke.collection import Collection
from invoke.program import Program

from serai import __version__
from serai.image import console
from serai.image.settings import CHECKOUT

NAMES = (
    *("new", "images", "plan", "build-image", "verify-image", "inspect-image", "boot"),
    *("formats", "release", "verify-release", "push", "pull", "compare"),
    *("describe", "provision", "update-base", "pins", "docs", "clean"),
)
"""What is of use to a project; the others work on Serai itself."""


def collection() -> Collection:
    """These tasks."""
    spec = importlib.util.spec_from_file_location("tasks", CHECKOUT / "tasks.py")
    assert spec and spec.loader  # noqa: S101  # the file is part of the checkout
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    whole, found = Collection.from_module(module), Collection()
    for name in NAMES:
        found.add_task(whole[name], name=name)
    return found


def main() -> None:
    """Run the command line, which may name several tasks."""
    with console.reported():
        namespace = collection()
    name = "serai-build"
    Program(name=name, binary=name, namespace=namespace, version=__version__).run(
        [name, *sys.argv[1:]]
    )


if __name__ == "__main__":
    main()
