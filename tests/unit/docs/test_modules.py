"""Modules that a text names exist: also in programs that tests run in a VM, and in roles."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from serai.image.run import run
from tests.conftest import ROOT

SOURCE = ROOT / "src"
TOPS = [path.name for path in (SOURCE / "serai").iterdir() if path.is_dir()]
IMPORT = re.compile(r"from (serai\.[.\w]+) import \(?([\w, ]+)")
# Not a file or a host of such a name, as serai.toml is.
DOTTED = re.compile(rf"(?<![\w./@-])serai\.(?:{'|'.join(TOPS)})(?:\.[a-zA-Z_]\w*)*\b(?![/-])")


def named(text: str) -> set[str]:
    """The modules, and what is in them, that a text names."""
    imported = (
        f"{module}.{name.split()[0]}"
        for module, names in IMPORT.findall(text)
        for name in names.split(",")
        if name.strip()
    )
    return {*imported, *DOTTED.findall(text)}


@cache
def exists(name: str) -> bool:
    """Whether that is a module, or the text of the nearest one has the next word."""
    path = SOURCE / Path(*name.split("."))
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    while name.count("."):
        name, _, word = name.rpartition(".")
        path = SOURCE / Path(*name.split("."))
        for module in (path.with_suffix(".py"), path / "__init__.py"):
            if module.is_file():
                return re.search(rf"\b{word}\b", module.read_text()) is not None
    return False


def test_the_modules_that_a_file_names_exist() -> None:
    files = run(["git", "-C", ROOT, "ls-files", "-z"]).stdout.split("\0")
    paths = [ROOT / file for file in files if file and file != "CHANGELOG.md"]
    # This one names some that there are not.
    texts = {path: path.read_text() for path in paths if path.is_file() and path != Path(__file__)}
    gone = {
        path: sorted(each for each in named(text) if not exists(each))
        for path, text in texts.items()
    }
    assert {path: names for path, names in gone.items() if names} == {}


def test_a_module_that_is_gone_is_found() -> None:
    text = """
        from serai.gate.share import Share, QUANTUM
        from serai.gate.connections import share
        serai.gate.connections.share.QUANTUM = 1; serai.gate.share.QUANTUM = 1
        python3 -m serai.runtime.gone; serai.toml serai.gate.connections.share.GONE
    """
    assert sorted(each for each in named(text) if not exists(each)) == [
        "serai.gate.connections.share.GONE",
        "serai.gate.share",
        "serai.gate.share.QUANTUM",
        "serai.gate.share.Share",
        "serai.runtime.gone",
    ]
