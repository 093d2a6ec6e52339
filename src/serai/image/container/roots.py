"""Root directories of containers, from the cache: Debian with systemd, and the image's roles on it.

The Debian is that of an image, of the rehearsal's if none is named.

What an image is can be tried in them in seconds, but for its kernel, its disks and its boot loader.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from serai.image import cache, console, digest
from serai.image.build import playbook
from serai.image.container.ansible_host import AnsibleHost
from serai.image.definition import definition
from serai.image.definition.arch import native
from serai.image.errors import BuildError
from serai.image.run import run
from serai.image.settings import Settings

PACKAGES = (
    *("dbus", "kmod", "libpam-systemd", "openssh-server", "procps", "python3-apt", "sudo"),
    *("systemd-sysv", "udev"),
)
# What a container chooses: where there is no build user nothing is sealed, and the smallest profile
# that installs something, as the standard one takes 1.3 GB.
VARIABLES = ("seal_build_user=nobody-builds-here", "toolchain_profile=minimal")
RELEASES = 2  # of Debian, whose roots are kept

# /usr is merged from the start, as Debian 13 expects it; the package usrmerge brings all of Perl.
_MERGED = "--hook-directory=/usr/share/mmdebstrap/hooks/merged-usr"


def base(settings: Settings, image: str = "") -> Path:
    """A Debian with systemd and the build user, as the base of an image has it; from the cache."""
    release = suite(settings, image)
    recipe = {"suite": release, "packages": PACKAGES, "mirror": settings.mirror}
    recipe |= {"hook": _hook(), "merged": _MERGED}
    folder = settings.cache / "containers" / "base" / digest.of_value(recipe)[:16]
    if not folder.exists():
        with making(settings, folder), cache.whole(folder) as made:
            options = [_MERGED, f"--customize-hook={_hook()}"]
            bootstrap(settings, release, made / "root", PACKAGES, *options)
        cache.prune(folder.parent, keep=RELEASES)
    return folder / "root"


def bootstrap(
    settings: Settings, suite: str, root: Path, packages: Sequence[str], *options: str
) -> None:
    """Make a Debian with these packages in ``root``; ``options`` are mmdebstrap's."""
    # What it mounts is nobody else's, and gone with it.
    argv = ["unshare", "--mount", "--propagation=private", "--", "mmdebstrap"]
    argv += ["--quiet", "--mode=root", "--variant=minbase", *options]
    source = [settings.mirror] if settings.mirror else []
    run([*argv, f"--include={','.join(packages)}", suite, root, *source])


def suite(settings: Settings, name: str) -> str:
    """The suite that the image ``name`` is bootstrapped from.

    Raises BuildError for an image of which there is no container.
    """
    image = definition.load(settings, name) if name else definition.rehearsal(settings)
    if image.arch != native():
        raise BuildError(
            f"{name} is for {image.arch}, and a container has this host's {native()}",
            hint="boot the image: 'invoke boot'",
        )
    return image.bootstrapped().suite


def provisioned(settings: Settings, archive: str = "", image: str = "") -> Path:
    """The same after the image's playbook, but not sealed; from the cache, layer by layer.

    Its packages are of the day when it was made. ``archive``, any text, is for who needs another
    one that is made now.
    """
    root = base(settings, image)
    for layer in playbook.read(settings, definition.Additions()):
        recipe = {"below": root.parent.name, "layer": layer.digests, "variables": VARIABLES}
        recipe |= {"archive": archive} if archive else {}
        home = settings.cache / "containers" / layer.name
        folder = home / digest.of_value(recipe)[:16]
        if not folder.exists():
            with making(settings, folder):
                _apply(settings, layer.name, root, folder)
            cache.prune(home, keep=2 * RELEASES)
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
