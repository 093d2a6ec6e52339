"""NoCloud seeds: what cloud-init reads at a guest's first boot.

See cloud-init's documentation of the NoCloud data source and of its cloud-config modules.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from serai.image.run import run


@dataclass(frozen=True)
class Key:
    """A throwaway key: the private half's file, and the public half as one line."""

    private: Path
    public: str


def new_key(folder: Path) -> Key:
    """A fresh ed25519 key in ``folder``, as ssh-keygen(1) makes it."""
    private = folder / "id_ed25519"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "serai", "-f", private])
    return Key(private, private.with_suffix(".pub").read_text().strip())


def user_data(
    root_keys: Sequence[str] = (), users: Mapping[str, Sequence[str]] | None = None
) -> str:
    """Cloud-config with which root and ``users`` (with sudo, without password) log in by key.

    ``root_keys`` and the values of ``users`` are public keys. The distribution's default user is
    not made.
    """
    config: dict[str, object] = {
        # The image's own host keys show; cloud-init would otherwise replace them, and hide that
        # two VMs share theirs.
        "ssh_deletekeys": False,
        "ssh_pwauth": False,
        # A bare Debian has no other locale, and cloud-config fails where it has to make one.
        "locale": "C.UTF-8",
        "disable_root": not root_keys,
        "users": [
            {
                "name": name,
                "lock_passwd": True,
                "shell": "/bin/bash",
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "ssh_authorized_keys": list(keys),
            }
            for name, keys in (users or {}).items()
        ],
    }
    if root_keys:
        # With no default user these are root's alone, and its password stays as the image has it.
        config["ssh_authorized_keys"] = list(root_keys)
    return "#cloud-config\n" + yaml.safe_dump(config, sort_keys=False, width=1000)


def meta_data(instance: str = "") -> str:
    """Meta-data with a fresh instance id (or ``instance``), so that this is a first boot."""
    return yaml.safe_dump({"instance-id": instance or f"serai-{uuid.uuid4()}"})


def write(target: Path, user_data: str, meta_data: str) -> Path:
    """Make ``target`` a seed disk: a vfat file system labelled CIDATA, by mtools(1)."""
    with tempfile.TemporaryDirectory(prefix="serai-") as folder:
        files = [Path(folder) / "user-data", Path(folder) / "meta-data"]
        for file, content in zip(files, (user_data, meta_data), strict=True):
            file.write_text(content)
        run(["mformat", "-C", "-f", "1440", "-v", "CIDATA", "-i", target, "::"])
        run(["mcopy", "-i", target, *files, "::"])
    return target
