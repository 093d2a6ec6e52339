"""Metrics: what the text says, what a session can do to it, and what an HTTP client gets."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from serai.common.errors import FAILED, GONE, SeraiError
from serai.common.labels import DOCTOR
from serai.runtime import metrics
from serai.runtime.cli import health
from serai.runtime.cli import metrics as command
from serai.runtime.client import Client
from tests.conftest import ROOT
from tests.support.openmetrics import parsed, values

PROMTOOL = shutil.which("promtool", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
QUOTA = {"bytes": 4096, "bytes_limit": 1 << 20, "files": 3, "files_limit": 0}


class FakeVm:
    """Stands for the connection to sessiond."""

    def __init__(self, count: int = 1, egress: SeraiError | None = None) -> None:
        self.sessions: list[dict[str, Any]] = [
            {"name": f"s{number}", "state": "ready", "used_at": number, "quota": QUOTA}
            | {"out_of_memory": 2, "labels": {"task": "secret"}}
            for number in range(count)
        ]
        self.egress = egress

    def call(self, method: str) -> dict[str, Any]:
        if method == "list":
            return {"sessions": self.sessions}
        if method == "health":
            checks = [{"name": "gate", "status": "healthy"}, {"name": "disk", "status": "degraded"}]
            return {"status": "degraded", "checks": checks}
        if method == "pool":
            return {"wanted": 4, "ready": 3, "making": 1, "taken": 9, "missed": 2, "problem": None}
        if self.egress is not None:
            raise self.egress
        counts = {"open": 1, "allowed": 5, "denied": 2, "sent": 10, "received": 20}
        return {"sessions": {each["name"]: counts for each in [*self.sessions, {"name": "new"}]}}

    def hung_up(self) -> bool:
        return False


@pytest.fixture
def cgroup(tmp_path: Path) -> Iterator[Path]:
    """A cgroup as the kernel shows one."""
    folder = tmp_path / "cgroup"
    folder.mkdir()
    for name, said in (("memory.current", "1000"), ("memory.peak", "2000"), ("pids.current", "7")):
        (folder / name).write_text(f"{said}\n")
    (folder / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\nthrottled_usec 250000\n")
    (folder / "memory.max").write_text("4000\n")
    (folder / "pids.events").write_text("max 3\n")
    yield folder


def collected(vm: FakeVm, tmp_path: Path, cgroup: Path | None = None) -> str:
    place = cgroup or tmp_path / "none"
    return metrics.text(metrics.collect(cast(Client, vm), tmp_path, lambda _: place))


def test_a_session_and_its_use_are_told(tmp_path: Path, cgroup: Path) -> None:
    text = collected(FakeVm(), tmp_path, cgroup)
    assert values(text, "serai_sessions") == {("ready",): 1}
    assert values(text, "serai_healthy") == {(): 1}
    assert values(text, "serai_health_check") == {("gate",): 0, ("disk",): 1}
    pool = {key: values(text, f"serai_pool_{key}") for key in ("wanted", "ready", "taken")}
    assert pool == {"wanted": {(): 4}, "ready": {(): 3}, "taken": {(): 9}}
    assert values(text, "serai_session_state") == {("s0", "ready"): 1}
    assert values(text, "serai_session_memory_bytes") == {("s0",): 1000}
    assert values(text, "serai_session_memory_peak_bytes") == {("s0",): 2000}
    assert values(text, "serai_session_cpu_seconds") == {("s0",): 1.5}
    assert values(text, "serai_session_tasks") == {("s0",): 7}
    assert values(text, "serai_session_memory_limit_bytes") == {("s0",): 4000}
    assert values(text, "serai_session_cpu_waited_seconds") == {("s0",): 0.25}
    assert values(text, "serai_session_tasks_refused") == {("s0",): 3}
    assert values(text, "serai_session_out_of_memory_kills") == {("s0",): 2}
    assert values(text, "serai_session_disk_bytes") == {("s0",): 4096}
    assert values(text, "serai_session_egress_open") == {("s0",): 1}
    decisions = values(text, "serai_session_egress_decisions")
    assert decisions == {("s0", "allowed"): 5, ("s0", "denied"): 2}
    assert values(text, "serai_session_egress_received_bytes") == {("s0",): 20}
    assert values(text, "serai_service_up") == {("sessiond",): 1, ("gate",): 1}


def test_a_session_that_does_not_run_has_no_use(tmp_path: Path) -> None:
    text = collected(FakeVm(), tmp_path)
    for family in ("memory_bytes", "cpu_seconds", "tasks", "out_of_memory_kills"):
        assert f"serai_session_{family}" not in parsed(text)
    assert values(text, "serai_session_disk_bytes") == {("s0",): 4096}


def test_what_a_kernel_does_not_count_is_left_out(tmp_path: Path, cgroup: Path) -> None:
    (cgroup / "memory.peak").unlink()  # before Linux 5.19
    text = collected(FakeVm(), tmp_path, cgroup)
    assert "serai_session_memory_peak_bytes" not in parsed(text)
    assert values(text, "serai_session_memory_bytes") == {("s0",): 1000}


def test_many_sessions_do_not_make_many_series(tmp_path: Path, cgroup: Path) -> None:
    vm = FakeVm(metrics.MOST_SESSIONS + 50)
    text = collected(vm, tmp_path, cgroup)
    states = values(text, "serai_session_state")
    assert len(states) == metrics.MOST_SESSIONS
    assert ("s49", "ready") not in states, "the one that was used longest ago comes last"
    assert values(text, "serai_sessions_left_out") == {(): 50}
    assert len(values(text, "serai_session_egress_open")) == metrics.MOST_SESSIONS
    assert text.count("\n") < 18 * metrics.MOST_SESSIONS


def test_sessions_of_the_doctor_are_not_told(tmp_path: Path) -> None:
    vm = FakeVm(2)
    vm.sessions[0]["labels"] = {DOCTOR: ""}
    text = collected(vm, tmp_path)
    assert values(text, "serai_sessions") == {("ready",): 1}
    assert set(values(text, "serai_session_egress_open")) == {("s1",)}


def test_labels_that_people_gave_are_not_told(tmp_path: Path) -> None:
    assert "secret" not in collected(FakeVm(), tmp_path)


@pytest.mark.parametrize(
    "name", ['a"b', "a\\", "a\nserai_session_tasks 9", 'x"} 1\n# EOF\n', "\ud800", "ä\u202e"]
)
def test_no_name_changes_the_text_around_it(name: str) -> None:
    samples: metrics.Samples = {"serai_session_tasks": [({"session": name}, 1)]}
    text = metrics.text(samples)
    told = name.encode(errors="replace").decode()
    assert values(text, "serai_session_tasks") == {(told,): 1}
    assert text.count("# EOF") == 1 + name.count("# EOF")


def test_a_gate_that_is_down_is_told_and_takes_nothing_else_away(tmp_path: Path) -> None:
    text = collected(FakeVm(egress=SeraiError("the gate does not answer", code=GONE)), tmp_path)
    assert values(text, "serai_service_up") == {("sessiond",): 1, ("gate",): 0}
    assert values(text, "serai_sessions") == {("ready",): 1}


def test_another_failure_is_no_metric(tmp_path: Path) -> None:
    with pytest.raises(SeraiError, match="broken"):
        collected(FakeVm(egress=SeraiError("broken", code=FAILED)), tmp_path)


def test_every_family_follows_the_rules_of_names(tmp_path: Path) -> None:
    everything: metrics.Samples = {each.name: [({}, 1)] for each in metrics.FAMILIES}
    assert len(parsed(metrics.text(everything))) == len(metrics.FAMILIES)
    for each in metrics.FAMILIES:
        assert not each.unit or each.name.endswith(f"_{each.unit}")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"200"),
        (b"GET /?a=b HTTP/1.0\r\n\r\n", b"200"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"200"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /etc/passwd HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metrics HTTP/2\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\n", b"400"),
        (b"\xff\x00\r\n\r\n", b"400"),
        (b"", b"400"),
        (b"GET /" + b"a" * command.LONGEST, b"400"),
    ],
)
def test_a_request_gets_what_it_asks_for(
    head: bytes, status: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "current", lambda: "serai 1\n# EOF\n")
    response = command.answer(head)
    assert response.startswith(b"HTTP/1.1 " + status)
    assert (b"# EOF" in response) == (status == b"200" and not head.startswith(b"HEAD"))
    assert b"etc/passwd" not in response


def test_a_sessiond_that_is_down_is_an_error_to_the_scraper(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> str:
        raise SeraiError("cannot reach\x1b sessiond", "start it", GONE)

    monkeypatch.setattr(command, "current", fail)
    response = command.answer(b"GET /metrics HTTP/1.1\r\n\r\n")
    assert response.startswith(b"HTTP/1.1 503 ")
    assert response.endswith(b"cannot reach? sessiond; start it\n")


@pytest.mark.parametrize(("status", "said"), [("degraded", b"200"), ("unhealthy", b"503")])
def test_a_load_balancer_is_told_by_the_status(
    status: str, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "asked", lambda: {"status": status, "checks": []})
    response = command.answer(b"GET /health HTTP/1.1\r\n\r\n")
    assert response.startswith(b"HTTP/1.1 " + said)
    assert json.loads(response.partition(b"\r\n\r\n")[2])["status"] == status
    assert command.answer(b"HEAD /health HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n")


@pytest.fixture
def pipe() -> Iterator[tuple[int, Callable[[bytes], None]]]:
    reader, writer = os.pipe()
    yield reader, lambda data: (os.write(writer, data), None)[1]
    os.close(reader)
    os.close(writer)


def test_a_client_that_says_nothing_is_not_waited_for(
    pipe: tuple[int, Callable[[bytes], None]],
) -> None:
    reader, write = pipe
    write(b"GET / HTTP/1.1\r\n")
    assert command.request(reader, 0.01) == b"GET / HTTP/1.1\r\n"


def test_a_head_that_comes_in_pieces_or_too_long_is_read_so_far(
    pipe: tuple[int, Callable[[bytes], None]],
) -> None:
    reader, write = pipe
    write(b"GET / HTTP/1.1\r\n\r\n")
    assert command.request(reader, 30) == b"GET / HTTP/1.1\r\n\r\n"
    write(b"a" * (command.LONGEST + 1000))
    assert len(command.request(reader, 30)) == command.LONGEST


def test_the_metrics_are_read_in_the_vm_only() -> None:
    with pytest.raises(SeraiError, match="in the VM"):
        command.main("ssh://root@vm", http=False)


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    panels = json.loads((ROOT / "docs/serai-dashboard.json").read_text())["panels"]
    targets = [target for panel in panels for target in panel.get("targets", [])]
    queries = [target["expr"] for target in targets]
    asked = {name for query in queries for name in _words(query) if name.startswith("serai_")}
    assert len(queries) > 8
    assert asked <= set(metrics.names())
    ids = [panel["id"] for panel in panels]
    assert len(ids) == len(set(ids))


def test_the_dashboards_page_can_draw_every_panel() -> None:
    """docs/serai-dashboard.html knows these, and no others."""
    page = (ROOT / "docs/serai-dashboard.html").read_text()
    for panel in json.loads((ROOT / "docs/serai-dashboard.json").read_text())["panels"]:
        assert panel["type"] in ("row", "stat", "timeseries")
        if panel["type"] == "row":
            continue
        unit = panel["fieldConfig"]["defaults"]["unit"]
        assert unit == "short" or re.search(rf'"{unit}"|\b{unit}: "', page), unit
        for target in panel["targets"]:
            assert "$instance" in target["expr"]
            assert set(re.findall(r"\$\w+", target["expr"])) == {"$instance"}
            assert re.sub(r"{{\w+}}", "", target["legendFormat"]).count("{") == 0


def test_the_alerts_ask_for_metrics_that_there_are() -> None:
    rules = alerts()
    asked = {name for rule in rules for name in _words(rule["expr"]) if name.startswith("serai_")}
    assert asked <= set(metrics.names())
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "why", "action"}


def test_the_page_and_the_fed_samples_have_every_alert() -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    fed = (ROOT / "tests/support/alerts.yml").read_text()
    for name in (rule["alert"] for rule in alerts()):
        assert f"`{name}`" in page
        assert f'alertname="{name}"' in fed


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool, which 'make setup' unpacks")
def test_every_alert_fires_for_what_is_ill_and_none_for_what_is_well() -> None:
    command = [str(PROMTOOL), "test", "rules", "tests/support/alerts.yml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((ROOT / "docs/serai-alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _words(query: str) -> list[str]:
    return "".join(c if c.isalnum() or c == "_" else " " for c in query).split()


def test_the_page_names_every_metric() -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    assert [name for name in metrics.names() if f"`{name}`" not in page] == []
