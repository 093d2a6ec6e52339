from __future__ import annotations

from pathlib import Path

import pytest

from serai.runtime.sessions import quota
from serai.runtime.settings import Disk, Policy, load


def test_levels() -> None:
    disk = Disk(warn_free=20, act_free=10)
    levels = [quota.level(free, disk) for free in (100, 20, 19.9, 10, 9.9, 0)]
    fine, low, very_low = quota.Level
    assert levels == [fine, fine, low, low, very_low, very_low]


def test_a_file_system_without_quotas_is_told_so() -> None:
    assert quota.usage(Path("/proc"), 2000) is None
    assert quota.limit(Path("/proc"), 2000, Disk()) is False


@pytest.mark.parametrize(
    "text",
    ["[disk]\nquota = '0'", "[disk]\nquota = 5", "[disk]\nreserve = 100", "attachable = ['mnt']"],
)
def test_bad_settings_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "session.toml").write_text(text)
    with pytest.raises(Exception, match=r"disk\.|attachable"):
        load(tmp_path / "session.toml")


def test_the_default_is_half_the_disk() -> None:
    assert (Policy().disk.quota, Policy().disk.files) == ("50%", "50%")
