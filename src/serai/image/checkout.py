"""What developers do with the checkout: lint, test, clean."""

from __future__ import annotations

import shutil
from pathlib import Path

from serai.image import console, definition, packer
from serai.image.errors import BuildError
from serai.image.run import run, run_visibly, search_path, started
from serai.image.settings import Settings

BESIDE = "SERAI_TEST_BESIDE"
TEST_LAYERS = ("unit", "runtime", "machine", "image")


def lint(settings: Settings) -> None:
    """Run every linter; raises BuildError naming those that complained."""
    failed = []
    for name, argv in _linters(settings.root).items():
        with console.step(name):
            done = run(argv, cwd=settings.root, env={"PATH": search_path()}, check=False)
        if done.returncode != 0:
            failed.append(name)
            console.say(done.stdout + done.stderr)
    for name in definition.names(settings):
        with console.step(f"packer validate {name}"):
            packer.validate(definition.load(settings, name), settings)
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
        return _pytest(settings, settings.root / "tests" / layer)
    # An emulated build waits much and the other layers need little: side by side they are done
    # sooner. The image's tests wait for it, and say themselves what failed.
    log = settings.cache / "logs" / "test-image.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    image = ["--image", definition.rehearsal()]
    argv = ["nice", "invoke", "build-image", *image, "verify-image", *image]
    with started(argv, log=log, env={"PATH": search_path()}) as beside:
        if linted:
            lint(settings)
        return _pytest(settings, beside=beside.pid)


def _pytest(settings: Settings, *folders: Path, beside: int = 0) -> int:
    """``beside``: the process that builds and verifies the image meanwhile."""
    argv: list[str | Path] = ["pytest", "--durations=25", *folders]
    return run_visibly(argv, cwd=settings.root, env={BESIDE: str(beside)} if beside else None)


def clean(settings: Settings, *, cache: bool) -> None:
    """Remove the images, and with ``cache`` everything that makes the next build faster."""
    for folder in [settings.dist, *([settings.cache] if cache else [])]:
        shutil.rmtree(folder, ignore_errors=True)
        console.say(f"removed {folder}")
