"""``serai metrics`` with a real sessiond and gate, as a person's command and as an HTTP answer."""

from __future__ import annotations

from tests.support.fake_vm import Vm
from tests.support.openmetrics import values


def test_sessions_and_what_they_did_at_the_gate_are_told(vm: Vm, name: str) -> None:
    asked = vm.serai("exec", name, "--", "curl", "-s", "http://203.0.113.9/")
    assert asked.returncode == 0, asked.stderr  # the gate's own answer: it is denied
    done = vm.serai("metrics")
    assert (done.returncode, done.stderr) == (0, "")
    assert values(done.stdout, "serai_session_state") == {(name, "ready"): 1}
    assert values(done.stdout, "serai_service_up") == {("sessiond",): 1, ("gate",): 1}
    decisions = values(done.stdout, "serai_session_egress_decisions")
    assert decisions == {(name, "denied"): 1, (name, "allowed"): 0}


def test_a_scraper_gets_them_by_http(vm: Vm, name: str) -> None:
    answer = vm.answered_by_http(b"GET /metrics HTTP/1.1\r\nHost: vm\r\n\r\n")
    head, _, body = answer.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text;")
    assert f"Content-Length: {len(body.encode())}" in head
    assert values(body, "serai_session_state")[name, "ready"] == 1
