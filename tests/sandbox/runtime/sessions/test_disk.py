"""A sessions disk that is too full, as session.toml has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from serai.common import errors
from serai.common.errors import SeraiError
from serai.runtime.sessions.steps import quota
from tests.support.fake_vm import opened

MARKS = "reserve = 1\nwarn_free = 1\nact_free = 1\n"


def test_a_put_does_not_touch_the_reserve() -> None:
    with opened() as vm:
        text = vm.paths.settings.read_text()
        vm.paths.settings.write_text(
            text.replace(MARKS, "reserve = 99\nwarn_free = 1\nact_free = 1\n")
        )
        vm.start()
        vm.call("create", name="one")
        with vm.client() as client:
            with pytest.raises(SeraiError, match="reserve of 99 %") as caught:
                client.put("one", "uploads", "file", b"x")
            assert caught.value.code == errors.NO_ROOM
            assert client.ls("one", "uploads") == []
            # A folder from elsewhere is on somebody else's disk.
            (vm.root / "share/a").mkdir(parents=True)
            vm.call("attach", name="one", role="uploads", path=str(vm.root / "share/a"))
            client.put("one", "uploads", "file", b"x")


def test_without_a_reserve_a_put_takes_what_is_there() -> None:
    """The least that can be set, as on the disk that the test before calls full."""
    with opened() as vm:
        text = vm.paths.settings.read_text()
        vm.paths.settings.write_text(text.replace(MARKS, "reserve = 1\n"))
        vm.start()
        vm.call("create", name="one")
        with vm.client() as client:
            client.put("one", "uploads", "file", b"x")
            assert client.get("one", "uploads", "file") == b"x"


@pytest.mark.parametrize("act_free", [0, 99])
def test_no_archive_goes_by_itself(act_free: int) -> None:
    """By default never; with a limit not because of what others have, nor without quotas."""
    with opened() as vm:
        vm.start()
        for name in ("old", "used"):
            vm.call("create", name=name)
        vm.call("archive", name="old")
        assert vm.stop() == 0
        text = vm.paths.settings.read_text()
        new = f"reserve = 1\nwarn_free = 99\nact_free = {act_free}\n"
        vm.paths.settings.write_text(text.replace(MARKS, new))
        vm.start()
        vm.call("gc", keep_days=None, dry_run=True)  # waits for what collects already
        assert vm.sessions()["old"]["state"] == "archived"


def test_a_person_can_have_archives_removed_for_room() -> None:
    with opened() as vm:
        vm.start()
        for name, labels in (("old", {}), ("kept", {"keep": ""}), ("used", {})):
            vm.call("create", name=name, labels=labels)
        vm.call("archive", name="old")
        vm.call("archive", name="kept")
        vm.call("gc", keep_days=None, keep_free=100)
        assert {name: each["state"] for name, each in vm.sessions().items()} == {
            "kept": "archived",
            "used": "ready",
        }


def test_a_quota_is_shown_where_one_is_kept(tmp_path: Path) -> None:
    with opened() as vm:
        vm.start()
        shown = vm.call("create", name="one")
        if quota.usage(vm.paths.sessions, shown["uid"]) is None:
            assert shown["quota"] is None
            assert "quota: none is kept" in vm.serai("show", "one").stdout
        else:
            assert shown["quota"]["bytes_limit"] > 0
