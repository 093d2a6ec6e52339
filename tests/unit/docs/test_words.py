"""docs/architecture.md against the code: its words are used as it says, and it has every room."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from invoke.collection import Collection

import tasks
from tests.conftest import ROOT

PAGE = (ROOT / "docs/architecture.md").read_text()
SOURCE = ROOT / "src/serai"
MODULES = [path for path in sorted(SOURCE.rglob("*.py")) if path.stem != "__init__"]
ROOMS = sorted(path.parent for path in SOURCE.rglob("__init__.py"))

# A word, and the only places where a module, a class or a room may have it in its name.
PLACES = {
    "machine": (),
    "reference": (),
    "runtime": ("runtime",),
    "policy": ("gate", "runtime/api/egress.py", "runtime/cli/egress.py"),
    "role": ("runtime/folders/path_roles.py", "image/commands/roles_page.py"),
    "layer": ("image/build",),
}

TABLES = "named for a table of a settings file, a definition or a report that people write or read"
METHODS = "the parameters of the RPC method of that name, on sessiond's socket or the gate's"
HALVES = "each is what its half knows of it, and the halves import nothing of each other"
INSIDE = "used inside its module and its direct callers, where nothing else has the name"
# Why a public class may share its name with another.
SHARED = {
    "Audit": f"{TABLES}; {METHODS}",
    "Bind": METHODS,
    "Change": METHODS,
    "Check": f"what checks are made of; {METHODS}",
    "Explain": METHODS,
    "Facts": "what checks judge, and what is true of a session in a state",
    "Client": "sessiond's is a client of JSON-RPC, with what a command line needs besides",
    "Disk": TABLES,
    "Limits": TABLES,
    "Settings": TABLES,
    "Session": HALVES,
    "Sessions": HALVES,
    "Share": HALVES,
    "Target": HALVES,
    "Rule": "of the gate, of seccomp, of a comparison: a rule of each is what people call it",
    "Rules": "the rules of a policy, and those of a comparison",
    "Boot": INSIDE,
    "Connection": HALVES,
    "File": INSIDE,
    "Identity": INSIDE,
    "Options": INSIDE,
    "Package": INSIDE,
    "Plan": INSIDE,
    "Report": INSIDE,
    "Request": HALVES,
    "Stage": INSIDE,
}


def classes() -> Iterator[tuple[str, str]]:
    """Where each public class is, and its name."""
    for path in MODULES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield str(path.relative_to(SOURCE)), node.name


def words(name: str) -> set[str]:
    """The words of a name: GateSettings and gate_settings are two."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)}


def misplaced(place: str, name: str) -> list[str]:
    """The words of the table that a name in this place must not have."""
    return [
        word
        for word, allowed in PLACES.items()
        if {word, f"{word}s", re.sub("y$", "ies", word)} & words(name)
        and not any(place.startswith(one) for one in allowed)
    ]


def test_modules_and_rooms_are_named_by_the_words() -> None:
    named = [(str(path.relative_to(SOURCE)), path.stem) for path in MODULES]
    named += [(str(room.relative_to(SOURCE)), room.name) for room in ROOMS[1:]]
    assert [place for place, name in named if misplaced(place, name)] == []


def test_classes_are_named_by_the_words() -> None:
    found = {f"{place} {name}" for place, name in classes() if misplaced(place, name)}
    assert found == set()


@pytest.mark.parametrize(
    ("place", "name", "wrong"),
    [
        ("image/vm/vm.py", "Machine", ["machine"]),
        ("image/vm/vm.py", "machine_id", ["machine"]),
        ("image/container/machines", "machines", ["machine"]),
        ("runtime/settings.py", "SessionPolicy", ["policy"]),
        ("runtime/policies.py", "policies", ["policy"]),
        ("gate/profiles.py", "Policy", []),
        ("runtime/folders/roles.py", "roles", ["role"]),
        ("runtime/folders/path_roles.py", "path_roles", []),
        ("image/verify/checks/runtime.py", "runtime", ["runtime"]),
        ("image/run.py", "run", []),
    ],
)
def test_a_name_in_the_wrong_place_is_found(place: str, name: str, wrong: list[str]) -> None:
    assert misplaced(place, name) == wrong


def test_each_class_has_a_name_of_its_own_or_a_reason() -> None:
    places = defaultdict(list)
    for place, name in classes():
        places[name].append(place)
    several = {name: where for name, where in places.items() if len(where) > 1}
    assert {name: several[name] for name in several.keys() - SHARED.keys()} == {}
    assert SHARED.keys() - several.keys() == set(), "these need no reason any more"


