"""What programs expect of a working folder.

``python3 conformance.py FOLDER [--many N] [--large MIB] [--only CASE …]`` works in FOLDER and
prints JSON: for each case how it went, ``yes``, ``no: …`` or ``no program: …``, and its seconds. It
needs nothing but the standard library, and leaves its files behind for whoever looks from outside.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import fcntl
import io
import json
import mmap
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

YES, ABSENT = "yes", "no program"
# How many small files, and of how many MiB a large one is: options set them.
SIZES = {"many": 10_000, "large": 1024}
PIECE = 1 << 20
MODULES = 100  # of the packages that pip and npm install
WRITERS, ROWS = 3, 20  # processes on one database, and what each inserts


def run(*words: str, cwd: str = ".") -> str:
    done = subprocess.run(words, cwd=cwd, check=False, capture_output=True, text=True)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        raise AssertionError(f"{words[0]} ended with {done.returncode}: {said[-200:]}")
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
    with Path("b").open() as before:
        Path("a").replace("b")
        assert before.read() == "b"
    assert Path("b").read_text() == "a"


def rename_folder() -> None:
    Path("one/two").mkdir(parents=True)
    Path("one").rename("other")
    assert Path("other/two").is_dir()


def rename_exchange() -> None:
    Path("left").write_text("left")
    Path("right").write_text("right")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, b"left", -100, b"right", 2):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    assert Path("left").read_text() == "right"


def chmod() -> None:
    Path("script").write_text("#!/bin/sh\necho ran\n")
    Path("script").chmod(0o750)
    assert Path("script").stat().st_mode & 0o7777 == 0o750
    assert run("./script") == "ran\n"


def programs() -> None:
    shutil.copy("/usr/bin/true", "program")
    run("./program")


def symlink() -> None:
    Path("target").write_text("t")
    Path("soft").symlink_to("target")
    Path("nowhere").symlink_to("not there")
    assert str(Path("soft").readlink()) == "target" and Path("soft").read_text() == "t"
    assert not Path("nowhere").exists()


def link() -> None:
    Path("first").write_text("1")
    os.link("first", "second")
    assert Path("second").stat().st_nlink == 2
    assert Path("first").samefile("second")


def nameless() -> None:
    descriptor = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(descriptor, b"x")
    os.close(descriptor)


def xattr() -> None:
    Path("attributed").touch()
    os.setxattr("attributed", "user.a", b"1")
    assert os.getxattr("attributed", "user.a") == b"1"


def times() -> None:
    Path("old").touch()
    os.utime("old", (1, 2))
    assert Path("old").stat().st_mtime == 2


def odd_names() -> None:
    for name in ("a b", "a\nb", "ünï", "-rf", "x" * 255, "\udcff"):
        Path("odd", name).parent.mkdir(exist_ok=True)
        Path("odd", name).write_text(name, errors="replace")
    assert len(os.listdir("odd")) == 6


def append() -> None:
    """Two that append to one file do not write over each other's lines."""
    with Path("log").open("ab", 0) as one, Path("log").open("ab", 0) as two:
        for _ in range(20):
            one.write(b"one\n")
            two.write(b"two\n")
    assert Path("log").read_bytes() == b"one\ntwo\n" * 20


def map_shared() -> None:
    """What one process writes to memory another one sees there, and both in the file."""
    Path("mapped").write_bytes(bytes(8192))
    code = "import mmap; file = open('mapped', 'r+b'); m = mmap.mmap(file.fileno(), 0); "
    code += "assert m[4096:4101] == b'hello'; m[0:5] = b'there'"
    with Path("mapped").open("r+b") as file, mmap.mmap(file.fileno(), 8192) as memory:
        memory[4096:4101] = b"hello"
        run(sys.executable, "-c", code)
        assert memory[0:5] == b"there"
        memory.flush()
    data = Path("mapped").read_bytes()
    assert data[4096:4101] == b"hello" and data[0:5] == b"there"


def map_private() -> None:
    Path("private").write_bytes(b"x" * 8192)
    with Path("private").open("rb") as file:
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
            assert memory[4096:4097] == b"x"
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as memory:
            memory[0:1] = b"y"
    assert Path("private").read_bytes() == b"x" * 8192


def flock() -> None:
    with Path("locked").open("w") as one, Path("locked").open("w") as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        try:
            fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            raise AssertionError("locked twice")


def lockf() -> None:
    with Path("range").open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        code = "import fcntl; fcntl.lockf(open('range', 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL, check=False)
        assert done.returncode, "locked twice"


def posix_fallocate() -> None:
    """The C library writes zeros where the file system knows no fallocate(2)."""
    with Path("reserved").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, PIECE)
    assert Path("reserved").stat().st_size == PIECE


def fallocate() -> None:
    with Path("allocated").open("wb") as file:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.fallocate(file.fileno(), 0, ctypes.c_long(0), ctypes.c_long(PIECE)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    assert Path("allocated").stat().st_size == PIECE


def sparse() -> None:
    """A file that is longer than 32 bits say."""
    with Path("sparse").open("w+b") as file:
        file.seek(5 << 30)
        file.write(b"end")
        file.seek(3 << 30)
        assert file.read(4) == bytes(4)
        file.truncate(1)
    assert Path("sparse").stat().st_size == 1


def sqlite() -> None:
    with sqlite3.connect("data.sqlite") as one, sqlite3.connect("data.sqlite") as two:
        one.execute("CREATE TABLE t (x)")
        one.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(1000)])
        one.commit()
        assert two.execute("SELECT count(*) FROM t").fetchone() == (1000,)


