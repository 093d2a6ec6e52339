"""The commands of docs/tutorials: which are run where, and what they are said to show.

A comment before a block of code says what it is: ``<!-- run: WHERE -->`` for commands that a test
runs, ``<!-- shows -->`` for what those before it print. There ``…`` stands for any text of a line.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from tests.conftest import ROOT

_BLOCK = re.compile(r"<!-- (run: (\w+)|shows) -->\n```\w+\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """Commands for a shell, where to run them, and the lines that they show among others."""

    where: str
    commands: str
    shows: tuple[str, ...] = ()


def blocks(page: str) -> list[Block]:
    """The blocks of a page that are run, in order."""
    text = (ROOT / "docs/tutorials" / page).read_text()
    found: list[Block] = []
    for what, where, content in _BLOCK.findall(text):
        if what == "shows":
            found[-1] = replace(found[-1], shows=tuple(content.splitlines()))
        else:
            found.append(Block(where, content))
    assert len(found) + sum(bool(each.shows) for each in found) == text.count("\n<!-- ")
    return found


def missing(shows: tuple[str, ...], output: str) -> list[str]:
    """The lines that the output does not have, or not in this order."""
    lines = iter(output.splitlines())
    return [
        line
        for line in shows
        if not any(re.fullmatch(re.escape(line).replace("…", ".*"), each) for each in lines)
    ]


def follow(page: str, where: str, shell: Callable[[str], str]) -> None:
    """Run a page's commands with ``shell``, which returns what they print, and compare."""
    followed = blocks(page)
    assert followed
    assert {block.where for block in followed} == {where}
    for block in followed:
        output = shell(f"set -eu\n{block.commands}")
        assert missing(block.shows, output) == [], f"{block.commands}\nshows:\n{output}"
