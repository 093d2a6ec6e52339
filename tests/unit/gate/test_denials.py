"""A denial says what would help, and only that."""

from __future__ import annotations

import json
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address

import pytest

from serai.gate import denials
from serai.gate.errors import Denied, Unreachable
from serai.gate.policy.hosts import Host, Target

TARGET = Target("example.com", 443)


@pytest.mark.parametrize(
    ("denial", "ask"),
    [
        (Denied("default deny", "no rule allows it"), "serai policy allow blue example.com:443"),
        (Denied("private range", "why", "10.0.0.1:443"), "serai policy allow blue 10.0.0.1:443"),
        (Denied("deny *.com", "a rule forbids it"), "serai policy show blue"),
        (Denied("own address 8.8.8.8", "it is this VM's"), ""),
    ],
)
def test_a_denial_says_what_to_ask_for(denial: Denied, ask: str) -> None:
    status, text, data = denials.denied("blue", TARGET, denial)
    assert (status, data["ask"], data["rule"]) == (403, ask, denial.rule)
    assert text.splitlines()[0].endswith(f"{denial.reason} ({denial.rule}).")
    assert "policy allow" not in text if "allow" not in ask else text.endswith(f"with: {ask}\n")


@pytest.mark.parametrize(
    "host", ["serai", "localhost", "app.localhost", IPv4Address("127.0.1.1"), IPv6Address("::")]
)
def test_who_asks_the_gate_for_its_own_server_is_sent_past_it(host: Host) -> None:
    target = Target(host, 8000)
    _, text, data = denials.denied("blue", target, Denied("default deny", "no rule allows it"))
    own = "to reach your own server, do not use the proxy (default deny)."
    assert text.splitlines()[0] == f"Serai's gate denied {target} to session blue: {own}"
    assert f"NO_PROXY={host}." in text
    assert data["reason"] == "no rule allows it"


def test_nothing_is_called_allowed_while_no_decision_can_be_written_down() -> None:
    failure = Unreachable(Unreachable.NOT_RECORDED, "the audit log cannot be written: full")
    status, text, _ = denials.unreachable(TARGET, failure)
    assert (status, text) == (502, f"Serai's gate lets nobody out at present: {failure}.\n")
    status, text, _ = denials.unreachable(TARGET, Unreachable(Unreachable.TIMEOUT, "why"))
    assert (status, text) == (504, f"Serai's gate allows {TARGET} but cannot reach it: why.\n")


def test_the_reason_phrase_is_the_first_line_and_the_last_line_is_json() -> None:
    answer = denials.response(*denials.denied("blue", TARGET, Denied("default deny", "why")))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 403 Serai's gate denied example.com:443 to session blue: why")
    assert json.loads(body.splitlines()[-1])["host"] == "example.com"
    only = denials.response(
        *denials.denied("blue", TARGET, Denied("default deny", "why")), as_json=True
    )
    assert json.loads(only.partition(b"\r\n\r\n")[2])["error"] == "denied"


def test_an_answer_without_a_body_has_the_head_of_one_with_it() -> None:
    whole = denials.response(HTTPStatus.BAD_GATEWAY, "no answer\n")
    assert denials.response(HTTPStatus.BAD_GATEWAY, "no answer\n", bodyless=True) == (
        whole.removesuffix(b"no answer\n")
    )
    assert whole.endswith(b"\r\n\r\nno answer\n")
