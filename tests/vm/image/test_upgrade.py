"""A new root image beside the old disk of sessions: all of theirs is there, whatever comes up."""

from __future__ import annotations

from pathlib import Path

import pytest

from serai.image import digest
from serai.image.definition.definition import Image
from serai.image.errors import BuildError
from serai.image.run import run
from serai.image.settings import Settings
from serai.image.vm.vm import booted
from tests.support.upgrading import Upgraded

FIRMWARE = 8.0  # seconds in which a disk without a system is looked at in vain


def test_a_new_image_finds_all_sessions_though_a_unit_of_it_fails(upgraded: Upgraded) -> None:
    before, after = upgraded.before, upgraded.after
    assert before.pop("machine") != after.pop("machine")
    assert any("denied.example" in line for line in before["audit"])
    assert before["states"]["stored"] == "archived"
    assert before["states"].pop("kept") in ("ready", "active")
    assert after["states"].pop("kept") in ("ready", "active", "stopped")
    assert set(before.pop("states")) == set(after["states"])
    assert after.pop("states")["stored"] == "archived"
    old = before.pop("audit")
    assert after.pop("audit")[: len(old)] == old
    assert after == before
    kept, stored, *uids = upgraded.used
    assert (kept, stored) == ("precious", "archived")
    assert int(uids[0]) < int(uids[1]), "a newcomer has nobody's UID"


def test_one_that_does_not_boot_harms_none(
    image: Image, settings: Settings, tmp_path: Path
) -> None:
    blank, sessions = tmp_path / "blank.qcow2", tmp_path / "sessions.raw"
    run(["qemu-img", "create", "-q", "-f", "qcow2", blank, image.disk.size])
    run(["mke2fs", "-q", "-t", "ext4", "-L", "sessions", sessions, "64M"])
    at_rest = digest.of_file(sessions)
    with (
        pytest.raises(BuildError),
        booted(
            image,
            blank,
            settings=settings,
            work=tmp_path / "blank",
            sessions=sessions,
            deadline=FIRMWARE,
        ),
    ):
        pass
    assert digest.of_file(sessions) == at_rest
