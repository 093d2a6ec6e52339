"""``serai health`` with a real sessiond and gate: well, and with each of them hung or gone."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.fake_vm import DEADLINE, Vm
from tests.support.waiting import wait_for


def asked(vm: Vm) -> tuple[int, dict[str, Any]]:
    """The exit status, and each check's status and detail by name."""
    done = vm.serai("health", "--json")
    assert done.stderr == ""
    answer = json.loads(done.stdout)
    assert done.returncode == int(answer["status"] == "unhealthy")
    return done.returncode, {each["name"]: each for each in answer["checks"]}


@contextmanager
def hung(process: subprocess.Popen[bytes] | None) -> Iterator[None]:
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def test_a_vm_that_is_well_says_so(vm: Vm, name: str) -> None:
    status, found = asked(vm)
    assert status == 0, found
    wanted = {"sessiond", "gate", "versions", "audit", "disk", "root", "run", "memory", "clock"}
    assert set(found) == wanted | {"pool"}
    assert found["sessiond"]["detail"] == "1 of 1 sessions run"
    assert found["gate"]["status"] == found["audit"]["status"] == "healthy"
    shown = vm.serai("health").stdout.splitlines()
    assert shown[0].startswith(("healthy, Serai ", "degraded, Serai "))
    assert len(shown) == 1 + len(found)


def test_a_gate_that_hangs_keeps_nobody_waiting(vm: Vm) -> None:
    begin = time.monotonic()
    with hung(vm.gate):
        status, found = asked(vm)
    assert time.monotonic() - begin < DEADLINE
    assert status == 1
    assert found["gate"]["detail"] == "it does not answer within 1 s"
    assert "audit" not in found, "nobody knows"
    wait_for(lambda: asked(vm)[0] == 0)


def test_a_gate_that_is_gone_is_told(vm: Vm) -> None:
    vm.kill_gate()
    status, found = asked(vm)
    assert (status, found["gate"]["status"]) == (1, "unhealthy")
    vm.start_gate()
    wait_for(lambda: asked(vm)[0] == 0)


def test_a_sessiond_that_hangs_or_is_gone_is_told(vm: Vm) -> None:
    with hung(vm.daemon):
        status, found = asked(vm)
    assert (status, list(found)) == (1, ["sessiond"])
    assert "timed out" in found["sessiond"]["detail"]
    vm.kill()
    status, found = asked(vm)
    assert (status, list(found)) == (1, ["sessiond"])
    assert "cannot reach sessiond" in found["sessiond"]["detail"]
    far = vm.serai("--vm", f"unix://{vm.paths.control}", "health", "--json")
    assert (far.returncode, json.loads(far.stdout)["checks"][0]["name"]) == (1, "connection")
    vm.start()


def test_a_log_that_is_lost_is_told(vm: Vm) -> None:
    """What is open is still written, and is nowhere."""
    vm.paths.audit.rename(vm.root / "elsewhere")
    assert asked(vm)[0] == 0
    for file in (vm.root / "elsewhere").iterdir():
        file.unlink()
    status, found = asked(vm)
    assert status == 1
    assert found["audit"]["detail"] == "the audit log cannot be written: its directory was removed"
    vm.paths.audit.mkdir()
    vm.kill_gate()
    vm.start_gate()
    wait_for(lambda: asked(vm)[0] == 0)


def test_a_load_balancer_gets_a_status_of_http(vm: Vm) -> None:
    request = b"GET /health HTTP/1.1\r\nHost: vm\r\n\r\n"
    head, _, body = vm.answered_by_http(request).partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 OK\r\nContent-Type: application/json")
    assert json.loads(body)["status"] in ("healthy", "degraded")
    vm.kill_gate()
    assert vm.answered_by_http(request).startswith("HTTP/1.1 503 ")
    assert vm.answered_by_http(b"HEAD" + request[3:]).endswith("\r\n\r\n")
