"""The reference names every method, parameter and command there is."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import pytest

from serai.runtime import cli, cli_folders, errors, states
from serai.runtime.methods import Methods

DOCS = Path(__file__).resolve().parents[2] / "docs"


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


COMMANDS = ("create", "list", "show", "exec", "shell", "switch", "gc", "policy", "audit")


@pytest.mark.parametrize("name", sorted({*COMMANDS, *cli_folders.COMMANDS}))
def test_a_command_is_described(name: str) -> None:
    assert f"`serai {name}" in (DOCS / "reference-commands.md").read_text()
    assert f"{name} " in cli.parser().format_help()


def test_states_and_errors_are_described() -> None:
    commands, rpc = ((DOCS / name).read_text() for name in ("reference-commands.md", "rpc.md"))
    assert all(f"`{state.value}`" in commands for state in states.State)
    codes = {value for key, value in vars(errors).items() if key.isupper() and 0 < value < 100}
    assert all(f"| {code} " in rpc or f", {code} |" in rpc for code in codes - {10})
