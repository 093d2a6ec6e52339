"""docs/programs.md has what `invoke programs` tries, and what it is known to do."""

from __future__ import annotations

from serai.common.sandboxes import SANDBOXES
from tests.support import programs, table
from tests.support.programs import PAGE

PROGRAMS = programs.programs()
TABLE = PAGE.read_text().partition(programs.START)[2].partition(table.END)[0]
LINES = [line for line in TABLE.splitlines() if line.startswith("| ")][1:]


def test_each_program_has_its_row_and_each_row_its_program() -> None:
    assert [table.whose(line, PROGRAMS) for line in LINES] == list(PROGRAMS)


def test_a_row_says_what_the_data_says() -> None:
    for line, (name, program) in zip(LINES, PROGRAMS.items(), strict=True):
        known = {each: each in program.red for each in SANDBOXES}
        number = line.split(" | ", 1)[0].removeprefix(f"| {name}").strip()
        assert line == programs.row(name, program, number, known)


def test_what_does_not_run_has_a_remedy_or_a_reason() -> None:
    assert all(program.helps for program in PROGRAMS.values() if program.red)
    assert {name for each in PROGRAMS.values() for name in each.red} <= set(SANDBOXES)


def test_with_sockets_at_least_95_percent_run() -> None:
    red = sum("sockets" in each.red for each in PROGRAMS.values())
    assert len(PROGRAMS) >= 60
    assert red <= len(PROGRAMS) * 0.05


def test_the_rows_of_other_programs_stay() -> None:
    names = ["tsx", "tsx in Node.js", "make"]
    assert table.whose("| tsx 4.1 | does | yes | yes |  |", names) == "tsx"
    assert table.whose("| tsx in Node.js | does | yes | yes |  |", names) == "tsx in Node.js"
    assert not table.whose("| program | what was done |", names)
