"""Secrets of a running gate: they outlive it, however it ends, and nothing that it says has one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from serai.common.errors import SeraiError
from tests.support import gate_process
from tests.support.gate_process import Gated

VALUE = "sk-ant-" + "0123456789" * 4


@pytest.fixture
def gate() -> Iterator[Gated]:
    with gate_process.gate() as running:
        yield running


def names(gate: Gated) -> list[str]:
    return [each["name"] for each in gate.call("secret.list")["secrets"]]


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_they_outlive_the_gate(gate: Gated, number: signal.Signals) -> None:
    assert gate.call("secret.set", name="one", value=VALUE + "\n") is None
    gate.call("secret.set", name="two", value="other")
    gate.call("secret.remove", name="two")
    before = gate.call("secret.list")
    gate.restart(number)
    assert gate.call("secret.list") == before
    assert [each["problem"] for each in before["secrets"]] == [None]


def test_no_file_has_a_value_or_the_key(gate: Gated) -> None:
    gate.call("secret.set", name="one", value=VALUE)
    gate.restart(signal.SIGTERM)
    found = files(gate.paths.root)
    assert any(path.endswith("/secrets/one.secret") for path in found)
    assert not gate.paths.gate_key.exists()
    for content in found.values():
        assert VALUE.encode() not in content
        assert gate_process.KEY not in content


def test_no_error_quotes_a_value(gate: Gated) -> None:
    wrong: list[dict[str, object]] = [
        {"name": "one", "value": VALUE + "\n\n"},
        {"name": VALUE + "!", "value": "x"},
        {"name": "one", "value": VALUE + "ü"},
        {"name": "one", "value": [VALUE]},
        {"name": "one", "value": {VALUE: VALUE}},
        {"name": "one", "value": VALUE + "\ud800"},
        {"name": "one", "value": VALUE * 1000},
        {"name": [], "value": VALUE},
        {"value": VALUE},
        {"name": "one", "value": VALUE, "more": VALUE},
        {"name": "one", "value": 12345678901},
    ]
    for params in wrong:
        with pytest.raises(SeraiError) as caught:
            gate.call("secret.set", **params)
        said = f"{caught.value.message} {caught.value.hint} {gate.log.read_text()}"
        assert VALUE not in said
        assert "12345678901" not in said
    assert names(gate) == []


def test_another_vms_secrets_keep_no_gate_from_starting(
    gate: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.call("secret.set", name="one", value=VALUE)
    monkeypatch.setattr(gate_process, "KEY", bytes(32))
    gate.restart(signal.SIGTERM)
    (told,) = gate.call("secret.list")["secrets"]
    assert "set it again" in told["problem"]
    gate.call("secret.set", name="one", value="new")
    assert gate.call("secret.list")["secrets"][0]["problem"] is None


def test_without_a_key_the_gate_serves_and_has_no_secrets(
    gate: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_process, "KEY", b"")
    gate.restart(signal.SIGTERM)
    gate.open("blue", "127.0.0.1")
    for method, params in (
        ("secret.set", {"name": "one", "value": VALUE}),
        ("secret.list", {}),
        ("secret.remove", {"name": "one"}),
    ):
        with pytest.raises(SeraiError, match="the gate has no key of this VM"):
            gate.call(method, **params)
    assert "there are no secrets: the key has 0 bytes, not 32" in gate.log.read_text()
