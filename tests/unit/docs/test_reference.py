"""The reference names every method, parameter and command there is."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, cast

import pytest

from serai.runtime import errors
from serai.runtime.api.methods import Methods
from serai.runtime.cli import folders, main
from serai.runtime.sessions import states
from tests.conftest import ROOT

DOCS = ROOT / "docs"
TESTS = DOCS.with_name("tests")


class Nowhere:
    """Stands for the sessions, which describing the methods does not take."""


METHODS = Methods(*(cast(Any, Nowhere()) for _ in range(3))).table


@pytest.mark.parametrize("method", METHODS)
def test_a_method_and_its_parameters_are_described(method: str) -> None:
    rows = [row for row in (DOCS / "rpc.md").read_text().splitlines() if f"`{method}`" in row]
    kind: Any = METHODS[method][0]
    for field in dataclasses.fields(kind):
        assert any(f"`{field.name}`" in row for row in rows if row.startswith("|")), field.name
    assert rows


COMMANDS = ("create", "list", "show", "exec", "shell", "switch", "gc", "policy", "audit", "doctor")


@pytest.mark.parametrize("name", sorted({*COMMANDS, *folders.COMMANDS}))
def test_a_command_is_described(name: str) -> None:
    assert f"`serai {name}" in (DOCS / "reference-commands.md").read_text()
    assert f"{name} " in main.parser().format_help()


def test_states_and_errors_are_described() -> None:
    commands, rpc = ((DOCS / name).read_text() for name in ("reference-commands.md", "rpc.md"))
    assert all(f"`{state.value}`" in commands for state in states.State)
    codes = {value for key, value in vars(errors).items() if key.isupper() and 0 < value < 100}
    assert all(f"| {code} " in rpc or f", {code} |" in rpc for code in codes - {10})


def test_the_tests_that_the_security_model_names_exist() -> None:
    """By a part of a module's or test's name, or by a case of a test."""
    paths = sorted(TESTS.rglob("*.py"))
    text = "\n".join(path.read_text() for path in paths)
    there = [
        *(path.stem for path in paths),
        *re.findall(r"\bdef (test_\w+)", text),
        *re.findall(r'"(\w+)": {', text),
    ]
    rows = [row for row in (DOCS / "security.md").read_text().splitlines() if row[:2] == "| "]
    named = {
        word for row in rows for word in re.findall(r"[a-z0-9]+(?:_[a-z0-9]+)+", row.split("|")[-2])
    }
    assert len(named) > 30
    assert [word for word in sorted(named) if not any(word in name for name in there)] == []
