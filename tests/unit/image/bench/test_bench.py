"""Budgets: what is compared with what."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from serai.common.errors import SeraiError
from serai.image.bench import bench
from serai.image.errors import BuildError
from serai.image.guest import (
    measure,
    measure_density,
    measure_fairness,
    measure_folders,
    measure_full,
    measure_gate,
    measure_kernel,
)
from serai.image.settings import Settings
from serai.runtime.client import Client
from serai.runtime.settings import load as load_settings


def measured(name: str, value: float, baseline: float | None) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": "ms", "baseline": baseline}


@pytest.mark.parametrize(
    ("name", "value", "baseline", "ok"),
    [
        ("create", 14.0, 4.0, True),
        ("create", 14.1, 4.0, False),
        ("idle memory", 4.0, None, True),
        ("idle memory", 4.1, None, False),
        ("exec, streamed", 1000.0, 1.0, None),
    ],
)
def test_a_budget_is_a_ratio_or_without_a_baseline_a_value(
    name: str, value: float, baseline: float | None, ok: bool | None
) -> None:
    row = bench.judged(measured(name, value, baseline))
    assert row.ok is ok
    assert (row.ratio is None) is (baseline is None)


def test_every_budget_is_measured_by_that_name() -> None:
    others = {"density", "ended", "fairness", "folders", "gate", "outside", "peers", "storm"}
    others |= {"fleet", "switch"}
    assert set(bench.GROUPS) == {*measure.GROUPS, *others}
    assert f"create, {measure.ARCHIVED:,} archived" in bench.BUDGETS
    assert f"archive, {measure.MANY:,} files" in bench.BUDGETS
    assert all(f"{count} creates at once, failed" in bench.BUDGETS for count in measure.BURSTS)
    for what in ("read", "write"):
        assert f"{measure_folders.TOLD[what]}, idmapped" in bench.BUDGETS


def test_a_vm_that_holds_too_few_sessions_is_over_its_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Few:
        """A VM that makes three sessions."""

        left = 3

        def call(self, method: str, *, name: str, **_: object) -> dict[str, Any]:
            self.left -= method == "create"
            if method == "create" and self.left < 0:
                raise SeraiError("no memory is left")
            return {"name": name, "status": 0}

    monkeypatch.setattr(measure_density, "available", lambda: 0)
    monkeypatch.setattr(measure_density.Crowd, "memory", lambda _: [])
    monkeypatch.setattr(measure_density.Crowd, "times", lambda _: {})
    found = [bench.judged(each) for each in measure_density.density(cast("Client", Few()), 20)]
    assert [(each.value, each.ok) for each in found] == [(17.0, False)]


def test_what_a_hostile_session_runs_is_python() -> None:
    for attack in measure_fairness.ATTACKS.values():
        compile(measure_fairness.INSIDE + attack, "attack", "exec")
    for pool in measure_kernel.POOLS:
        compile(measure_kernel.program(pool), "pool", "exec")
    for program in (
        measure_fairness.ASK,
        measure_full.MAKE,
        measure_full.FILL,
        measure_full.ASK % 1,
    ):
        compile(program, "program", "exec")


def test_a_digest_tells_of_every_byte_and_mode(tmp_path: Path) -> None:
    found = set()
    (tmp_path / "folder").mkdir()
    for change in ("a", "b"):
        (tmp_path / "folder/file").write_text(change)
        found.add(measure_full.digest(tmp_path))
    (tmp_path / "folder/file").chmod(0o600)
    found.add(measure_full.digest(tmp_path))
    (tmp_path / "folder/file").unlink()
    assert len(found | {measure_full.digest(tmp_path)}) == 4


@pytest.mark.parametrize("text", ["", '[disk]\nquota = "20%"\nact_free = 0\n', "hostname = 'a'\n"])
def test_settings_without_quotas(text: str, tmp_path: Path) -> None:
    file = tmp_path / "session.toml"
    file.write_text(measure_full.unlimited(text))
    disk = load_settings(file).disk
    assert (disk.quota, disk.files) == ("infinity", "infinity")


def test_an_unknown_group_is_told(checkout: Settings) -> None:
    with pytest.raises(BuildError, match=r"no group 'speed'; there are memory, start"):
        bench.bench(checkout, only="speed", check=False)


def test_the_p99_is_not_exceeded_by_one_in_a_hundred() -> None:
    assert measure_gate.p99([float(n) for n in range(200)]) == 197.0
    assert measure_gate.p99([3.0]) == 3.0


def test_what_is_not_answered_is_a_failure() -> None:
    many = 20
    with socket.create_server(("127.0.0.1", 0), backlog=many) as listener:

        def serve() -> None:
            for number in range(many):
                client, _ = listener.accept()
                with client:
                    client.recv(100)
                    client.sendall(
                        b"HTTP/1.1 503 no\r\n\r\n" if number % 5 else b"HTTP/1.1 200 OK\r\n\r\n"
                    )

        thread = threading.Thread(target=serve)
        thread.start()
        port = listener.getsockname()[1]
        answer = measure_gate.at_once(port, [b"x"] * many, measure_gate.established)
        thread.join()
    assert answer["failed"] == many * 4 // 5
    assert answer["seconds"] > 0


def test_folders_are_measured_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_folders, "PIECES", 2)
    monkeypatch.setattr(measure_folders, "TURNS", 3)
    folders = {name: str(tmp_path / name) for name in measure_folders.LANES}
    for folder in folders.values():
        Path(folder).mkdir()
    took = measure_folders.work(folders)
    assert set(took) == set(measure_folders.TOLD)
    assert all(set(lanes) == set(folders) and min(lanes.values()) > 0 for lanes in took.values())
    sizes = {path.relative_to(tmp_path): path.stat().st_size for path in tmp_path.glob("*/*")}
    assert sizes == {Path(name, "large"): 2 << 20 for name in folders}
