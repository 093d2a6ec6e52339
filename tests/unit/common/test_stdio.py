from __future__ import annotations

import os
import posix
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import serai
from serai.common import stdio
from serai.common.stdio import may_be_handed_in

SOURCES = Path(serai.__file__).parents[1]
PROGRAMS = SOURCES / "serai/install/programs"
BY_PATH = ("sandbox/holder.py", "sandbox/usher.py", "folders/transfer.py", "folders/bindfs.py")


def opened(path: Path, flags: int, mode: int) -> int:
    path.touch()
    path.chmod(mode)
    return os.open(path, flags)


def test_pipes_null_and_files_to_read_are_handed_in(tmp_path: Path) -> None:
    descriptors = [
        *os.pipe(),
        os.open("/dev/null", os.O_RDWR),
        os.open("/dev/urandom", os.O_RDONLY),
        opened(tmp_path / "read", os.O_RDONLY, 0o644),
    ]
    try:
        assert [may_be_handed_in(each) for each in descriptors] == [True] * len(descriptors)
    finally:
        for each in descriptors:
            os.close(each)


def test_what_a_payload_could_open_again_for_more_is_not_handed_in(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "fifo").chmod(0o666)
    ends = socket.socketpair()
    descriptors = {
        "a file to write": opened(tmp_path / "w", os.O_WRONLY | os.O_APPEND, 0o600),
        "a file to read and write": opened(tmp_path / "rw", os.O_RDWR, 0o600),
        "a file that all may write": opened(tmp_path / "all", os.O_RDONLY, 0o666),
        "a path": opened(tmp_path / "path", os.O_PATH, 0o600),
        "a pipe with a name": os.open(tmp_path / "fifo", os.O_RDWR),
        "a directory": os.open(tmp_path, os.O_RDONLY),
        "a socket": ends[0].fileno(),
        **dict(zip(("a terminal", "its other end"), os.openpty(), strict=True)),
        "a closed one": 9999,
    }
    assert {what for what, each in descriptors.items() if may_be_handed_in(each)} == set()
    for what, each in descriptors.items():
        if what not in ("a socket", "a closed one"):
            os.close(each)
    for end in ends:
        end.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a device")
def test_the_vms_memory_and_log_are_not_like_null(tmp_path: Path) -> None:
    kmsg = tmp_path / "kmsg"
    try:
        os.mknod(kmsg, stat.S_IFCHR | 0o600, os.makedev(1, 11))
        descriptor = os.open(kmsg, os.O_WRONLY)
    except OSError:
        pytest.skip("no devices may be made or opened here")
    assert not may_be_handed_in(descriptor)
    os.close(descriptor)


@pytest.mark.parametrize("closed", ["0", "1", "2", "01", "02", "12", "012", ""])
def test_what_was_closed_is_null_and_what_comes_next_is_above(closed: str) -> None:
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]);"
        "from serai.common import stdio; stdio.open_closed();"
        "null = os.stat('/dev/null').st_rdev;"
        "found = ''.join(str(n) for n in (0, 1, 2) if os.fstat(n).st_rdev == null);"
        "print('x', flush=True); print('y', file=sys.stderr, flush=True); sys.stdin.read();"
        "os._exit(0 if found == sys.argv[2] and os.dup(0) > 2 else 9)"
    )
    shut = " ".join(f"{number}>&-" for number in closed)
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {shut}', "sh", sys.executable, "-ISc", code, SOURCES, closed],
        input=b"",
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done


def test_a_library_keeps_its_sockets_above_the_standard_three() -> None:
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]);"
        "from serai.common import stdio; os.close(1);"
        "low = os.open('/dev/zero', os.O_RDWR); high = stdio.above(low);"
        "os._exit(0 if low == 1 and high > 2 and os.read(high, 1) == b'\\0' else 9)"
    )
    done = subprocess.run([sys.executable, "-ISc", code, SOURCES], check=False, timeout=60)
    assert done.returncode == 0
    assert stdio.above(77) == 77


def test_all_is_written_however_little_each_write_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    written = bytearray()

    def three_at_most(descriptor: int, data: memoryview) -> int:
        written.extend(data[:3])
        return len(data[:3])

    monkeypatch.setattr(posix, "write", three_at_most)
    stdio.write_all(1, b"0123456789")
    assert written == b"0123456789"


@pytest.mark.parametrize("name", sorted(each.name for each in PROGRAMS.iterdir()))
def test_every_program_opens_what_is_closed_before_all_else(name: str) -> None:
    text = (PROGRAMS / name).read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    if "python" in text.splitlines()[0]:
        assert lines[2:4] == ["from serai.common import stdio", "stdio.begin()"]
    else:
        tried = [line for line in lines if line != "set -eu"][:3]
        assert tried == [f"[ -e /proc/$$/fd/{n} ] || exec {n}<>/dev/null" for n in range(3)]


@pytest.mark.parametrize("path", BY_PATH)
def test_what_is_started_by_its_path_does_so_too(path: str) -> None:
    text = (SOURCES / "serai/runtime" / path).read_text()
    assert text.rpartition('if __name__ == "__main__":\n')[2].startswith(
        "    stdio.open_closed()\n"
    )


def ended(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """A program of ours that runs ``code``."""
    begin = "import sys; sys.path.insert(0, sys.argv[1]); sys.argv[0] = '/usr/bin/serai'\n"
    begin += "from serai.common import stdio; stdio.begin()\n"
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    argv = [sys.executable, "-ISc", begin + code, str(SOURCES)]
    return subprocess.run(argv, check=False, text=True, timeout=60, **given)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise PermissionError(13, 'Permission denied', '/run/x')", "/run/x: Permission denied; "),
        ("open('/no/such')", "/no/such: No such file or directory; 'serai doctor' "),
        ("open('/dev/null/x')", "/dev/null/x: Not a directory; "),
        ("raise OSError(28, 'No space left on device', '/x\\x1b[2J')", "/x?[2J: No space left on"),
        ("import subprocess; subprocess.run(['no-such-program'])", "no-such-program: No such file"),
    ],
)
def test_what_the_system_refuses_is_one_line(code: str, said: str) -> None:
    done = ended(code)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"serai: {said}")
    assert done.stderr.count("\n") == 1


def test_a_full_disk_behind_standard_output_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = ended("print('x'); sys.stdout.flush()", stdout=full)
    assert done.returncode == 1
    assert done.stderr == "serai: No space left on device; make room, or write elsewhere\n"


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    done = ended("print('x' * 100_000); sys.stdout.flush()", stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("code", ["1 / 0", "raise OSError(9, 'Bad file descriptor')"])
def test_a_defect_keeps_its_traceback(code: str) -> None:
    assert "Traceback" in ended(code).stderr
