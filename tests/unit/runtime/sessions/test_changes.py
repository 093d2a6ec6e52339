"""Changing what a session has of its own: the registry first, then what runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from serai.common.errors import SeraiError
from serai.common.paths import Paths
from serai.runtime.sessions import changes, own
from serai.runtime.sessions.own import Own
from serai.runtime.sessions.registry import Record, Registry
from serai.runtime.sessions.sessions import Sessions
from serai.runtime.settings import SessionSettings

MIB = 1 << 20


class Stub:
    """As much of ``Sessions`` as a change needs; ``done`` is what happened, in order."""

    def __init__(self, root: Path) -> None:
        self.paths = Paths(root)
        self.paths.sessions.mkdir()
        self.registry = Registry(root / "registry.sqlite")
        self.settings = SessionSettings()
        self.done: list[object] = []
        self.error: SeraiError | None = None
        self.cgroup = root

    @contextlib.asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[Record]:
        yield self.registry.get(name)

    def running(self, _record: Record) -> object:
        return SimpleNamespace(cgroup=self.cgroup)

    def fault(self, point: str) -> None:
        self.done.append((point, self.registry.get("one").own))

    async def limit(self, record: Record) -> None:
        self.done.append(("limit", record.own, self.registry.get(record.name).own))
        if self.error:
            raise self.error

    async def label(self, record: Record) -> None:
        self.done.append(("label", record.labels))

    def changed(self, event: str, record: Record) -> None:
        self.done.append((event, record.own))


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    monkeypatch.setattr(own, "memory_of_vm", lambda: 1024 * MIB)
    made = Stub(tmp_path)
    made.registry.add("one", {"a": "1", "b": "2"}, 1.0)
    return made


def change(stub: Stub, **asked: Any) -> Record:
    wanted = {"labels": {}, "limits": {}, "env": {}, **asked}
    return asyncio.run(changes.change(cast("Sessions", stub), "one", **wanted))


def test_it_is_written_down_before_it_counts(stub: Stub) -> None:
    new = Own({"memory": "64M"}, {"A": "b"})
    found = change(stub, labels={"a": None, "c": "3"}, limits={"memory": "64M"}, env={"A": "b"})
    assert stub.done == [
        ("set:journal", Own()),
        ("limit", new, new),
        ("label", {"b": "2", "c": "3"}),
        ("session.changed", new),
    ]
    assert (found.labels, found.own) == ({"b": "2", "c": "3"}, new)
    assert change(stub, limits={"memory": None}).own == Own(env={"A": "b"})


@pytest.mark.parametrize(
    "asked",
    [
        {"limits": {"tasks": "99", "memory": "1K"}},
        {"limits": {"memory": "64M"}, "labels": {"x": "y" * 2000}},
        {"limits": {"memory": "64M"}, "env": {"1": "b"}},
    ],
)
def test_what_is_refused_changes_nothing(stub: Stub, asked: dict[str, Any]) -> None:
    before = stub.registry.get("one")
    with pytest.raises(SeraiError):
        change(stub, **asked)
    assert (stub.done, stub.registry.get("one")) == ([], before)


def test_memory_that_is_in_use_is_not_taken_away(stub: Stub) -> None:
    (stub.cgroup / "memory.stat").write_text(f"anon {65 * MIB}\nfile {900 * MIB}\n")
    with pytest.raises(SeraiError, match="64M is less than the 65 MiB that session one holds"):
        change(stub, limits={"memory": "64M"})
    assert stub.registry.get("one").own == Own()
    assert change(stub, limits={"memory": "66M"}).own == Own({"memory": "66M"})


def test_what_systemd_refuses_is_not_kept(stub: Stub) -> None:
    before = stub.registry.get("one")
    stub.error = SeraiError("systemd: Unit not found")
    with pytest.raises(SeraiError, match="not found"):
        change(stub, limits={"memory": "64M"}, labels={"c": "3"})
    assert stub.registry.get("one") == before
    assert stub.done[-1] != ("session.changed", before.own)


def test_a_new_time_to_live_begins_now_and_no_other_change_prolongs_it(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(changes, "time", SimpleNamespace(time=lambda: now))
    assert change(stub, limits={"ttl": "1m"}).ends_at == 1060
    now = 1030.0
    assert change(stub, limits={"memory": "64M"}).ends_at == 1060
    stub.error = SeraiError("systemd does not answer")
    with pytest.raises(SeraiError):
        change(stub, limits={"ttl": "2m"})
    assert stub.registry.get("one").ends_at == 1060
    stub.error = None
    assert change(stub, limits={"ttl": "1m"}).ends_at == 1090
    assert change(stub, limits={"ttl": None}).ends_at is None


def test_limits_above_lowered_settings_stay_in_no_other_change_s_way(stub: Stub) -> None:
    change(stub, limits={"memory": "512M"})
    stub.settings = SessionSettings(resources=type(stub.settings.resources)(memory_max="10%"))
    assert change(stub, labels={"c": "3"}).own == Own({"memory": "512M"})


def test_new_settings_limit_all_though_one_fails(stub: Stub) -> None:
    stub.registry.add("two", {}, 1.0)
    stub.error = SeraiError("systemd does not answer")
    asyncio.run(changes.limit_again(cast("Sessions", stub)))
    assert len(stub.done) == 2
