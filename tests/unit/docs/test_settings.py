"""docs/settings.md against the dataclasses that read the files, and the errors that name it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serai.common.errors import SeraiError
from serai.common.tables import setting
from serai.gate import profiles
from serai.gate import settings as gate_settings
from serai.gate.policy.bindings import Binding
from serai.image.commands import settings_page
from serai.runtime import settings as session_settings
from serai.runtime.folders.shares import Share
from tests.conftest import ROOT

PAGE = ROOT / settings_page.PAGE
TABLES = (
    *(session_settings.Limits, session_settings.Resources, session_settings.Disk),
    *(gate_settings.Limits, gate_settings.Timeouts, gate_settings.Audit, gate_settings.Upstream),
    *(profiles.Profile, Binding, Share),
)


def test_the_page_about_settings_is_what_the_code_says() -> None:
    assert PAGE.read_text() == settings_page.text(), "run 'invoke docs'"


def test_every_variable_of_the_role_stands_at_the_key_that_it_writes() -> None:
    (file,) = [file for file in settings_page._FILES if file.variables]
    written, table = {}, ""
    template = (ROOT / "roles/runtime/templates/session.toml.j2").read_text()
    for line in template.splitlines():
        if heading := re.fullmatch(r"\[(\w+)\]", line):
            table = heading[1]
        if key := re.match(r"(\w+) = \{\{ (runtime_\w+)", line):
            written[f"{table}.{key[1]}".lstrip(".")] = key[2]
        elif loop := re.match(r"\{% for .* in (runtime_\w+)", line):
            written[table] = loop[1]
    assert file.variables == written
    adds = {"runtime_own_authorities"}  # to a table that has a variable of its own
    assert set(written.values()) | adds == set(re.findall(r"\bruntime_\w+", template))
    for name, variable in written.items():
        assert re.search(
            rf"^\| `{name.split('.')[-1]}` \|.*\| `{variable}` \|", PAGE.read_text(), re.M
        )


@pytest.mark.parametrize("kind", TABLES, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_key_has_a_row_and_a_meaning(kind: Any) -> None:
    rows = [row.split(" | ") for row in PAGE.read_text().splitlines() if row.startswith("| `")]
    for entry in settings_page._keys(kind):
        meanings = [row[-1].rstrip(" |") for row in rows if row[0] == f"| `{entry.name}`"]
        assert entry.metadata["help"].replace("|", "\\|") in meanings, entry.name
        assert all(meanings), entry.name


@dataclasses.dataclass(frozen=True)
class _Made:
    """A table with ``keys`` of many kinds."""

    size: int = setting(7, "how large", minimum=1, maximum=1 << 40)
    kind: str = setting("", "this | or that", choices=("this", "that"))
    names: tuple[str, ...] = setting(("a", "b"), "who")
    on: bool | None = setting(None, "whether")


def test_a_row_has_name_type_default_range_and_meaning() -> None:
    section = settings_page._section(settings_page._File("x.toml", _Made, "It is an example."))
    assert section.splitlines()[1:] == [
        "## x.toml",
        "",
        "It is an example.",
        "",
        "| key | type | default | range | meaning |",
        "|---|---|---|---|---|",
        "| `size` | whole number | `7` | 1 to 1099511627776 | how large |",
        "| `kind` | text | see the meaning | `this`, `that` | this \\| or that |",
        '| `names` | list of texts | `["a", "b"]` |  | who |',
        "| `on` | true or false | see the meaning |  | whether |",
    ]


@pytest.mark.parametrize(
    ("load", "heading"),
    [
        (session_settings.load, "session.toml"),
        (gate_settings.load, "gate.toml"),
        (profiles.read, "policy.d"),
    ],
)
def test_an_error_names_the_page_and_its_heading(
    load: Callable[[Path], object], heading: str, tmp_path: Path
) -> None:
    file = tmp_path / "file.toml"
    file.write_text("unknown = 1\n")
    with pytest.raises(SeraiError) as caught:
        load(file)
    assert caught.value.hint == f"see {heading} in {settings_page.PAGE}"
    assert f"\n## {heading}" in PAGE.read_text()
