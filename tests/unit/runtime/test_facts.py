"""What is read from the kernel's texts, and files derived from data."""

from __future__ import annotations

from pathlib import Path

import pytest

from serai.runtime.sandbox import cgroups
from serai.runtime.sessions import retention
from serai.runtime.sessions.registry import Record
from serai.runtime.sessions.states import State
from serai.runtime.sessions.steps import users
from serai.runtime.sessions.supervising import supervisor
from serai.runtime.settings import Limits, Resources, SessionSettings

V2 = "31 23 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "32 23 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
    "33 23 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)
DAY = 86400.0


def test_cgroup_mounts_are_found() -> None:
    assert cgroups.mounts(V2) == ("/sys/fs/cgroup", None)
    assert cgroups.mounts(V1) == (None, "/sys/fs/cgroup/systemd")


@pytest.mark.parametrize(
    ("membership", "found"),
    [
        ("0::/serai.slice/a.service\n", "/u/serai.slice/a.service"),
        ("1:name=systemd:/serai.slice/a.service\n0::/\n", "/n/serai.slice/a.service"),
        ("4:memory:/elsewhere\n1:name=systemd:/s/a\n", "/n/s/a"),
        ("0::/with:colon\n", "/u/with:colon"),
        ("0::/\n", None),
    ],
)
def test_the_cgroup_of_a_process(membership: str, found: str | None) -> None:
    assert cgroups.folder(membership, "/u", "/n") == (Path(found) if found else None)


def test_a_hierarchy_that_is_not_mounted_does_not_count() -> None:
    assert cgroups.folder("0::/a\n", None, "/n") is None


def test_a_users_lines() -> None:
    line = users.passwd_line("foo", 2000)
    assert line == "foo:x:2000:2000:Serai session:/sessions/foo:/nonexistent\n"
    assert users.group_line("foo", 2000) == "foo:x:2000:\n"


def test_user_files_are_replaced_whole(tmp_path: Path) -> None:
    users.write(tmp_path / "users", [("foo", 2000)])
    held = (tmp_path / "users/passwd").open()
    users.write(tmp_path / "users", [("foo", 2000), ("bar", 2001)])
    with held:
        assert held.read().count("\n") == 1
    assert (tmp_path / "users/passwd").read_text().count("\n") == 2
    assert (tmp_path / "users/group").stat().st_mode & 0o777 == 0o644
    assert sorted(path.name for path in (tmp_path / "users").iterdir()) == ["group", "passwd"]


def test_the_settings_become_limits_of_the_unit() -> None:
    settings = SessionSettings(Limits(nofile=100), Resources(memory_max="1G", tasks_max=50))
    lines = supervisor.drop_in(settings).splitlines()
    assert lines[0] == "[Service]"
    assert {"LimitNOFILE=100", "MemoryMax=1G", "TasksMax=50", "CPUWeight=100"} <= set(lines)


def record(name: str, state: State, used: float, changed: float = 0, **more: object) -> Record:
    labels = {"keep": ""} if more.get("keep") else {}
    goal = State.ARCHIVED if more.get("busy") else None
    return Record(2000, name, state, goal, labels, 0, changed * DAY, used * DAY)


def test_age_archives_first_and_removes_what_was_archived() -> None:
    records = [
        record("active", State.ACTIVE, used=0),
        record("old-ready", State.READY, used=1),
        record("old-frozen", State.FROZEN, used=1),
        record("fresh", State.READY, used=95),
        record("kept", State.STOPPED, used=0, keep=True),
        record("busy", State.STOPPED, used=0, busy=True),
        record("just-archived", State.ARCHIVED, used=0, changed=99),
        record("long-archived", State.ARCHIVED, used=0, changed=10),
    ]
    actions = retention.by_age(records, 100 * DAY, 30)
    assert {action.name: action.goal for action in actions} == {
        "old-ready": State.ARCHIVED,
        "old-frozen": State.ARCHIVED,
        "long-archived": State.REMOVING,
    }


def test_room_is_made_from_the_archived_one_used_longest_ago() -> None:
    records = [
        record("running", State.READY, used=0),
        record("newer", State.ARCHIVED, used=5),
        record("older", State.ARCHIVED, used=2),
        record("kept", State.ARCHIVED, used=0, keep=True),
    ]
    action = retention.for_room(records, free=5, keep_free=20)
    assert action is not None
    assert action.name == "older"
    assert retention.for_room(records, free=20, keep_free=20) is None
    assert retention.for_room(records[:1], free=5, keep_free=20) is None
