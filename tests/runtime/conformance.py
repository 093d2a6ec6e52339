"""What programs expect of a working folder. Run inside: ``conformance.py FOLDER``; prints JSON."""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

MANY = 2000


def run(*words: str, cwd: str = ".") -> str:
    done = subprocess.run(words, cwd=cwd, check=True, capture_output=True, text=True)
    return done.stdout


def unlink() -> None:
    Path("gone").write_text("x")
    Path("gone").unlink()
    assert not Path("gone").exists()


def unlink_open() -> None:
    with Path("gone").open("w+") as file:
        file.write("still here")
        Path("gone").unlink()
        file.seek(0)
        assert file.read() == "still here"
    assert not Path("gone").exists()


def rename_over() -> None:
    Path("a").write_text("a")
    Path("b").write_text("b")
    Path("a").replace("b")
    assert Path("b").read_text() == "a"


def rename_folder() -> None:
    Path("one/two").mkdir(parents=True)
    Path("one").rename("other")
    assert Path("other/two").is_dir()


def modes() -> None:
    Path("script").write_text("#!/bin/sh\necho ran\n")
    Path("script").chmod(0o750)
    assert Path("script").stat().st_mode & 0o7777 == 0o750
    assert run("./script") == "ran\n"


def links() -> None:
    Path("target").write_text("t")
    Path("soft").symlink_to("target")
    os.link("target", "hard")
    assert str(Path("soft").readlink()) == "target" and Path("soft").read_text() == "t"
    assert Path("hard").stat().st_nlink == 2


def nameless() -> None:
    descriptor = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(descriptor, b"x")
    os.close(descriptor)


def xattr() -> None:
    Path("attributed").touch()
    os.setxattr("attributed", "user.a", b"1")
    assert os.getxattr("attributed", "user.a") == b"1"


def mapped() -> None:
    Path("mapped").write_bytes(bytes(8192))
    with Path("mapped").open("r+b") as file:
        with mmap.mmap(file.fileno(), 8192) as memory:
            memory[4096:4101] = b"hello"
            memory.flush()
        assert Path("mapped").read_bytes()[4096:4101] == b"hello"


def locks() -> None:
    with Path("lock").open("w") as one, Path("lock").open("w") as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        try:
            fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            raise AssertionError("locked twice")
    with Path("lock").open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        code = "import fcntl; fcntl.lockf(open('lock', 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL, check=False)
        assert done.returncode


def allocated() -> None:
    with Path("allocated").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 1 << 20)
    assert Path("allocated").stat().st_size == 1 << 20


def sqlite() -> None:
    with sqlite3.connect("data.sqlite") as one, sqlite3.connect("data.sqlite") as two:
        assert one.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
        one.execute("CREATE TABLE t (x)")
        one.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(1000)])
        one.commit()
        assert two.execute("SELECT count(*) FROM t").fetchone() == (1000,)


def git() -> None:
    run("git", "init", "-q", "repository")
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    for number in range(50):
        Path(f"repository/file{number}").write_text(str(number))
    run("git", "add", ".", cwd="repository")
    run("git", *identity, "commit", "-qm", "first", cwd="repository")
    assert run("git", "ls-files", cwd="repository").count("\n") == 50
    assert run("git", "status", "--porcelain", cwd="repository") == ""
    Path("repository/file0").unlink()
    assert run("git", "status", "--porcelain", cwd="repository") == " D file0\n"
    run("git", "gc", "-q", cwd="repository")
    run("git", "checkout", "-q", ".", cwd="repository")
    run("git", "fsck", "--strict", cwd="repository")


def many_files() -> None:
    Path("many").mkdir()
    for number in range(MANY):
        Path(f"many/{number}").write_text(str(number))
    assert len(os.listdir("many")) == MANY
    run("rm", "-r", "many")


def odd_names() -> None:
    for name in ("a b", "a\nb", "ünï", "-rf", "x" * 255, "\udcff"):
        Path("odd", name).parent.mkdir(exist_ok=True)
        Path("odd", name).write_text(name, errors="replace")
    assert len(os.listdir("odd")) == 6


def times() -> None:
    Path("old").touch()
    os.utime("old", (1, 2))
    assert Path("old").stat().st_mtime == 2


def rename_exchange() -> None:
    Path("left").write_text("left")
    Path("right").write_text("right")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, b"left", -100, b"right", 2):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    assert Path("left").read_text() == "right"


CASES: tuple[Callable[[], None], ...] = (
    *(unlink, unlink_open, rename_over, rename_folder, rename_exchange, modes, links, nameless),
    *(xattr, mapped, locks, allocated, times, odd_names, many_files, sqlite, git),
)


def main(folder: str) -> None:
    os.chdir(folder)
    done = {}
    for case in CASES:
        try:
            case()
            done[case.__name__] = "yes"
        except Exception as error:
            done[case.__name__] = f"no: {error!r}"[:200]
    print(json.dumps(done))


if __name__ == "__main__":
    main(sys.argv[1])
