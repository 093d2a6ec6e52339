"""The command `serai-build`: those tasks of Invoke that make images, wherever one stands."""

from __future__ import annotations

import sys

from invoke.program import Program

from serai import __version__
from serai.image.tasks.tasks import collection

NAMES = (
    *("new", "images", "plan", "build-image", "verify-image", "inspect-image", "boot"),
    *("formats", "release", "verify-release", "push", "pull", "compare"),
    *("describe", "provision", "update-base", "pins", "docs", "clean"),
)
"""What is of use to a project; the others work on Serai itself."""


def main() -> None:
    """Run the command line, which may name several tasks."""
    name = "serai-build"
    Program(name=name, binary=name, namespace=collection(*NAMES), version=__version__).run(
        [name, *sys.argv[1:]]
    )


if __name__ == "__main__":
    main()
