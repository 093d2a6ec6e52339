"""What ``serai set`` and ``serai create`` ask for, and how ``serai show`` tells use and limits."""

from __future__ import annotations

from typing import Any

import pytest

from serai.runtime.cli import limits
from serai.runtime.cli.main import parser


def params(*words: str) -> dict[str, Any]:
    options = parser().parse_args(words)
    return (limits.of_set if words[0] == "set" else limits.of_create)(options)


def test_a_change_gives_takes_away_and_leaves() -> None:
    changes = (
        "--memory",
        "1G",
        "--cpus",
        "default",
        "--label",
        "a=",
        "--label",
        "b",
        "--env",
        "A=b=c",
    )
    assert params("set", "one", *changes) == {
        "name": "one",
        "labels": {"a": "", "b": None},
        "limits": {"memory": "1G", "cpus": None},
        "env": {"A": "b=c"},
    }


def test_times_are_limits_too() -> None:
    wanted = {"idle_freeze": "10m", "ttl": "8h"}
    assert params("create", "--idle-freeze", "10m", "--ttl", "8h")["limits"] == wanted
    changes = params("set", "one", "--idle-freeze=default", "--ttl", "1d")
    assert changes["limits"] == {"idle_freeze": None, "ttl": "1d"}


def test_an_older_vm_is_asked_for_nothing_new() -> None:
    assert params("create", "--label", "a=b") == {"labels": {"a": "b"}}
    wanted = {"labels": {}, "limits": {"tasks": "99"}, "env": {"A": "b"}}
    assert params("create", "--tasks", "99", "--env", "A=b") == wanted


def test_a_new_session_has_no_label_to_lose(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        params("create", "--label", "a")
    assert "'a' is not K=V" in capsys.readouterr().err


def test_use_is_shown_next_to_its_limit(capsys: pytest.CaptureFixture[str]) -> None:
    usage = {
        **{"memory": 120 << 20, "memory_peak": 300 << 20, "memory_limit": 1 << 30},
        **{"cpu_seconds": 12.34, "cpu_limit": 1.5, "cpu_waited": 0.75},
        **{"tasks": 14, "tasks_limit": 512, "tasks_refused": 3, "sent": 10, "received": 20},
    }
    limits.show({"usage": usage, "limits": {"memory": "1G", "cpus": "1.5"}, "env": {"A": "b"}})
    assert capsys.readouterr().out.splitlines() == [
        "memory: 120 MiB of 1024 MiB, at most 300 MiB so far",
        "cpu: 12.3 s, at most 1.5 CPUs, waited for 0.8 s",
        "tasks: 14 of 512, 3 refused",
        "egress: 10 bytes sent, 20 received",
        "own limits: memory=1G cpus=1.5",
        "env: A=b",
    ]
    limits.show({"usage": {**dict.fromkeys(usage), "cpu_seconds": 1.0}})
    assert capsys.readouterr().out.splitlines() == ["cpu: 1.0 s"], "with cgroup v1"
    limits.show({"usage": None, "limits": {}, "env": {}})
    assert capsys.readouterr().out == ""
