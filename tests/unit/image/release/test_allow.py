"""Reviewed lists: every line has a reason, and is needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from serai.image.errors import BuildError
from serai.image.release import allow


@pytest.mark.parametrize("name", ["privileged", "refused", "writable"])
def test_our_own_lists_can_be_read(name: str) -> None:
    rules = allow.load(name)
    assert list(rules)
    assert len({rule.pattern for rule in rules}) == len(list(rules)), "none is there twice"


def test_a_line_without_a_reason_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("# comment\n\netc/x   because\netc/y\n")
    with pytest.raises(BuildError, match=r"list\.txt:4: etc/y has no reason"):
        allow.parse(tmp_path / "list.txt")


@pytest.fixture
def rules(tmp_path: Path) -> Iterator[allow.Rules]:
    path = tmp_path / "list.txt"
    lines = ["etc/*  settings", "etc/hosts  never the first", "var/[ab]?c  a blank"]
    path.write_text("\n".join([*lines, "srv/*  at times: guests"]))
    yield allow.parse(path)


def test_the_first_rule_counts_and_what_is_not_used_is_told(rules: allow.Rules) -> None:
    assert rules.find("etc/ssh/sshd_config") == allow.Rule("etc/*", "settings")
    assert rules.find("etc/hosts") == allow.Rule("etc/*", "settings")
    assert rules.find("var/a c") == allow.Rule("var/[ab]?c", "a blank")
    assert rules.find("usr/etc/x") is None
    assert [rule.pattern for rule in rules.unused()] == ["etc/hosts"]
