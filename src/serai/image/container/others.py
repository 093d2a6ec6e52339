"""The provisioned container with what else starts a command behind walls, to be measured beside it.

Podman with both of its runtimes comes from the distribution's archive. Anthropic's sandbox-runtime
(srt) comes from npm: each of its packages is pinned by the digest in ``data/srt``, and from where
npm fetches them is what this host's npm is configured to. Its Node.js is the pinned one of
rehearsals, since the distribution's is too old for it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from serai.image import digest
from serai.image.container import peers
from serai.image.definition import pins
from serai.image.definition.pins import Pin
from serai.image.run import run
from serai.image.settings import Settings

PACKAGES = ("crun", "podman", "ripgrep", "runc")
SRT = Path(__file__).parent / "data/srt"


def equipped(settings: Settings) -> Path:
    """The container's root with all of them; from the cache. Raises BuildError."""
    node = pins.read(settings)["node_wheel"]
    recipe = {
        "packages": PACKAGES,
        "node": node.sha256,
        "srt": digest.of_file(SRT / "package-lock.json"),
    }

    def add(root: Path) -> None:
        peers.install(root, PACKAGES)
        _add_srt(root, node)

    return peers.with_more(settings, "others", recipe, add)


def _add_srt(root: Path, pin: Pin) -> None:
    """Install what ``data/srt`` names, with the Node.js that runs it; no script of theirs runs."""
    target = root / "usr/local/lib/srt"
    shutil.copytree(SRT, target)
    with peers.nodejs(root.parent, pin) as found:
        program = found / "bin/node"
        program.chmod(0o755)
        npm = [program, found / "lib/node_modules/npm/bin/npm-cli.js"]
        run([*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", target])
        shutil.copy(program, root / "usr/local/bin/node")
