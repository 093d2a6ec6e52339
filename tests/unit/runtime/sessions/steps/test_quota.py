from __future__ import annotations

import os
from pathlib import Path

import pytest

from serai.runtime.sessions.steps import quota
from serai.runtime.settings import Disk, SessionSettings, load


def test_levels() -> None:
    disk = Disk(warn_free=20, act_free=10)
    levels = [quota.level(free, disk) for free in (100, 20, 19.9, 10, 9.9, 0)]
    fine, low, very_low = quota.Level
    assert levels == [fine, fine, low, low, very_low, very_low]


def test_a_file_system_without_quotas_is_told_so() -> None:
    assert quota.usage(Path("/proc"), 2000) is None
    assert quota.limit(Path("/proc"), 2000, quota.Grant(1, 1, 1)) is False
    assert quota.share(Path("/proc"), [2000], Disk()) is None


@pytest.mark.parametrize(
    "text",
    ["[disk]\nquota = '0'", "[disk]\nquota = 5", "[disk]\nreserve = 100", "attachable = ['mnt']"],
)
def test_bad_settings_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "session.toml").write_text(text)
    with pytest.raises(Exception, match=r"disk\.|attachable"):
        load(tmp_path / "session.toml")


@pytest.mark.parametrize("used", [[], [0], [0, 0], [90, 0], [30, 30, 30], [95, 0, 0], [50, 45, 3]])
@pytest.mark.parametrize("left", [1, 3])
def test_what_all_may_have_together_is_there(used: list[int], left: int) -> None:
    part = quota.fair(used, 95, left)
    assert sum(max(each, part) for each in used) + left * part <= max(95, sum(used))


def test_without_shares_two_sessions_may_have_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_two() -> int:
        return 2 * quota._part("50%", 5, 100, 0, [0, 0])

    assert of_two() < 95
    monkeypatch.setattr(quota, "fair", lambda _, room, _left: room)
    assert of_two() == 100


def test_the_next_session_finds_room_however_many_fill_theirs() -> None:
    used: list[int] = []
    for _ in range(8):
        used.append(0)
        part = quota.fair(used, 1 << 40)
        assert part > 0
        used = [max(each, part) for each in used]  # each writes until it may not any more


def test_one_session_alone_may_have_nearly_half() -> None:
    assert quota.fair([0], 95) == 47


def test_a_disk_that_archives_fill_has_no_room() -> None:
    assert quota.fair([0, 3], -20) == 0


WHOLE = os.statvfs_result((4096, 4096, 1000, 300, 280, 500, 400, 400, 0, 255))


def shared(
    monkeypatch: pytest.MonkeyPatch,
    used: dict[int, int],
    disk: Disk,
    own: dict[int, str] | None = None,
) -> dict[int, object]:
    """The limits (bytes, files) that sessions get which use so many blocks, and a file a block."""
    given: dict[int, object] = {}

    def limit(_: Path, uid: int, part: quota.Grant, own: str) -> bool:
        given[uid] = (quota.least(part, own), part.files)
        return True

    monkeypatch.setattr(os, "statvfs", lambda _: WHOLE)
    monkeypatch.setattr(
        quota, "usage", lambda _, uid: quota.Usage(used[uid] * 4096, 0, used[uid], 0)
    )
    monkeypatch.setattr(quota, "limit", limit)
    assert quota.share(Path("/sessions"), used, disk, own)
    return given


def test_running_sessions_share_what_others_have_left(monkeypatch: pytest.MonkeyPatch) -> None:
    # 700 of 1000 blocks are in use, 100 of them by these: 350 are theirs, the reserve not counted.
    given = shared(monkeypatch, {2000: 90, 2001: 10}, Disk())
    assert given == dict.fromkeys((2000, 2001), (350 * 4096 // 3, 475 // 3))


def test_a_setting_is_the_most_and_infinity_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shared(monkeypatch, {2000: 0}, Disk(quota="8K", files="infinity")) == {2000: (8192, 0)}


def test_a_quota_of_its_own_is_never_more_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {2000: "8K", 2001: "1T", 2002: ""}
    given = shared(monkeypatch, {2000: 0, 2001: 0, 2002: 0}, Disk(files="infinity"), own)
    part = 250 * 4096 // 4
    assert given == {2000: (8192, 0), 2001: (part, 0), 2002: (part, 0)}
    endless = Disk(quota="infinity", files="infinity")
    assert shared(monkeypatch, {2000: 0, 2001: 0}, endless, {2000: "8K"}) == {
        2000: (8192, 0),
        2001: (0, 0),
    }


def test_who_can_have_nothing_has_no_unlimited_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    given = shared(monkeypatch, {2000: 0}, Disk(reserve=99))
    assert given == {2000: (1, 1)}, "0 would be no limit"


def test_the_default_is_half_the_disk() -> None:
    assert (SessionSettings().disk.quota, SessionSettings().disk.files) == ("50%", "50%")
