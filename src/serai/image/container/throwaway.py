"""What `invoke container` does: a throwaway container to try sessions in."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from serai.image import console
from serai.image.container import roots
from serai.image.container.container import booted
from serai.image.errors import BuildError
from serai.image.settings import Settings


def run(
    settings: Settings, *, command: str | None, copy: Sequence[Path], keep: bool, image: str = ""
) -> int:
    """Boot a throwaway container, copy ``copy`` to /root, run ``command``; returns its exit status.

    It is the Debian of ``image``. Without ``command``, or with ``keep``, a shell follows on our
    terminal. Raises BuildError.
    """
    for path in copy:
        if not path.exists():
            raise BuildError(f"there is no {path} to copy into the container")
    if os.geteuid() != 0:
        raise BuildError("a container needs root", hint="run it with sudo")
    root = roots.provisioned(settings, image=image)
    status = 0
    with (
        tempfile.TemporaryDirectory(prefix="serai-container-") as work,
        booted(root, Path(work)) as container,
    ):
        container.copy(copy)
        if command is not None:
            status = container.stream(command)
        if keep or command is None:
            console.say("a shell in the container; it is thrown away when the shell ends")
            container.stream("exec bash -l")
    return status
