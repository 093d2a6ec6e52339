"""What the bytes of a disk tell without booting it."""

from __future__ import annotations

from pathlib import Path

import pytest

from serai.image.errors import BuildError
from serai.image.verify import shipped
from serai.image.verify.facts import Shipped
from tests.support.disks import CLEAN, a_disk, clean, put


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return clean(tmp_path / "root")


def look(tree: Path) -> Shipped:
    """What a disk with these files tells."""
    return shipped.gather(a_disk(tree.parent, tree), tree.parent)


def test_a_clean_root_tells_of_nothing(tree: Path) -> None:
    assert look(tree) == CLEAN


@pytest.mark.parametrize(
    ("path", "content", "fact", "found"),
    [
        ("etc/machine-id", "a" * 32 + "\n", "machine_id", "a" * 32),
        ("etc/ssh/ssh_host_ed25519_key", "key", "host_keys", ["/etc/ssh/ssh_host_ed25519_key"]),
        ("var/log/dpkg.log", "2026 install\n", "logs", ["/var/log/dpkg.log"]),
        ("var/log/journal/a/system.journal", "LPKS", "logs", ["/var/log/journal/a/system.journal"]),
        ("root/.bash_history", "ls\n", "homes", ["/root/.bash_history"]),
        ("root/.ssh/authorized_keys", "ssh-rsa\n", "homes", ["/root/.ssh/authorized_keys"]),
        ("home/serai-build/.bashrc", "#\n", "homes", ["/home/serai-build"]),
        ("var/lib/apt/lists/x_Release", "Origin\n", "apt", ["/var/lib/apt/lists/x_Release"]),
        ("var/cache/apt/archives/a.deb", "!<arch>", "apt", ["/var/cache/apt/archives/a.deb"]),
        ("var/cache/apt/pkgcache.bin", "x", "apt", ["/var/cache/apt/pkgcache.bin"]),
        ("var/lib/cloud/sem/once", "", "cloud_init", ["/var/lib/cloud/sem/once"]),
        ("tmp/script.sh", "", "temporary", ["/tmp/script.sh"]),
        ("var/tmp/a", "", "temporary", ["/var/tmp/a"]),
        ("var/lib/systemd/random-seed", "x", "random_seeds", ["/var/lib/systemd/random-seed"]),
        (
            "var/lib/systemd/credential.secret",
            "x",
            "random_seeds",
            ["/var/lib/systemd/credential.secret"],
        ),
        ("etc/shadow-", "root:*\nserai-build:!:1::::\n", "mentions", ["/etc/shadow-"]),
        ("var/backups/passwd.bak", "serai-build:x:1000\n", "mentions", ["/var/backups/passwd.bak"]),
        ("etc/sudoers.d/90-x", "b ALL=(ALL) ALL\n", "sudoers", ["/etc/sudoers.d/90-x"]),
    ],
)
def test_what_is_left_is_told_and_nothing_else(
    tree: Path, path: str, content: str, fact: str, found: object
) -> None:
    put(tree, path, content)
    assert look(tree) == CLEAN.model_copy(update={fact: found})


def test_a_second_machine_id_of_dbus_is_told(tree: Path) -> None:
    (tree / "var/lib/dbus/machine-id").unlink()
    put(tree, "var/lib/dbus/machine-id", "b" * 32)
    assert look(tree).dbus_machine_id == "b" * 32


def test_links_are_not_followed_out_of_the_tree(tree: Path, tmp_path: Path) -> None:
    put(tmp_path, "outside/secret", "something")
    (tree / "var/log/away").symlink_to(tmp_path / "outside")
    (tree / "root/.viminfo").symlink_to(tmp_path / "outside/secret")
    assert look(tree) == CLEAN


def test_a_real_disk_is_read_without_mounting_it(tree: Path, tmp_path: Path) -> None:
    put(tree, "root/.bash_history", "ls\n")
    put(tree, "home/some one/notes", "x\n")
    found = shipped.gather(a_disk(tmp_path, tree), tmp_path)
    assert found == CLEAN.model_copy(
        update={"homes": ["/root/.bash_history", "/home/some one/notes", "/home/some one"]}
    )
    assert not list(tmp_path.glob("tmp*"))


def test_a_disk_on_which_nothing_is_found_is_no_clean_one(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    disk = a_disk(tmp_path, tmp_path / "empty")
    with pytest.raises(BuildError, match=r"disk\.qcow2's root cannot be read: it has no accounts"):
        shipped.gather(disk, tmp_path)
