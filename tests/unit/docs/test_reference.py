"""The reference names every method, parameter and command there is."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from typing import Any, cast

import pytest

from serai.common import errors
from serai.runtime.api.methods import Methods
from serai.runtime.cli import folders, main
from serai.runtime.folders import hints
from serai.runtime.sessions import states
from tests.conftest import ROOT

DOCS = ROOT / "docs"
TESTS = DOCS.with_name("tests")


NAMES = r"`test_\w+`(,\s+`test_\w+`)*\."


class Nowhere:
    """Stands for the sessions, which describing the methods does not take."""


METHODS = Methods(*(cast(Any, Nowhere()) for _ in range(5))).table


@pytest.mark.parametrize("method", METHODS)
def test_a_method_and_its_parameters_are_described(method: str) -> None:
    rows = [row for row in (DOCS / "rpc.md").read_text().splitlines() if f"`{method}`" in row]
    kind: Any = METHODS[method][0]
    for field in dataclasses.fields(kind):
        assert any(f"`{field.name}`" in row for row in rows if row.startswith("|")), field.name
    assert rows


def commands() -> list[str]:
    """Every command that the parser of ``serai`` has."""
    (found,) = [
        action
        for action in main.parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    ]
    return sorted(found.choices)


def test_the_commands_are_found() -> None:
    assert {"create", "exec", "policy", *main.SIMPLE, *folders.COMMANDS} <= set(commands())


@pytest.mark.parametrize("name", commands())
def test_a_command_is_described(name: str) -> None:
    assert re.search(rf"`serai {name}\b", (DOCS / "reference-commands.md").read_text())


def test_the_hints_are_described() -> None:
    page = (DOCS / "folders.md").read_text().split("\n## Hints")[1].split("\n## ")[0]
    schema = json.loads((hints.DATA / "hints.schema.json").read_text())
    keys = set(schema["properties"]) - {"roles"}
    keys |= {f"roles[].{key}" for key in schema["properties"]["roles"]["items"]["properties"]}
    rows = "".join(row.split(" | ")[0] for row in page.splitlines() if row.startswith("| `"))
    assert set(re.findall(r"`([^`]+)`", rows)) == keys


def test_states_and_errors_are_described() -> None:
    commands, rpc = ((DOCS / name).read_text() for name in ("reference-commands.md", "rpc.md"))
    assert all(f"`{state.value}`" in commands for state in states.State)
    codes = {value for key, value in vars(errors).items() if key.isupper() and 0 < value < 100}
    assert all(f"| {code} " in rpc or f", {code} |" in rpc for code in codes - {10})


def test_the_security_page_names_whole_tests_for_every_threat() -> None:
    """A threat is an item of a list; what it names has to be the exact name of a test."""
    there = {
        name
        for path in TESTS.rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    page = (DOCS / "security.md").read_text().split("\n## How a payload gets in")[0]
    assert set(re.findall(r"\btest_\w+\b(?!\.py)", page)) <= there
    threats = page.split("\n- **")[1:]
    assert len(threats) > 25
    for threat in threats:
        _, separator, tests = threat.partition("\n  Tests: ")
        assert separator, threat
        tests, reason, why = tests.partition("\n  No counterpart: ")
        tests, separator, without = tests.partition("\n  Without it: ")
        assert re.fullmatch(NAMES, tests), threat
        assert reason or separator, threat
        assert re.match(NAMES if separator else r"[^`.]{20,}\.", without or why), threat


def test_every_pool_that_the_page_calls_raised_is_in_the_roles_settings() -> None:
    page = (DOCS / "security.md").read_text().split("\n## Pools")[1].split("\n## ")[0]
    settings = (ROOT / "roles/limits/templates/sysctl.conf.j2").read_text()
    rows = [row for row in page.splitlines() if row.startswith("|") and "the role `limits`" in row]
    raised = [name for row in rows for name in re.findall(r"`((?:net|fs|kernel)\.[\w.-]+)`", row)]
    assert len(rows) >= 3
    assert [name for name in raised if f"\n{name} = " not in settings] == []


def test_the_indexes_list_every_decision_in_the_order_of_their_numbers() -> None:
    pages = sorted((DOCS / "decisions").glob("0*.md"))
    rows = []
    for path in pages:
        number, title = path.read_text().splitlines()[0].removeprefix("# ").split(". ", 1)
        rows.append(f"| {number} | [{title}]({path.name}) |")
    index = (DOCS / "decisions/README.md").read_text()
    assert [line for line in index.splitlines() if re.match(r"\| \d", line)] == rows
    site = (ROOT / "mkdocs.yml").read_text()
    assert re.findall(r"- decisions/(0.*)", site) == [path.name for path in pages]
