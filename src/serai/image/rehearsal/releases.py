"""The releases of Ubuntu of which there is a stand-in, and what differs between them.

Files that a release has of its own are in data/ubuntu-<version>; data/tree is for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Small:
    """A package: what it depends on, its files with their content, and its postinst."""

    name: str
    version: str
    depends: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    postinst: str = ""


@dataclass(frozen=True)
class Ubuntu:
    """``debian`` is the image whose packages it is made of, ``options`` are mmdebstrap's for it.

    ``sources`` is where apt finds its sources, ``python`` the version in the path of its libraries,
    ``small`` what its archive has besides data/packages, and ``own`` what its cloud image has of
    that. ``setup`` is a shell command in the root.
    """

    version: str
    codename: str
    debian: str
    sources: str
    python: str
    small: Sequence[Small]
    own: Sequence[str] = ()
    setup: str = "true"
    options: Sequence[str] = ()

    @property
    def name(self) -> str:
        """As the names of its images begin."""
        return f"ubuntu-{self.version}"

    @property
    def suites(self) -> tuple[str, ...]:
        """Those of its archive."""
        return (self.codename, f"{self.codename}-updates", f"{self.codename}-security")


def _kernel(release: str, version: str, suffix: str = "") -> list[Small]:
    """A kernel as Ubuntu splits it: linux-modules-extra alone has quota_v2."""
    fs = f"lib/modules/{release}/kernel/fs"
    image, modules = f"linux-image-{release}", f"linux-modules-{release}"
    extra = f"linux-modules-extra-{release}"
    return [
        Small(modules, version, files={f"{fs}/9p/9p.ko": ""}),
        Small(extra, version, [modules], {f"{fs}/quota/quota_v2.ko": ""}),
        Small(image, version, [modules], {f"boot/vmlinuz-{release}": ""}, "exec update-grub"),
        Small(f"linux-image-virtual{suffix}", version, [image]),
        Small(f"linux-virtual{suffix}", version, [f"linux-image-virtual{suffix}"]),
        Small(f"linux-image-extra-virtual{suffix}", version, [image, extra]),
    ]


JAMMY = Ubuntu(
    "22.04",
    "jammy",
    debian="debian-12",
    sources="/etc/apt/sources.list",
    python="3.10",
    # The kernel of the cloud image, and the one of hardware enablement.
    small=(
        *_kernel("5.15.0-190-generic", "5.15.0.190.187"),
        *_kernel("6.8.0-138-generic", "6.8.0-138.138~22.04.1", "-hwe-22.04"),
    ),
)
# Debian 13 is nearer to it: AppArmor there knows what the profile of bwrap says.
NOBLE = Ubuntu(
    "24.04",
    "noble",
    debian="debian-13",
    sources="/etc/apt/sources.list.d/ubuntu.sources",
    python="3.12",
    small=(
        *_kernel("6.8.0-138-generic", "6.8.0-138.138"),
        Small("lxd-installer", "4ubuntu0.1", ["snapd"]),
    ),
    own=("lxd-installer",),
    setup="systemctl --quiet disable ssh.service && systemctl --quiet enable ssh.socket",
    options=("--hook-directory=/usr/share/mmdebstrap/hooks/merged-usr",),
)
RELEASES = (JAMMY, NOBLE)
