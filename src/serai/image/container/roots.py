"""Root directories of containers, from the cache: Debian with systemd, and the image's roles on it.

What an image is can be tried in them in seconds, but for its kernel, its disks and its boot loader.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serai.image import cache, console, digest
from serai.image.build import playbook
from serai.image.container.ansible_host import AnsibleHost
from serai.image.definition import definition
from serai.image.run import run
from serai.image.settings import Settings

PACKAGES = (
    *("dbus", "kmod", "libpam-systemd", "openssh-server", "procps", "python3-apt", "sudo"),
    *("systemd-sysv", "udev"),
)
# What a container chooses: where there is no build user nothing is sealed, and the smallest profile
# that installs something, as the standard one takes 1.3 GB.
VARIABLES = ("seal_build_user=nobody-builds-here", "toolchain_profile=minimal")


def base(settings: Settings) -> Path:
    """A Debian with systemd and the build user, as the base of an image has it; from the cache."""
    suite = definition.rehearsal(settings).bootstrapped().suite
    recipe = {"suite": suite, "packages": PACKAGES, "mirror": settings.mirror, "hook": _hook()}
    folder = settings.cache / "containers" / "base" / digest.of_value(recipe)[:16]
    if not folder.exists():
        with making(settings, folder), cache.whole(folder) as made:
            # What it mounts is nobody else's, and gone with it.
            argv = ["unshare", "--mount", "--propagation=private", "--", "mmdebstrap"]
            argv += ["--quiet", "--mode=root", "--variant=minbase"]
            argv += [f"--include={','.join(PACKAGES)}", f"--customize-hook={_hook()}"]
            source = [settings.mirror] if settings.mirror else []
            run([*argv, suite, made / "root", *source])
        cache.prune(folder.parent, keep=1)
    return folder / "root"


def provisioned(settings: Settings, archive: str = "") -> Path:
    """The same after the image's playbook, but not sealed; from the cache, layer by layer.

    Its packages are of the day when it was made. ``archive``, any text, is for who needs another
    one that is made now.
    """
    root = base(settings)
    for layer in playbook.read(settings):
        recipe = {"below": root.parent.name, "layer": layer.digests, "variables": VARIABLES}
        recipe |= {"archive": archive} if archive else {}
        home = settings.cache / "containers" / layer.name
        folder = home / digest.of_value(recipe)[:16]
        if not folder.exists():
            with making(settings, folder):
                _apply(settings, layer.name, root, folder)
            cache.prune(home, keep=2)
        root = folder / "root"
    return root


def _apply(settings: Settings, layer: str, below: Path, target: Path) -> None:
    with cache.whole(target) as made, tempfile.TemporaryDirectory(prefix="serai-") as work:
        run(["cp", "--archive", "--reflink=auto", below, made / "root"])
        host = AnsibleHost(made / "root", Path(work), settings.root)
        host.prepare()
        with host.booted():
            host.play("--tags", layer, "--extra-vars", " ".join(VARIABLES))
        host.forget()


@contextmanager
def making(settings: Settings, folder: Path) -> Iterator[None]:
    """Nobody else makes a root meanwhile; what a killed process left half-made is gone."""
    with cache.locked(settings.cache / "containers" / ".lock"):
        cache.sweep(folder.parent)
        with console.step(f"container: {folder.parent.name}"):
            yield


def _hook() -> str:
    return f"""set -e; cd "$1"
        chroot . useradd --create-home --shell /bin/bash {playbook.BUILD_USER}
        echo '{playbook.BUILD_USER} ALL=(ALL) NOPASSWD:ALL' >etc/sudoers.d/90-cloud-init-users
        echo machine >etc/hostname; echo 127.0.1.1 machine >>etc/hosts"""