def sqlite_wal() -> None:
    """Write-ahead logging: the processes share memory that is mapped out of a file."""
    database = sqlite3.connect("wal.sqlite")
    assert database.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    database.execute("CREATE TABLE t (x)")
    code = "import sqlite3\nd = sqlite3.connect('wal.sqlite', timeout=100, isolation_level=None)\n"
    code += f"for n in range({ROWS}): d.execute('INSERT INTO t VALUES (?)', (n,))"  # noqa: S608
    writers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(WRITERS)]
    assert [writer.wait() for writer in writers] == [0] * WRITERS
    assert database.execute("SELECT count(*) FROM t").fetchone() == (WRITERS * ROWS,)
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    assert not Path("wal.sqlite-wal").exists(), "what was logged is not in the database"


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


def pip() -> None:
    """A package of the folder itself, as there may be no network."""
    information = "thing-1.0.dist-info"
    files = {f"thing/module{number}.py": f"NUMBER = {number}\n" for number in range(MODULES)}
    files["thing/__init__.py"] = "def main():\n    print('a thing of python')\n"
    files[f"{information}/METADATA"] = "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n"
    files[f"{information}/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{information}/entry_points.txt"] = "[console_scripts]\nthing = thing:main\n"
    files[f"{information}/RECORD"] = ""
    with zipfile.ZipFile("thing-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    quiet = ("-q", "--disable-pip-version-check", "--no-index", "--no-cache-dir")
    run("pip", "install", *quiet, "--find-links", ".", "-t", "site", "thing")
    code = "import sys; sys.path.insert(0, 'site'); import thing.module7 as m; print(m.__file__)"
    assert run(sys.executable, "-c", code).strip().endswith("site/thing/module7.py")
    assert os.access("site/bin/thing", os.X_OK)


def npm() -> None:
    """The same; npm puts symlinks to programs in node_modules/.bin."""
    description = {"name": "thing", "version": "1.0.0", "bin": {"thing": "thing.js"}}
    files = {f"package/lib/{number}.js": f"exports.n={number}\n" for number in range(MODULES)}
    files["package/package.json"] = json.dumps(description)
    files["package/thing.js"] = "#!/usr/bin/env node\nconsole.log(require('./lib/7.js').n)\n"
    Path("app").mkdir()
    with tarfile.open("app/thing-1.0.0.tgz", "w:gz") as package:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), 0o644
            package.addfile(entry, io.BytesIO(text.encode()))
    quiet = ("--offline", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")
    run("npm", "install", *quiet, "./thing-1.0.0.tgz", cwd="app")
    assert Path("app/node_modules/.bin/thing").is_symlink()
    assert run("./node_modules/.bin/thing", cwd="app") == "7\n"


def many_files() -> None:
    Path("many").mkdir()
    for number in range(SIZES["many"]):
        Path(f"many/{number}").write_text(str(number))
    assert len(os.listdir("many")) == SIZES["many"]
    assert all(Path(f"many/{n}").stat().st_size == len(str(n)) for n in range(SIZES["many"]))
    run("rm", "-r", "many")
    assert not Path("many").exists()


def large_file() -> None:
    """Every piece of it differs, so that one at a wrong place is found."""
    piece = bytearray(os.urandom(PIECE))
    with Path("large").open("wb", 0) as file:
        for number in range(SIZES["large"]):
            piece[:8] = number.to_bytes(8, "big")
            assert file.write(piece) == PIECE
        os.fsync(file.fileno())
    got = memoryview(bytearray(PIECE))
    with Path("large").open("rb", 0) as file:
        for number in range(SIZES["large"]):
            done = 0
            while done < PIECE:
                count = file.readinto(got[done:])
                assert count, f"it ends at {number} MiB and {done} bytes"
                done += count
            piece[:8] = number.to_bytes(8, "big")
            assert got == piece, f"MiB {number} is not what was written"
        assert file.read(1) == b""
    Path("large").unlink()


CASES: tuple[Callable[[], None], ...] = (
    *(unlink, unlink_open, rename_over, rename_folder, rename_exchange, chmod, programs, symlink),
    *(link, nameless, xattr, times, odd_names, append, map_shared, map_private, flock, lockf),
    *(
        posix_fallocate,
        fallocate,
        sparse,
        sqlite,
        sqlite_wal,
        git,
        pip,
        npm,
        many_files,
        large_file,
    ),
)
PROGRAMS = ("git", "pip", "npm")  # which the cases of these names need


def tried(case: Callable[[], None]) -> str:
    """How a case went, in one line."""
    if case.__name__ in PROGRAMS and not shutil.which(case.__name__):
        return f"{ABSENT}: {case.__name__}"
    try:
        case()
    except OSError as error:
        return f"no: {errno.errorcode.get(error.errno or 0)} {error}"[:200]
    except Exception as error:
        return f"no: {error!r}"[:300]
    return YES


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    for name, size in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--only", nargs="*", default=[case.__name__ for case in CASES])
    options = parser.parse_args()
    SIZES.update({name: getattr(options, name) for name in SIZES})
    os.chdir(options.folder)
    done, seconds = {}, {}
    for case in CASES:
        if case.__name__ in options.only:
            begin = time.monotonic()
            done[case.__name__] = tried(case)
            seconds[case.__name__] = round(time.monotonic() - begin, 2)
    print(json.dumps({"done": done, "seconds": seconds}))


if __name__ == "__main__":
    main()
