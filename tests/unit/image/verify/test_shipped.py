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


# What a build may leave behind: its content, and the fact that tells of it.
LEFT = {
    "etc/ssh/ssh_host_ed25519_key": ("key", "host_keys"),
    "var/log/dpkg.log": ("2026 install\n", "logs"),
    "var/log/journal/a/system.journal": ("LPKS", "logs"),
    "root/.bash_history": ("ls\n", "homes"),
    "root/.ssh/authorized_keys": ("ssh-rsa\n", "homes"),
    "var/lib/apt/lists/x_Release": ("Origin\n", "apt"),
    "var/cache/apt/archives/a.deb": ("!<arch>", "apt"),
    "var/cache/apt/pkgcache.bin": ("x", "apt"),
    "var/lib/cloud/sem/once": ("", "cloud_init"),
    "tmp/script.sh": ("", "temporary"),
    "var/tmp/a": ("", "temporary"),
    "var/lib/systemd/random-seed": ("x", "random_seeds"),
    "var/lib/systemd/credential.secret": ("x", "random_seeds"),
    "var/lib/serai/keys/gate.cred": ("x", "random_seeds"),
    "var/lib/serai/keys/gate.key": ("x", "random_seeds"),
    "etc/shadow-": ("root:*\nserai-build:!:1::::\n", "mentions"),
    "var/backups/passwd.bak": ("serai-build:x:1000\n", "mentions"),
    "etc/sudoers.d/90-x": ("b ALL=(ALL) ALL\n", "sudoers"),
}


def test_what_is_left_is_told_and_nothing_else(tree: Path) -> None:
    for path, (content, _) in LEFT.items():
        put(tree, path, content)
    put(tree, "etc/machine-id", "a" * 32 + "\n")
    put(tree, "home/serai-build/.bashrc", "#\n")
    told = look(tree).model_dump()
    expected = CLEAN.model_dump() | {"machine_id": "a" * 32}
    for path, (_, fact) in LEFT.items():
        expected[fact] = [*expected[fact], f"/{path}"]
    expected["homes"] += ["/home/serai-build"]
    for fact, value in expected.items():
        assert told[fact] == value or sorted(told[fact]) == sorted(value), fact


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
