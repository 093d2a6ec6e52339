"""Seeds: what cloud-init is told, and the disk that it reads it from."""

from __future__ import annotations

from pathlib import Path

import yaml

from serai.image.run import run
from serai.image.vm import seed


def _config(text: str) -> dict[str, object]:
    header, _, rest = text.partition("\n")
    assert header == "#cloud-config"
    config = yaml.safe_load(rest)
    assert isinstance(config, dict)
    return config


def test_root_gets_the_key_and_nobody_else_is_made() -> None:
    config = _config(seed.user_data(["ssh-ed25519 AAAA serai"]))
    assert config["ssh_authorized_keys"] == ["ssh-ed25519 AAAA serai"]
    assert config["disable_root"] is False
    assert config["users"] == []


def test_a_user_gets_a_key_and_sudo_and_root_stays_shut() -> None:
    config = _config(seed.user_data(users={"builder": ["ssh-ed25519 AAAA"]}))
    assert config["disable_root"] is True
    assert "ssh_authorized_keys" not in config
    assert config["users"] == [
        {
            "name": "builder",
            "lock_passwd": True,
            "shell": "/bin/bash",
            "sudo": "ALL=(ALL) NOPASSWD:ALL",
            "ssh_authorized_keys": ["ssh-ed25519 AAAA"],
        }
    ]


def test_the_images_own_host_keys_and_locale_are_used() -> None:
    config = _config(seed.user_data())
    assert config["ssh_deletekeys"] is False
    assert config["locale"] == "C.UTF-8"


def test_each_seed_is_a_first_boot() -> None:
    first, second = (yaml.safe_load(seed.meta_data())["instance-id"] for _ in range(2))
    assert first != second


def test_the_disk_carries_both_files_and_the_label(tmp_path: Path) -> None:
    disk = seed.write(tmp_path / "seed.img", "#cloud-config\nuser", "meta")
    # A first FAT file system's label, as blkid and cloud-init's ds-identify look for it.
    assert disk.read_bytes()[43:54] == b"CIDATA     "
    assert run(["mtype", "-i", disk, "::user-data"]).stdout == "#cloud-config\nuser"
    assert run(["mtype", "-i", disk, "::meta-data"]).stdout == "meta"


def test_keys_are_fresh_and_private(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = seed.new_key(tmp_path / "a"), seed.new_key(tmp_path / "b")
    assert first.public.startswith("ssh-ed25519 ")
    assert first.public != second.public
    assert first.private.stat().st_mode & 0o777 == 0o600
