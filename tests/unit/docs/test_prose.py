"""The pages' English: words that a reader stumbles over, sentences and lines that are too long."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

# From the code and the roles' argument specs; a row can hold a long value.
GENERATED = {"doctor.md", "rehearsal.md", "roles.md", "settings.md"}
PAGES = sorted(
    path
    for pattern in ("README.md", "CONTRIBUTING.md", "docs/**/*.md")
    for path in ROOT.glob(pattern)
)

MACHINE = r"(?<!virtual )(?<!virtual-)\bmachines?\b(?! (?:ID|code)\b)"

LONGEST_LINE, LONGEST_ROW, MOST_WORDS = 100, 240, 40
"""In characters; a table's row cannot be broken. In words of a sentence."""

RIDDLES = {
    r"(?<!there )\bis no (?!longer)": "is not a",
    r"\bfolders?\b(?!\.md)": "directory",
    r"\banew\b": "again, or a new one",
    r"\bmeanwhile\b": "during it, or at the same time",
    r"\b(is|are|was|were) told\b": "say who tells whom",
    r"\b(somebody|whoever)\b": "say who: the administrator, a user, a program",
    r"^What [^?]*[^?]$": "begin with the thing itself",
}


def blocks(text: str) -> Iterator[str]:
    """The text's paragraphs, items and cells without code, addresses of links and headings."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`]*`", "CODE", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    for paragraph in re.split(r"\n\s*\n", text):
        if paragraph.startswith("    ") or paragraph.lstrip().startswith("#"):
            continue
        for item in re.split(r"\n\s*(?:[-*]|\d+\.) |(?<=\n)\| |\s\| ", f"\n{paragraph}"):
            yield " ".join(item.split())


def sentences(text: str) -> list[str]:
    return [sentence for block in blocks(text) for sentence in re.split(r"(?<=[.!?:])\W* ", block)]


def riddles(text: str) -> list[str]:
    return [
        f"{sentence!r}: {instead}"
        for sentence in sentences(text)
        for pattern, instead in RIDDLES.items()
        if re.search(pattern, sentence, re.IGNORECASE if pattern[0] != "^" else 0)
    ]


def machines(text: str) -> list[str]:
    """Sentences that do not say whether a VM, a container or a host is meant."""
    return [each for each in sentences(text) if re.search(MACHINE, each, re.IGNORECASE)]


def long_lines(text: str) -> list[str]:
    limits = {True: LONGEST_ROW, False: LONGEST_LINE}
    return [line for line in text.splitlines() if len(line) > limits[line.startswith("|")]]


def long_sentences(text: str) -> list[str]:
    return [sentence for sentence in sentences(text) if len(sentence.split()) > MOST_WORDS]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_reads_at_first_sight(page: Path) -> None:
    text = page.read_text()
    assert riddles(text) == []
    rows_too = page.name not in GENERATED
    assert not rows_too or machines(text) == []
    assert [line for line in long_lines(text) if rows_too or line[0] != "|"] == []
    assert long_sentences(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "A file is no directory.",
        "It lies in a folder.",
        "| key | makes the sockets anew |",
        "- one\n- The host is told of it.",
        "It is so. What no rule allows is denied.",
    ],
)
def test_a_riddle_is_found(text: str) -> None:
    assert riddles(text)


@pytest.mark.parametrize(
    "text",
    [
        "There is no such file. It is no longer there.",
        "See `folder` and [docs/folders.md](docs/folders.md).",
        "    serai folder is no anew\n",
        "```\nfolder\n```\n",
        "# What is a folder\n",
        "What is it? A file.",
    ],
)
def test_plain_words_and_code_are_none(text: str) -> None:
    assert riddles(text) == []


def test_a_machine_of_any_kind_is_found() -> None:
    assert machines("Copy it to another machine.")
    assert machines("| Machines | two |")
    assert machines("A virtual machine has a machine ID. It runs machine code: `machine`.") == []


def test_long_lines_and_sentences_are_found() -> None:
    assert long_lines("x" * 101)
    assert long_lines("|" + "x" * 240)
    assert long_lines("x" * 100 + "\n|" + "x" * 239) == []
    words = "one " * 41
    assert long_sentences(f"{words}.")
    assert long_sentences(f"| {words} |")
    assert long_sentences("one " * 25 + "end. " + "two " * 25) == []
