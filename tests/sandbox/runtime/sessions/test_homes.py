"""Homes under hostile content; as root, on a real file system."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from serai.common.errors import SeraiError
from serai.common.paths import Paths
from serai.runtime.sessions.steps import homes

UID = 2000


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths(tmp_path)
    homes.prepare(made)
    return made


def test_a_home_is_private_and_complete(paths: Paths) -> None:
    homes.make(paths, "a", UID)
    home = paths.home("a")
    for folder in ("tmp", "mnt/outputs", "mnt/uploads", "mnt/.skills/skills", "mnt/.claude"):
        assert (home / folder).is_dir()
    for path in (home, *home.rglob("*")):
        info = path.lstat()
        assert (info.st_uid, info.st_gid) == (UID, UID)
    assert home.stat().st_mode & 0o7777 == 0o700
    assert {".bashrc", ".profile", ".bash_logout"} <= {path.name for path in home.iterdir()}
    (home / "mine").touch()
    homes.make(paths, "a", UID)
    assert (home / "mine").exists(), "a second make changed a home"


def test_a_name_that_is_taken_on_the_disk_is_left_alone(paths: Paths) -> None:
    paths.home("a").mkdir()
    (paths.home("a") / "precious").touch()
    with pytest.raises(SeraiError, match="cannot put the home"):
        homes.make(paths, "a", UID)
    homes.move_away(paths, "a", UID)
    assert (paths.home("a") / "precious").exists()


def test_archiving_touches_the_top_folder_only(paths: Paths) -> None:
    homes.make(paths, "a", UID)
    inside = paths.home("a") / "mnt/outputs"
    before = inside.stat()
    for _ in range(2):
        homes.lock(paths, "a", UID)
        info = paths.home("a").stat()
        assert (info.st_uid, info.st_gid, info.st_mode & 0o7777) == (0, UID, 0)
    assert inside.stat() == before
    assert homes.found(paths) == {"a": (UID, True)}
    for _ in range(2):
        homes.unlock(paths, "a", UID)
        info = paths.home("a").stat()
        assert (info.st_uid, info.st_gid, info.st_mode & 0o7777) == (UID, UID, 0o700)


def opened_by(uid: int, home: Path) -> bool:
    """Whether a user of the VM can change an archived home's mode, however it got there."""
    change = (
        "import os; fd = os.open('.', os.O_RDONLY); os.setgroups([]); "
        f"os.setresgid({uid}, {uid}, {uid}); os.setresuid({uid}, {uid}, {uid}); "
        "os.fchmod(fd, 0o755)"
    )
    done = subprocess.run(
        [sys.executable, "-c", change], cwd=home, check=False, capture_output=True
    )
    return done.returncode == 0


def test_no_user_opens_an_archived_home(paths: Paths) -> None:
    homes.make(paths, "a", UID)
    homes.lock(paths, "a", UID)
    assert not any(opened_by(uid, paths.home("a")) for uid in (UID, homes.FORMER, 1000))
    assert paths.home("a").stat().st_mode & 0o7777 == 0
    # Whoever owns it would.
    os.chown(paths.home("a"), homes.FORMER, UID)
    assert opened_by(homes.FORMER, paths.home("a"))


def test_an_archive_of_nobodys_is_taken_over(paths: Paths) -> None:
    homes.make(paths, "a", UID)
    homes.lock(paths, "a", UID)
    for mode in (0, 0o755):
        os.chown(paths.home("a"), homes.FORMER, UID)
        paths.home("a").chmod(mode)
        assert homes.found(paths) == {"a": (UID, True)}
        homes.prepare(paths)
        info = paths.home("a").stat()
        assert (info.st_uid, info.st_gid, info.st_mode & 0o7777) == (0, UID, 0)


def test_a_symlink_in_a_homes_place_is_never_followed(paths: Paths, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    os.chown(outside, UID, UID)
    (outside / "file").touch()
    paths.home("a").symlink_to(outside)
    for act in (homes.lock, homes.unlock):
        with pytest.raises(SeraiError, match="cannot open the home"):
            act(paths, "a", UID)
    homes.move_away(paths, "a", UID)
    assert outside.stat().st_mode & 0o777 == 0o755
    assert (outside / "file").exists()
    assert homes.found(paths) == {}


def test_another_sessions_home_is_not_taken_for_it(paths: Paths) -> None:
    homes.make(paths, "a", UID)
    for act in (homes.lock, homes.unlock):
        with pytest.raises(SeraiError, match="does not belong"):
            act(paths, "a", UID + 1)
    homes.move_away(paths, "a", UID + 1)
    assert paths.home("a").is_dir()


def hostile(home: Path, outside: Path) -> None:
    """What a session could leave to whoever deletes its home."""
    (home / "link").symlink_to(outside)
    (home / "up").symlink_to("../../..")
    (home / "loop").symlink_to("loop")
    os.mkfifo(home / "fifo")
    (home / "-rf").touch()
    (home / " ").touch()
    (home / "new\nline").touch()
    os.close(os.open(os.fsencode(home) + b"/\xff\xfe", os.O_CREAT | os.O_WRONLY))
    os.link(outside / "file", home / "hard")
    closed = home / "closed"
    closed.mkdir()
    (closed / "file").touch()
    closed.chmod(0)
    descriptor = os.open(home, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d" * 100, dir_fd=descriptor)
        deeper = os.open("d" * 100, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = deeper
    os.symlink("/", "root", dir_fd=descriptor)
    os.close(descriptor)


def test_a_hostile_home_is_deleted_and_nothing_else(paths: Paths, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("precious")
    homes.make(paths, "a", UID)
    homes.make(paths, "b", UID + 1)
    hostile(paths.home("a"), outside)
    homes.move_away(paths, "a", UID)
    assert not paths.home("a").exists()
    assert homes.leftovers(paths) == {UID}
    assert (paths.removing.stat().st_mode & 0o777, paths.state.stat().st_mode & 0o777) == (
        0o700,
        0o700,
    )
    for _ in range(2):
        asyncio.run(homes.delete(paths, UID))
        assert homes.leftovers(paths) == set()
    assert (outside / "file").read_text() == "precious"
    assert paths.home("b").is_dir()


def test_a_delete_that_was_cut_off_is_taken_up_again(paths: Paths) -> None:
    homes.make(paths, "a", UID)
    homes.move_away(paths, "a", UID)
    (paths.removing / str(UID) / ".bashrc").unlink()
    homes.move_away(paths, "a", UID)
    asyncio.run(homes.delete(paths, UID))
    assert homes.leftovers(paths) == set()


def test_a_home_half_made_is_made_again(paths: Paths) -> None:
    (paths.making / str(UID) / "mnt").mkdir(parents=True)
    homes.make(paths, "a", UID)
    assert (paths.home("a") / "mnt/outputs").is_dir()
    assert homes.leftovers(paths) == set()


def test_what_is_no_home_is_not_taken_for_one(paths: Paths) -> None:
    (paths.sessions / "lost+found").mkdir()
    (paths.sessions / "shared").mkdir()
    os.chown(paths.sessions / "shared", 1000, 1001)
    (paths.sessions / "file").touch()
    sqlite3.connect(paths.registry).close()
    assert homes.found(paths) == {}
