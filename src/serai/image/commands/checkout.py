"""What developers do with the checkout: lint, test, clean."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from serai.image import console
from serai.image.build import layer
from serai.image.commands import docs_site
from serai.image.definition import definition
from serai.image.errors import BuildError
from serai.image.run import run, run_visibly, search_path, started
from serai.image.settings import Settings

TEST_LAYERS = ("unit", "sandbox", "container", "vm")


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
    for name in definition.names(settings):
        with console.step(f"packer validate {name}"):
            layer.validate(definition.load(settings, name), settings)
    if failed:
        raise BuildError(f"lint: {', '.join(failed)} complained", hint="see above")


def _linters(root: Path) -> dict[str, list[str | Path]]:
    workflows = sorted((root / ".github/workflows").glob("*.yml"))
    scripts = [path for path in sorted(root.rglob("*")) if _is_shell(path, root)]
    return {
        "ruff check": ["ruff", "check", "."],
        "ruff format": ["ruff", "format", "--check", "."],
        "mypy": ["mypy"],
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


def test(settings: Settings, layer: str, *, linted: bool = False) -> int:
    """Run pytest over one layer or all, and return its exit status; ``linted``: the linters first.

    Raises BuildError if one of them complains.
    """
    if layer and layer not in TEST_LAYERS:
        raise BuildError(f"there is no test layer {layer!r}", hint=", ".join(TEST_LAYERS))
    if layer:
        if linted:
            lint(settings)
        return run_visibly(_pytest(settings, layer), cwd=settings.root)
    # The layer that emulates takes as long as all others: side by side they are done sooner.
    *others, last = TEST_LAYERS
    log = settings.cache / "logs" / f"test-{last}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    with started(_pytest(settings, last), log=log) as beside:
        if linted:
            lint(settings)
        status = run_visibly(_pytest(settings, *others), cwd=settings.root)
        beside.wait()
    sys.stdout.write(log.read_text(errors="replace"))
    return status or beside.returncode


def _pytest(settings: Settings, *layers: str) -> list[str | Path]:
    folders = [settings.root / "tests" / layer for layer in layers]
    return ["pytest", "--durations=25", *folders]


def clean(settings: Settings, *, cache: bool) -> None:
    """Remove the images, and with ``cache`` everything that makes the next build faster."""
    for folder in [settings.dist, *([settings.cache] if cache else [])]:
        shutil.rmtree(folder, ignore_errors=True)
        console.say(f"removed {folder}")