@pytest.mark.parametrize("room", ROOMS[1:], ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_room_is_in_the_tree(room: Path) -> None:
    assert f"| `{room.relative_to(ROOT)}/` |" in PAGE


def test_every_top_and_every_test_layer_is_in_the_tree() -> None:
    tops = [ROOT / name for name in ("docs", "images", "packer", "playbooks", "roles", "scripts")]
    layers = [path for path in (ROOT / "tests").iterdir() if any(path.rglob("*.py"))]
    assert all(top.is_dir() for top in tops)
    assert len(layers) > 4
    for path in [*tops, *layers]:
        assert f"| `{path.relative_to(ROOT)}/` |" in PAGE, path


def test_the_layers_of_an_image_are_the_ones_in_the_table() -> None:
    plays = yaml.safe_load((ROOT / "playbooks/image.yml").read_text())
    names = [tag for play in plays for tag in play["tags"]]
    for name in names:
        assert f"layer: {name}" in (ROOT / "docs/overview.svg").read_text()
    (row,) = [line for line in PAGE.splitlines() if line.startswith("| layer |")]
    assert [name for name in re.findall(r"`(\w+)`", row) if name in names] == names


def banned(text: str) -> list[str]:
    """The words in a sentence for people that the table has another word for."""
    return re.findall(r"\b(?:machines?|folders?|the reference)\b", text, re.IGNORECASE)


def test_the_help_of_invoke_has_the_words_only() -> None:
    collection = Collection.from_module(tasks)
    assert len(collection.tasks) > 20
    for name, task in collection.tasks.items():
        if name == "machine":  # the old name, until it goes
            continue
        for text in (task.__doc__ or "", *task.help.values()):
            assert banned(text) == [], name


def test_the_summaries_of_images_have_the_words_only() -> None:
    texts = [path.read_text() for path in sorted((ROOT / "images").glob("*.toml"))]
    summaries = [line for text in texts for line in text.splitlines() if line[:7] == "summary"]
    assert len(summaries) == len(texts) > 5
    assert [line for line in summaries if banned(line)] == []


def test_a_banned_word_is_found() -> None:
    assert banned("leave a failed machine in the folder") == ["machine", "folder"]
    assert banned("Build and boot a VM; the directory") == []


def test_a_word_is_in_the_table_once() -> None:
    table = PAGE.partition("## Words")[2].partition("## The tree")[0]
    found = re.findall(r"^\| ([a-z][\w ]*|VM) \|", table, re.MULTILINE)
    found.remove("word")
    assert len(found) == len(set(found)) > 25


def messages(tree: ast.AST) -> Iterator[str]:
    """What a module may say to people: texts of several words, no docstrings or programs."""
    silent = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) and id(node) not in silent else None
        if isinstance(text, str) and " " in text and "\n" not in text:
            yield text


def wrong_words(tree: ast.AST) -> list[str]:
    """Those that have a word for which the table has another one; links to pages do not count."""
    no_words = r"\]\([^)]*\)|\S*machine-\S*|machine ID|'invoke machine'"  # its old name
    return [text for text in messages(tree) if banned(re.sub(no_words, "", text))]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_messages_have_the_words_only(path: Path) -> None:
    if "verify/checks" in str(path):
        return  # the names of checks stay what they are, so that releases can be compared
    assert wrong_words(ast.parse(path.read_text())) == []


def machines(tree: ast.AST) -> list[str]:
    """The docstrings that do not say whether a VM, a container or a host is meant."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
    other = r"``[^`]*``|`[^`]*`|(state|virtual)[ -]machine|machine([ -]readable| ID| protocol)"
    return [text for text in found if re.search(r"\bmachines?\b", re.sub(other, "", text), re.I)]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_docstring_speaks_of_machines(path: Path) -> None:
    assert machines(ast.parse(path.read_text())) == []


def test_a_docstring_with_a_machine_is_found() -> None:
    assert machines(ast.parse('"""Boots a machine."""\n\nclass A:\n    """Of ``machine``."""\n'))
    assert machines(ast.parse('x = "the machine"\n\ndef f():\n    """A state machine."""\n')) == []


def test_a_message_with_a_wrong_word_is_found() -> None:
    said = 'def f(x):\n    """A folder."""\n    raise E(f"{x} is no folder", hint="a VM")\n'
    assert wrong_words(ast.parse(said)) == [" is no folder"]
    silent = 'x = ["folder", "-machine-readable x", "see [it](folders.md) there", "a\\nfolder x"]'
    assert wrong_words(ast.parse(silent)) == []
