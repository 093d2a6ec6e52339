"""A stand-in for the cloud image of a release of Ubuntu, made of Debian packages.

It looks to the roles as that image does: os-release, sources, cloud-init with netplan, snaps that
are still being seeded, locks on apt, and an archive with what only Ubuntu has. releases.py has what
differs by release; docs/ubuntu.md says what still differs from Ubuntu.
"""

from __future__ import annotations

from pathlib import Path

from serai.image import cache, digest
from serai.image.build import playbook
from serai.image.container import roots
from serai.image.definition import arch
from serai.image.rehearsal import archive
from serai.image.rehearsal.releases import RELEASES, Ubuntu
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
user=$2 sources=$3 python=$4 setup=$5
shift 5
mount -t proc proc proc
export DEBIAN_FRONTEND=noninteractive
chroot . apt-get -qq update -o Dir::Etc::sourcelist="$sources" -o Dir::Etc::sourceparts=/dev/null
chroot . apt-get -qq install --yes -o Dpkg::Use-Pty=0 "$@"
rm -rf var/lib/apt/lists/*
chroot . systemctl --quiet enable apt-busy.service
chroot . sh -c "$setup"
chroot . useradd --create-home --shell /bin/bash "$user"
echo "$user ALL=(ALL) NOPASSWD:ALL" >etc/sudoers.d/90-cloud-init-users
mkdir -p "usr/local/lib/python$python/dist-packages"  # as its Python has it
echo ubuntu >etc/hostname
echo 127.0.1.1 ubuntu >>etc/hosts
"""


def base(settings: Settings, release: Ubuntu) -> Path:
    """The stand-in's root, with the build user; from the cache."""
    below = _debian(settings, release)
    own = (*OWN, *release.own)
    trees = (_DATA / "tree", _DATA / release.name)
    recipe = {
        "below": below.parent.name,
        "packages": own,
        "content": [digest.of_tree(tree) for tree in (_DATA / "packages", *trees)],
        "code": [digest.of_file(_DATA.with_name(name)) for name in ("archive.py", "releases.py")],
        "script": _SCRIPT,
    }
    folder = settings.cache / "containers" / "standin" / digest.of_value(recipe)[:16]
    if not folder.exists():
        with roots.making(settings, folder), cache.whole(folder) as made:
            root = made / "root"
            run(["cp", "--archive", "--reflink=auto", below, root])
            sources = root / "etc/apt/sources.list"
            sources.rename(sources.with_name("sources.list.d") / "standin.list")
            for tree in trees:
                run(["cp", "-R", "--no-preserve=ownership", f"{tree}/.", root])
            archive.make(root / "srv/ubuntu", release)
            alone = ["unshare", "--mount", "--propagation=private", "sh", "-c", _SCRIPT, "sh"]
            chosen = (release.sources, release.python, release.setup)
            run([*alone, root, playbook.BUILD_USER, *chosen, *own])
        cache.prune(folder.parent, keep=len(RELEASES))
    return folder / "root"


def _debian(settings: Settings, release: Ubuntu) -> Path:
    """The packages that Debian has, which take the most time; from the cache."""
    suite = roots.suite(settings, f"{release.debian}-{arch.native()}")
    recipe = {"suite": suite, "mirror": settings.mirror, "packages": PACKAGES}
    folder = settings.cache / "containers" / "standin-debian" / digest.of_value(recipe)[:16]
    if not folder.exists():
        with roots.making(settings, folder), cache.whole(folder) as made:
            options = ("--dpkgopt=force-unsafe-io", *release.options)
            roots.bootstrap(settings, suite, made / "root", PACKAGES, *options)
        cache.prune(folder.parent, keep=len(RELEASES))
    return folder / "root"
