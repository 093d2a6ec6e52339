"""What `invoke clients` and `invoke secrets` do: install clients, try them, write docs/clients.md.

It asks the registries of Python and npm for the newest of each. What else there is to try has to
be there: in the directory bin/gh, bin/gohello (`tests/support/peers/hello.go`, built),
rust/bin/cargo and rustc; on the host java, mvn, gradle and gcloud.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from serai.image.errors import BuildError
from serai.image.run import run, run_visibly
from serai.image.settings import Settings

PYTHON = {
    "new": ("aiohttp", "anthropic", "httpx", "openai", "requests", "urllib3"),
    "httpx-0.23": ("httpx==0.23.3",),  # Debian 12's
    "aws": ("awscli",),
    "uv": ("uv",),
}
NODE = {
    "new": ("axios", "bun", "deno", "got", "node@24", "pnpm", "undici", "yarn"),
    "old": ("axios@1.7.9", "https-proxy-agent"),
    "sdk": ("@anthropic-ai/sdk",),
}
PROGRAMS = ("bun", "deno", "node", "pnpm", "yarn")


def clients(settings: Settings, directory: Path) -> int:
    """Install what is not in ``directory`` yet, and try everything. Raises BuildError."""
    return _tried(settings, directory, "tests.support.clients")


def secrets(settings: Settings, directory: Path) -> int:
    """The same with what uses a secret: `invoke secrets`."""
    return _tried(settings, directory, "tests.support.secrets_in_use")


def _tried(settings: Settings, directory: Path, module: str) -> int:
    if not directory.is_absolute() or directory.parts[1] in ("tmp", "root", "home", "run"):
        raise BuildError(
            f"sessions cannot see {directory}", hint="take a directory below /srv or /opt"
        )
    programs = directory / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    for name, packages in PYTHON.items():
        target = directory / "py" / name
        if not target.exists():
            run([sys.executable, "-m", "pip", "install", "--target", target, *packages])
    for name, packages in NODE.items():
        target = directory / "js" / name
        if not target.exists():
            target.mkdir(parents=True)
            run(["npm", "install", "--no-audit", "--no-fund", "--prefix", target, *packages])
    found = {each: directory / "js/new/node_modules/.bin" / each for each in PROGRAMS}
    for name, path in {**found, "uv": directory / "py/uv/bin/uv"}.items():
        (programs / name).unlink(missing_ok=True)
        (programs / name).symlink_to(path.resolve())
    shutil.copy(settings.root / "tests/support/peers/Fetch.java", directory)
    shutil.copytree(
        settings.root / "tests/support/peers/jvm", directory / "jvm", dirs_exist_ok=True
    )
    return run_visibly([sys.executable, "-m", module, directory], cwd=settings.root)
