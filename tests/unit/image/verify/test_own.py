"""The checks that an image brings itself."""

from __future__ import annotations

import pytest

from serai.common.checks import judge
from serai.image.definition.definition import OwnCheck
from serai.image.verify import own
from serai.image.verify.facts import Ran
from tests.support.evidence import IMAGE, broken

TOOL = OwnCheck(name="the tool runs", command=("tool", "--version"), output=r"^tool 1\.")


@pytest.mark.parametrize(
    ("status", "output", "detail"),
    [
        (0, "warning\ntool 1.2\n", ""),
        (0, "tool 2.0\n", r"tool --version printed: tool 2.0; looked for: ^tool 1\."),
        (1, "tool 1.2\n", "tool --version ended with 1 and printed: tool 1.2"),
        (127, "", "tool --version ended with 127 and printed: nothing"),
    ],
)
def test_a_command_has_to_end_well_and_print_what_is_wanted(
    status: int, output: str, detail: str
) -> None:
    found = own.judged(TOOL, Ran(status=status, output=output))
    assert found.problems == ([detail] if detail else [])


def test_each_is_a_check_by_its_own_name_and_fails_if_it_was_not_run() -> None:
    image = IMAGE.model_copy(update={"checks": (TOOL, OwnCheck(name="b", command=("true",)))})
    ran = [{"status": 0, "output": "tool 1.0"}, {"status": 3, "output": ""}]
    results = judge(broken(("own", ran)), {own.PART: 1.5}, own.checks(image))
    assert [(each.check.name, each.ok, each.seconds) for each in results] == [
        ("the tool runs", True, 1.5),
        ("b", False, 1.5),
    ]
    results = judge(broken(("own", "no answer")), {}, own.checks(image))
    assert [(each.ok, each.detail) for each in results] == 2 * [(False, "not seen: no answer")]
