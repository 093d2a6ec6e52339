"""Which directories of the VM may be attached by default, and how."""

from __future__ import annotations

from pathlib import Path

import pytest

from serai.common.errors import SeraiError
from serai.common.paths import Paths
from serai.runtime.sessions.steps.folders import Folders
from serai.runtime.settings import SessionSettings

SKILLS = "/usr/local/share/serai/skills"


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """Only what is allowed is asked of it."""
    made = Folders.__new__(Folders)
    made.settings, made._paths = SessionSettings(), Paths(tmp_path)
    return made


def test_the_skills_of_the_image_can_be_attached_read_only(folders: Folders) -> None:
    for path in (SKILLS, f"{SKILLS}/hello"):
        folders._allow(path, writable=False)
        with pytest.raises(SeraiError, match=r"is the VM's own; attach it read-only"):
            folders._allow(path, writable=True)
    folders._allow("/srv/work", writable=True)


@pytest.mark.parametrize("path", ["/usr/local/share/serai/claude", "/usr", f"{SKILLS}/../x"])
def test_nothing_else_of_the_vm_can(folders: Folders, path: str) -> None:
    with pytest.raises(SeraiError, match="may not be attached"):
        folders._allow(path, writable=False)
