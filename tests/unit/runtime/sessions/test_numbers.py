"""Sessions get no number that the VM knows."""

from __future__ import annotations

import grp
import pwd
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serai.runtime.doctor import collect
from serai.runtime.sessions import numbers
from serai.runtime.sessions.registry import FIRST_UID, Registry


def known(monkeypatch: pytest.MonkeyPatch, users: dict[int, str], groups: dict[int, str]) -> None:
    def user(uid: int) -> Any:
        return SimpleNamespace(pw_name=users[uid])

    def group(gid: int) -> Any:
        return SimpleNamespace(gr_name=groups[gid])

    monkeypatch.setattr(pwd, "getpwuid", user)
    monkeypatch.setattr(grp, "getgrgid", group)


def test_a_new_session_is_given_no_number_of_the_vms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch, {FIRST_UID: "eve"}, {FIRST_UID + 1: "staff"})
    registry = Registry(tmp_path / "registry")
    record, _ = registry.add("a", {}, 0)
    assert record.uid == FIRST_UID + 2
    # It came later, and has the next.
    known(monkeypatch, {FIRST_UID + 3: "bob"}, {})
    assert registry.add("b", {}, 0)[0].uid == FIRST_UID + 4


def test_without_a_look_at_the_vms_numbers_it_is_given_a_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch, {FIRST_UID: "eve"}, {})
    monkeypatch.setattr(numbers, "taken", lambda _: "")
    assert Registry(tmp_path / "registry").add("a", {}, 0)[0].uid == FIRST_UID


@pytest.mark.parametrize("name", ["subuid", "subgid"])
def test_subordinate_ranges_are_known(tmp_path: Path, name: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / name).write_text("# x\nbad line\neve:231072:65536\n")
    assert numbers.subordinate(231072, tmp_path) == f"{name} of eve"
    assert numbers.subordinate(231072 + 65535, tmp_path) == f"{name} of eve"
    assert numbers.subordinate(231071, tmp_path) == ""
    assert numbers.subordinate(231072 + 65536, tmp_path) == ""


def test_the_doctor_finds_clashes_that_came_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch, {2000: "a", 2001: "eve"}, {2000: "a", 2002: "staff"})
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/subuid").write_text("eve:2000:1\n")
    assert collect.clashes({"a": 2000, "b": 2001, "c": 2002}, tmp_path) == [
        "subuid of eve has 2000",
        "user eve has 2001",
        "group staff has 2002",
    ]
