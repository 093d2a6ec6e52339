"""A session's own limits and variables: what may be asked for, and what counts."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from serai.common.errors import INVALID_PARAMS, SeraiError
from serai.runtime.sessions import own
from serai.runtime.sessions.own import Own
from serai.runtime.settings import Disk, Resources, SessionSettings

GIB = 1 << 30
RULES = SessionSettings(resources=Resources(memory_max="4G", tasks_max=1000))
DISK = 100 * GIB
NO_LIMIT = 2**64 - 1


@pytest.fixture(autouse=True)
def vm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "memory_of_vm", lambda: 8 * GIB)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)


@pytest.mark.parametrize(
    ("name", "asked", "said"),
    [
        ("memory", "5G", "memory: 5G is more than the 4096 MiB that a session may have"),
        ("memory", "51%", "more than"),
        ("memory", "infinity", "more than"),
        ("memory", "31M", "memory: 31M is less than the 32 MiB that a session needs"),
        ("memory", "0", "memory: '0' is not an amount"),
        ("memory", "1Q", "memory: '1Q' is not an amount such as 4G, 50% or infinity"),
        ("memory", "", "not an amount"),
        ("memory", "1G\n", "not an amount"),
        ("quota", "51%", "quota: 51% is more than the 51200 MiB"),
        ("quota", "51G", "more than"),
        ("quota", "-1", "quota: '-1' is not an amount"),
        ("quota", "4", "quota: 4 is less than the 1 MiB"),
        ("cpus", "4.5", "cpus: '4.5' is not a number such as 0.5, up to the VM's 4"),
        ("cpus", "0", "cpus"),
        ("cpus", "-1", "cpus"),
        ("cpus", "nan", "cpus"),
        ("cpus", "1e1", "cpus"),
        ("tasks", "1001", "tasks: '1001' is not a number from 16 to 1000"),
        ("tasks", "15", "from 16"),
        ("tasks", "1.5", "tasks"),
        ("idle_freeze", "9s", "idle_freeze: '9s' is not a time such as 90s, 10m, 8h or 2d"),
        ("idle_freeze", "0m", "idle_freeze"),
        ("ttl", "8", "ttl: '8' is not a time"),
        ("ttl", "1h30m", "ttl"),
        ("ttl", "1h\n", "ttl"),
        ("ttl", "999999d", "ttl"),
        ("disk", "1G", "there is no limit 'disk'; there are memory, cpus, tasks, quota"),
    ],
)
def test_what_is_wrong_or_more_than_the_vm_s_is_refused(name: str, asked: str, said: str) -> None:
    with pytest.raises(SeraiError, match=said) as caught:
        own.check_limits({name: asked}, RULES, DISK)
    assert caught.value.code == INVALID_PARAMS


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"A=B": "c"}, "'A=B' is not a variable's name"),
        ({"A\n": "c"}, "not a variable's name"),
        ({"A": "x" * own.MAX_VARIABLE}, "longer than 32 KiB"),
        ({f"A{number}": "x" for number in range(65)}, "at most 64"),
    ],
)
def test_variables_have_names_and_an_end(asked: dict[str, str], said: str) -> None:
    with pytest.raises(SeraiError, match=said):
        own.check_env(asked)


def test_up_to_the_vm_s_limits_all_is_given() -> None:
    most = {"memory": "4G", "cpus": "4", "tasks": "1000", "quota": "50%"}
    own.check_limits(most, RULES, DISK)
    own.check_limits({"memory": "50%", "cpus": "0.01", "tasks": "16", "quota": "4G"}, RULES, DISK)
    own.check_limits({"idle_freeze": "10s", "ttl": "99999d"}, RULES, DISK)
    own.check_limits(dict.fromkeys(own.LIMITS), RULES, DISK)
    own.check_env({"A": "", "_b1": "c"})
    endless = replace(
        RULES, resources=Resources(memory_max="infinity"), disk=Disk(quota="infinity")
    )
    own.check_limits({"memory": "8G", "quota": "100G"}, endless, DISK)
    with pytest.raises(SeraiError, match="9G is more than the 8192 MiB"):
        own.check_limits({"memory": "9G"}, endless, DISK)


def test_the_less_of_both_counts_also_after_the_settings_were_lowered() -> None:
    mine = Own({"memory": "3G", "cpus": "1.5", "tasks": "900"})
    assert dict(own.properties(RULES, mine)) == {
        "MemoryMax": ("t", 3 * GIB),
        "TasksMax": ("t", 900),
        "CPUQuotaPerSecUSec": ("t", 1_500_000),
    }
    odd = dict(own.properties(RULES, Own({"memory": str((64 << 20) + 5000)})))
    assert odd["MemoryMax"] == ("t", (64 << 20) + 4096), "whole pages"
    lower = replace(RULES, resources=Resources(memory_max="25%", tasks_max=100))
    found = dict(own.properties(lower, mine))
    assert (found["MemoryMax"], found["TasksMax"]) == (("t", 2 * GIB), ("t", 100))


def test_without_limits_of_its_own_the_settings_count() -> None:
    endless = replace(RULES, resources=Resources(memory_max="infinity", tasks_max=7))
    assert dict(own.properties(endless, Own())) == {
        "MemoryMax": ("t", NO_LIMIT),
        "TasksMax": ("t", 7),
        "CPUQuotaPerSecUSec": ("t", NO_LIMIT),
    }
    assert own.effective(RULES, Own()) == RULES


def test_its_variables_override_those_of_the_settings() -> None:
    rules = replace(RULES, environment={"A": "vm", "B": "vm"})
    found = own.effective(rules, Own(env={"A": "mine"}))
    assert found.environment == {"A": "mine", "B": "vm"}


def test_a_change_leaves_the_rest_and_none_takes_away() -> None:
    before = {"A": "1", "B": "2", "C": "3"}
    assert own.merged(before, {"A": None, "B": "", "D": "4"}) == {"B": "", "C": "3", "D": "4"}


def test_it_is_the_same_after_it_was_stored() -> None:
    mine = Own({"memory": "1G"}, {"A": "b"})
    assert Own(**mine.stored()) == mine
    assert Own().stored() == {}
