"""A booted image that shares folders of this host, with a second disk that outlives it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest

from serai.image.definition.definition import Image
from serai.image.errors import BuildError
from serai.image.run import run
from serai.image.settings import Settings
from serai.image.verify import verify
from serai.image.verify.verdict import Report
from serai.image.vm import share
from serai.image.vm.boot import finish_boot
from serai.image.vm.qemu import Share
from serai.image.vm.vm import VM, booted

# Only root's QEMU can make files that belong to others.
OWNER = 41000 if os.geteuid() == 0 else os.geteuid()
VIRTIOFS = "config"  # a tag of the settings: before Linux 6.9 no other one is tried


@dataclass(frozen=True)
class Shared:
    """A vm with the sessions one and two, its second disk, and the host's folders by tag.

    ``report`` is what was found while the vm was fresh, None if nobody looked.
    """

    vm: VM
    sessions: Path
    folders: dict[str, Path]
    report: Report | None

    def serai(self, *words: str, stdin: str | None = None) -> str:
        return self.vm.ssh.run(shlex.join(["serai", *words]), stdin=stdin, timeout=900).stdout

    def refused(self, command: str) -> str:
        """What a shell of the vm says, where it must not succeed."""
        done = self.vm.ssh.run(command, check=False)
        assert done.returncode != 0, command
        return done.stderr


@contextmanager
def sharing(
    settings: Settings, image: Image, disk: Path, top: Path, verified: bool
) -> Iterator[Shared]:
    """Boot ``disk``; folders, logs and the second disk are in ``top``.

    If it is to be ``verified``, that comes first, in this VM: shares change nothing that matters.
    """
    tags = ["first", "second", "uploads", *([VIRTIOFS] if _with_virtiofs() else [])]
    folders = {tag: top / tag for tag in tags}
    for folder in folders.values():
        folder.mkdir()
        (folder / "old").write_text("from the host\n")
        for path in (folder, folder / "old"):
            os.chown(path, OWNER, OWNER)
    shares = [
        Share(tag, folder, read_only=tag == "uploads", virtiofs=tag == VIRTIOFS)
        for tag, folder in folders.items()
    ]
    sessions = top / "sessions.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", sessions, image.disk.sessions])
    with booted(
        image, disk, settings=settings, work=top / "work", sessions=sessions, shares=shares
    ) as vm:
        report = _verified(settings, image, disk.parent, vm) if verified else None
        assert finish_boot(vm) == "running"
        found = Shared(vm, sessions, folders, report)
        for name, tag in (("one", "first"), ("two", "second")):
            found.serai("create", name)
            found.serai("attach", name, "workdir", f"/mnt/host/{tag}")
        yield found


def _verified(settings: Settings, image: Image, folder: Path, vm: VM) -> Report:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "booted", lambda *_, **__: nullcontext(vm))
        return verify.verify(settings, image, folder, quick=True)


def _with_virtiofs() -> bool:
    try:
        return bool(share.virtiofsd())
    except BuildError:
        return False
