"""What `invoke lint` does: every linter, and Packer's own check for every image."""

from __future__ import annotations

from pathlib import Path

from serai.image import console
from serai.image.build import layer
from serai.image.commands import docs_site, pythons
from serai.image.definition import definition
from serai.image.errors import BuildError
from serai.image.rehearsal import record
from serai.image.run import run, search_path
from serai.image.settings import Settings


def lint(settings: Settings) -> None:
    """Run every linter; raises BuildError naming those that complained."""
    failed = []
    linters = {**_linters(settings.root), "site": docs_site.command(settings)}
    for name, argv in linters.items():
        with console.step(name):
            done = run(argv, cwd=settings.root, env={"PATH": search_path()}, check=False)
        if done.returncode != 0:
            failed.append(name)
            console.say(done.stdout + done.stderr)
    if said := record.complaints(settings.root):
        failed.append("rehearsal")
        console.say("\n".join(said))
    for name in definition.names(settings):
        with console.step(f"packer validate {name}"):
            layer.validate(definition.load(settings, name), settings)
    if failed:
        raise BuildError(f"lint: {', '.join(failed)} complained", hint="see above")


def _linters(root: Path) -> dict[str, list[str | Path]]:
    newest = pythons.oldest_and_newest()[1]
    half = [root / "src/serai" / room for room in pythons.HALF]
    workflows = sorted((root / ".github/workflows").glob("*.yml"))
    scripts = [path for path in sorted(root.rglob("*")) if _is_shell(path, root)]
    return {
        "ruff check": ["ruff", "check", "."],
        "ruff format": ["ruff", "format", "--check", "."],
        "mypy": ["mypy"],  # for the oldest Python; what goes into a VM for the newest one as well
        f"mypy {newest}": ["mypy", "--python-version", newest, *half],
        "imports": ["lint-imports"],
        "ansible-lint": ["ansible-lint", "--offline", "--profile", "production"],
        "yamllint": ["yamllint", "--strict", "."],
        "workflows": [
            "check-jsonschema",
            "--builtin-schema=vendor.github-workflows",
            *workflows,
        ],
        "shellcheck": ["shellcheck", *scripts],
        # Packer 1.6.6 knows no -recursive.
        "packer fmt": ["packer", "fmt", "-check", "packer"],
        "packer fmt plugins": ["packer", "fmt", "-check", "packer/plugins"],
    }


def _is_shell(path: Path, root: Path) -> bool:
    if any(part.startswith(".venv") or part == ".git" for part in path.relative_to(root).parts):
        return False
    if not path.is_file() or path.suffix not in ("", ".sh"):
        return False
    with path.open("rb") as stream:
        return stream.readline().startswith((b"#!/bin/sh", b"#!/usr/bin/env bash", b"#!/bin/bash"))
