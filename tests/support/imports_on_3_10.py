"""Run under a program's own flags: import all that it may ever import, as Python 3.10 would.

mypy, which checks for Python 3.10, finds what else newer libraries have; `invoke pythons` runs the
code on 3.10.

``python3 FLAGS imports_on_3_10.py SOURCES PROGRAM [ARGUMENT ...]``: PROGRAM is a script of
``install/programs``, or a module's name. Prints what cannot be imported, a line for each.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
import types
from collections import namedtuple
from collections.abc import Iterator
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path

PACKAGES = "/usr/lib/python3/dist-packages"
Version = namedtuple("Version", "major minor micro releaselevel serial")


class Old(MetaPathFinder, Loader):
    """Hides what 3.10 lacks, and has tomli where the distribution's packages are looked for."""

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        if name == "tomllib":
            raise ModuleNotFoundError("Python 3.10 has no tomllib")
        if name == "tomli" and PACKAGES in sys.path:
            return ModuleSpec(name, self)
        return None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        vars(module).update(loads=None, TOMLDecodeError=ValueError)
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def named(tree: ast.AST, package: str) -> Iterator[str]:
    """The modules that a module imports, in its functions too.

    What is behind ``sys.version_info`` or for type checkers only is left to Python.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and {"version_info", "TYPE_CHECKING"} & {
            getattr(each, "attr", getattr(each, "id", "")) for each in ast.walk(node.test)
        }:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield base
            yield from (
                f"{base}.{alias.name}"
                for alias in node.names
                if base.startswith("serai") and alias.name != "*"
            )
        else:
            yield from named(node, package)


def imports(program: str, sources: str) -> Iterator[str]:
    """Start ``program`` up to where it would begin to work, then import what it may need later."""
    if program.startswith("/"):
        text, _, _ = Path(program).read_text().rpartition("sys.exit(")
        exec(text.replace("/usr/lib/serai/python", sources), {})  # noqa: S102 - ours
    else:
        sys.path.insert(0, sources)
        importlib.import_module(program)
    seen: set[str] = set()
    while new := {name for name in sys.modules if name.startswith("serai")} - seen:
        for module in map(sys.modules.__getitem__, sorted(new)):
            seen.add(module.__name__)
            tree = ast.parse(Path(module.__file__ or "").read_text())
            for name in dict.fromkeys(named(tree, module.__package__ or "")):
                parent = sys.modules.get(name.rpartition(".")[0])
                if hasattr(parent, name.rpartition(".")[2]):
                    continue
                try:
                    importlib.import_module(name)
                except ImportError as error:
                    yield f"{module.__name__} imports {name}: {error}"


if __name__ == "__main__":
    _, sources, program, *arguments = sys.argv
    sys.version_info = Version(3, 10, 12, "final", 0)  # type: ignore[assignment]
    sys.meta_path.insert(0, Old())
    sys.argv = [program, *arguments]
    try:
        problems = list(imports(program, sources))
    except ImportError as error:
        problems = [f"it does not start: {error}"]
    print("\n".join(problems), end="")
