"""A stand-in for Ubuntu 22.04's cloud image, made of Debian packages.

It looks to the roles as that image does: os-release, sources, cloud-init with netplan, snaps that
are still being seeded, locks on apt, and an archive with what only Ubuntu has. docs/ubuntu.md says
what still differs.
"""

from __future__ import annotations

from pathlib import Path

from serai.image import cache, digest
from serai.image.build import playbook
from serai.image.container import roots
from serai.image.definition import definition
from serai.image.rehearsal import archive
from serai.image.run import run
from serai.image.settings import Settings

# What the cloud image has of the packages that Debian has too and that matter to the roles.
PACKAGES = (
    *("apparmor", "apt-utils", "ca-certificates", "cloud-guest-utils", "cloud-init", "curl"),
    *("dbus", "e2fsprogs", "gpg", "iproute2", "kmod", "less", "libpam-systemd", "locales"),
    *("lsb-release", "needrestart", "netplan.io", "openssh-server", "procps", "python3"),
    *("python3-apt", "rsyslog", "sudo", "systemd-sysv", "systemd-timesyncd", "tzdata", "udev"),
    *("unattended-upgrades", "xz-utils"),
)
# And what comes from the archive made here.
OWN = (
    *("apport", "grub-standin", "linux-image-virtual", "linux-virtual", "snapd"),
    "systemd-resolved-standin",
)

_DATA = Path(__file__).with_name("data")

# Installs the packages of our own, without asking a mirror, and makes the build user.
_SCRIPT = """
set -eu
cd "$1"
user=$2
shift 2
mount -t proc proc proc
export DEBIAN_FRONTEND=noninteractive
chroot . apt-get -qq update -o Dir::Etc::sourceparts=/dev/null
chroot . apt-get -qq install --yes -o Dpkg::Use-Pty=0 "$@"
rm -rf var/lib/apt/lists/*
chroot . systemctl --quiet enable apt-busy.service
chroot . useradd --create-home --shell /bin/bash "$user"
echo "$user ALL=(ALL) NOPASSWD:ALL" >etc/sudoers.d/90-cloud-init-users
mkdir -p usr/local/lib/python3.10/dist-packages  # as its Python has it
echo ubuntu >etc/hostname
echo 127.0.1.1 ubuntu >>etc/hosts
"""


def base(settings: Settings) -> Path:
    """The stand-in's root, with the build user; from the cache."""
    below = _debian(settings)
    recipe = {
        "below": below.parent.name,
        "packages": OWN,
        "content": digest.of_tree(_DATA / "packages") + digest.of_tree(_DATA / "tree"),
        "archive": digest.of_file(Path(str(archive.__file__))),
        "script": _SCRIPT,
    }
    folder = settings.cache / "containers" / "standin" / digest.of_value(recipe)[:16]
    if not folder.exists():
        with roots.making(settings, folder), cache.whole(folder) as made:
            root = made / "root"
            run(["cp", "--archive", "--reflink=auto", below, root])
            sources = root / "etc/apt/sources.list"
            sources.rename(sources.with_name("sources.list.d") / "standin.list")
            run(["cp", "-R", "--no-preserve=ownership", f"{_DATA}/tree/.", root])
            archive.make(root / "srv/ubuntu")
            alone = ["unshare", "--mount", "--propagation=private", "sh", "-c", _SCRIPT, "sh"]
            run([*alone, root, playbook.BUILD_USER, *OWN])
        cache.prune(folder.parent, keep=1)
    return folder / "root"


def _debian(settings: Settings) -> Path:
    """The packages that Debian has, which take the most time; from the cache."""
    suite = definition.rehearsal(settings).bootstrapped().suite
    recipe = {"suite": suite, "mirror": settings.mirror, "packages": PACKAGES}
    folder = settings.cache / "containers" / "standin-debian" / digest.of_value(recipe)[:16]
    if not folder.exists():
        with roots.making(settings, folder), cache.whole(folder) as made:
            unsafe = "--dpkgopt=force-unsafe-io"
            roots.bootstrap(settings, suite, made / "root", PACKAGES, unsafe)
        cache.prune(folder.parent, keep=1)
    return folder / "root"
