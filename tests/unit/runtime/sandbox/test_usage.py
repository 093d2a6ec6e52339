"""What a cgroup's files say of use and limits."""

from __future__ import annotations

from pathlib import Path

from serai.runtime.sandbox import usage


def test_a_cgroup_tells_what_is_used_and_what_was_refused(tmp_path: Path) -> None:
    for name, text in {
        "memory.current": "4096\n",
        "memory.peak": "8192\n",
        "memory.max": "1048576\n",
        "memory.stat": "anon 1000\nfile 5000\nshmem 100\nkernel_stack 10\n",
        "pids.current": "3\n",
        "pids.max": "max\n",
        "pids.events": "max 7\n",
        "cpu.stat": "usage_usec 1500000\nuser_usec 1000000\nthrottled_usec 250000\n",
        "cpu.max": "150000 100000\n",
    }.items():
        (tmp_path / name).write_text(text)
    assert usage.used(tmp_path) == {
        "memory": 4096,
        "memory_peak": 8192,
        "memory_limit": 1 << 20,
        "cpu_seconds": 1.5,
        "cpu_limit": 1.5,
        "cpu_waited": 0.25,
        "tasks": 3,
        "tasks_limit": None,
        "tasks_refused": 7,
    }
    assert usage.cpu_seconds(tmp_path) == 1.5
    assert usage.held(tmp_path) == 1110, "files on the disk can be taken back"


def test_what_a_kernel_does_not_count_is_null(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert set(usage.used(tmp_path).values()) == {None}
    assert usage.cpu_seconds(tmp_path) is None
    assert usage.held(tmp_path / "gone") == 0
