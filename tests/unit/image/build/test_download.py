"""Fetching a pinned file: what arrives, what is left behind, and what a person is told."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import IO

import pytest

from serai.image import cache
from serai.image.build import download
from serai.image.errors import BuildError
from tests.support.descriptors import open_ones
from tests.support.waiting import DEADLINE, wait_for
from tests.support.web_server import Answer, Origin, hang_up, ignore_range, status, wrong_range

CONTENT = random.Random(1).randbytes(1_500_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = random.Random(2).randbytes(len(CONTENT))
HASTE = download.Patience(attempts=3, seconds=DEADLINE, pause=0)
SHORT = download.Patience(attempts=2, seconds=0.3, pause=0)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def target(tmp_path: Path, origin: Origin) -> Path:
    """Where to; and the origin has the file at /disk.img."""
    origin.files["/disk.img"] = CONTENT
    return tmp_path / "downloads" / "disk.img"


def part_of(target: Path) -> Path:
    return target.with_name("disk.img.part")


def leave(target: Path, part: bytes) -> None:
    """As if an earlier run had been broken off."""
    target.parent.mkdir()
    part_of(target).write_bytes(part)


def left(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def fetch(
    origin: Origin, target: Path, *, patience: download.Patience = HASTE, sha256: str = SHA256
) -> None:
    download.fetch(f"{origin.url}/disk.img", target, sha256=sha256, patience=patience)


def arrives(origin: Origin, target: Path) -> None:
    fetch(origin, target)
    assert target.read_bytes() == CONTENT


def failure(origin: Origin, target: Path, *, patience: download.Patience = HASTE) -> str:
    with pytest.raises(BuildError) as caught:
        fetch(origin, target, patience=patience)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_arrives_whole_with_progress(origin: Origin, target: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    download.fetch(
        f"{origin.url}/disk.img",
        target,
        sha256=SHA256,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert target.read_bytes() == CONTENT
    assert left(target) == ["disk.img"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_a_right_file_is_not_fetched_again(origin: Origin, target: Path) -> None:
    fetch(origin, target)
    fetch(origin, target)
    assert len(origin.requests) == 1
    assert left(target) == ["disk.img"]


def test_a_file_gone_bad_on_disk_is_replaced(origin: Origin, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(OTHER)
    arrives(origin, target)


def test_only_the_rest_is_transferred(origin: Origin, target: Path) -> None:
    leave(target, CONTENT[:1_000_000])
    arrives(origin, target)
    assert origin.requests == [("/disk.img", "bytes=1000000-")]
    assert origin.sent == 500_000


def test_a_whole_part_needs_no_network(origin: Origin, target: Path) -> None:
    leave(target, CONTENT)
    arrives(origin, target)
    assert origin.requests == []


@pytest.mark.parametrize("answer", [ignore_range, wrong_range])
def test_a_server_that_does_not_resume_starts_over(
    origin: Origin, target: Path, answer: Answer
) -> None:
    leave(target, CONTENT[:1000])
    origin.script["/disk.img"] = [answer]
    arrives(origin, target)


def test_a_server_that_answers_with_another_part(origin: Origin, target: Path) -> None:
    origin.script["/disk.img"] = [wrong_range] * HASTE.attempts
    assert "answered with another part than was asked for" in failure(origin, target)
    assert left(target) == []


@pytest.mark.parametrize("old", [OTHER[:1000], OTHER, OTHER + b"more"])
def test_a_part_of_another_file_starts_over(origin: Origin, target: Path, old: bytes) -> None:
    leave(target, old)
    arrives(origin, target)
    assert left(target) == ["disk.img"]


def test_a_hang_up_is_resumed_within_the_run(origin: Origin, target: Path) -> None:
    origin.script["/disk.img"] = [hang_up(300_000), hang_up(200_000)]
    arrives(origin, target)
    assert [asked for _, asked in origin.requests] == [None, "bytes=300000-", "bytes=500000-"]


def test_a_passing_error_is_retried(origin: Origin, target: Path) -> None:
    origin.script["/disk.img"] = [status(503), status(429)]
    arrives(origin, target)


@pytest.mark.parametrize("sent", [CONTENT[:-1], CONTENT[:777] + b"no" + CONTENT[779:]])
def test_another_file_than_the_pinned_one(origin: Origin, target: Path, sent: bytes) -> None:
    origin.files["/disk.img"] = sent
    message = failure(origin, target)
    assert "disk.img from 127.0.0.1 is not the file that was pinned" in message
    assert f"its {len(sent)} bytes have the SHA-256 {hashlib.sha256(sent).hexdigest()}" in message
    assert SHA256 in message
    assert left(target) == []


def test_not_there(origin: Origin, target: Path) -> None:
    del origin.files["/disk.img"]
    message = failure(origin, target)
    assert message.startswith("cannot get disk.img from 127.0.0.1: the server answered 404")
    assert len(origin.requests) == 1, "a missing file is not asked for twice"
    assert left(target) == []


def test_forbidden_is_not_called_missing(origin: Origin, target: Path) -> None:
    origin.script["/disk.img"] = [status(403)]
    with pytest.raises(BuildError, match="answered 403") as caught:
        fetch(origin, target)
    assert not isinstance(caught.value, download.MissingError)


def test_hanging_up_for_good_leaves_what_a_re_run_resumes(origin: Origin, target: Path) -> None:
    origin.script["/disk.img"] = [hang_up(400_000)] * HASTE.attempts
    message = failure(origin, target)
    assert "the server hung up after 1200000 of 1500000 bytes" in message
    assert "a re-run resumes at 1 MiB" in message
    assert left(target) == ["disk.img.part"]
    fetch(origin, target)
    assert origin.sent == 300_000
    assert target.read_bytes() == CONTENT


def test_connection_refused(origin: Origin, target: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    origin.url = f"http://127.0.0.1:{port}"
    message = failure(origin, target)
    assert message == "cannot get disk.img from 127.0.0.1: connection refused; check the network"
    assert left(target) == []


def test_no_such_name(origin: Origin, target: Path) -> None:
    origin.url = "http://no-such-host.invalid"
    assert "cannot get disk.img from no-such-host.invalid: " in failure(origin, target)
    assert left(target) == []


def test_no_answer(origin: Origin, target: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        origin.url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        assert "no answer within 0.3 s" in failure(origin, target, patience=SHORT)
    assert left(target) == []


def test_a_header_that_never_ends_is_no_answer(origin: Origin, target: Path) -> None:
    def trickle(handler: BaseHTTPRequestHandler, content: bytes) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        # Every byte comes well before a socket's time-out would strike.
        with suppress(OSError):
            while not origin.closing.wait(0.05):
                handler.wfile.write(b".")

    origin.script["/disk.img"] = [trickle, trickle]
    assert "no answer within 0.3 s" in failure(origin, target, patience=SHORT)


def test_a_stall_in_the_middle_can_be_resumed(origin: Origin, target: Path) -> None:
    def stall(handler: BaseHTTPRequestHandler, content: bytes) -> None:
        if handler.headers["Range"]:
            handler.send_error(503)
            return
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[:100_000])
        origin.closing.wait()

    # Where the server's thread is late, more than one try gets nothing.
    patience = dataclasses.replace(SHORT, attempts=20)
    origin.script["/disk.img"] = [stall] * patience.attempts
    message = failure(origin, target, patience=patience)
    assert "a re-run resumes" in message
    assert part_of(target).stat().st_size == 100_000


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Files of this process cannot grow beyond ``size`` bytes (setrlimit(2))."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_no_room(origin: Origin, target: Path) -> None:
    with file_size_limit(1_000_000):
        message = failure(origin, target)
    assert message.startswith(f"no room for disk.img in {target.parent}: ")
    assert "SERAI_CACHE" in message
    assert len(origin.requests) == 1, "a full disk is not tried again"
    assert left(target) == []


IN_A_SMALL_FILE_SYSTEM = """
import sys
from pathlib import Path
from serai.image.build import download
from serai.image.errors import BuildError
url, sha256, folder = sys.argv[1:]
try:
    download.fetch(url, Path(folder) / "disk.img", sha256=sha256)
except BuildError as error:
    print(error)
    print(sorted(path.name for path in Path(folder).iterdir()))
"""


def test_a_full_disk(origin: Origin, target: Path) -> None:
    target.parent.mkdir()
    script = 'mount -t tmpfs -o size=256k none "$1" && shift && exec "$@"'
    unshare = ["unshare", "--map-root-user", "--mount", "--propagation", "private"]
    if subprocess.run([*unshare, "true"], check=False).returncode != 0:
        pytest.skip("this machine gives no mount namespace; test_no_room covers the same")
    child = [sys.executable, "-c", IN_A_SMALL_FILE_SYSTEM, f"{origin.url}/disk.img", SHA256]
    done = subprocess.run(
        [*unshare, "sh", "-c", script, "sh", target.parent, *child, target.parent],
        capture_output=True,
        text=True,
        check=True,
    )
    message, folder = done.stdout.splitlines()
    assert message.startswith(f"no room for disk.img in {target.parent}: No space left on device;")
    assert folder == "[]"


def test_a_folder_that_cannot_be_made(origin: Origin, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot write" in failure(origin, tmp_path / "file" / "disk.img")


def test_ctrl_c_leaves_what_a_re_run_resumes(origin: Origin, target: Path) -> None:
    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download.fetch(f"{origin.url}/disk.img", target, sha256=SHA256, progress=interrupt)
    assert part_of(target).stat().st_size > 0
    arrives(origin, target)


def test_two_at_once_do_not_mix(origin: Origin, target: Path) -> None:
    target.parent.mkdir()
    with cache.locked(part_of(target)):
        assert "another build" in failure(origin, target)
    arrives(origin, target)


def test_a_lock_on_a_file_just_renamed_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "disk.img.part"
    lock = fcntl.flock

    def late(stream: IO[str], operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        path.rename(tmp_path / "disk.img")
        lock(stream, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with cache.locked(path):
        assert path.exists()


def test_two_threads_agree_on_one_file(origin: Origin, target: Path) -> None:
    failures: list[str] = []

    def work() -> None:
        try:
            fetch(origin, target)
        except BuildError as error:
            failures.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("another build" in text for text in failures)
    assert target.read_bytes() == CONTENT
    assert left(target) == ["disk.img"]


def test_a_redirect_is_followed_with_its_range(origin: Origin, target: Path) -> None:
    def moved(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        handler.send_response(302)
        handler.send_header("Location", "/elsewhere.img")
        handler.end_headers()

    leave(target, CONTENT[:1000])
    origin.script["/disk.img"] = [moved]
    origin.files["/elsewhere.img"] = CONTENT
    fetch(origin, target)
    assert origin.requests[-1] == ("/elsewhere.img", "bytes=1000-")
    assert target.read_bytes() == CONTENT


def test_the_proxy_of_the_environment(
    origin: Origin, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", origin.url.replace("//", "//user:secret@"))
    download.fetch("http://far.invalid/disk.img", target, sha256=SHA256)
    assert origin.requests == [("http://far.invalid/disk.img", None)]
    with pytest.raises(BuildError) as caught:
        download.fetch("http://far.invalid/none.img", target, sha256="0" * 64)
    assert "far.invalid through the proxy 127.0.0.1" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_local_copy(tmp_path: Path, target: Path) -> None:
    copy = tmp_path / "copy of disk.img"
    copy.write_bytes(CONTENT)
    download.fetch(copy.as_uri(), target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    target.unlink()
    copy.unlink()
    with pytest.raises(BuildError, match="no such file or directory; check the path"):
        download.fetch(copy.as_uri(), target, sha256=SHA256)
    assert left(target) == []


def test_no_other_scheme(target: Path) -> None:
    with pytest.raises(BuildError, match="neither http, https nor file"):
        download.fetch("ftp://127.0.0.1/disk.img", target, sha256=SHA256)


def test_a_small_file_is_read(origin: Origin) -> None:
    origin.files["/sums"] = b"abc"
    origin.script["/sums"] = [status(503), hang_up(1)]
    assert download.read(f"{origin.url}/sums", patience=HASTE) == b"abc"


def test_a_large_one_is_not(origin: Origin) -> None:
    origin.files["/sums"] = bytes(1_000_000)
    with pytest.raises(BuildError, match="larger than 1000 bytes"):
        download.read(f"{origin.url}/sums", limit=1000)


@pytest.mark.parametrize(
    ("code", "headers", "expected"),
    [
        (200, {"Content-Length": "10"}, (0, 10)),
        (200, {}, (0, None)),
        (206, {"Content-Range": "bytes 4-9/10"}, (4, 10)),
        (206, {"Content-Range": "bytes 4-9/*"}, (4, None)),
        (206, {"Content-Range": "4-9/10"}, (-1, None)),
        (206, {}, (-1, None)),
    ],
)
def test_where_an_answer_starts(
    code: int, headers: dict[str, str], expected: tuple[int, int | None]
) -> None:
    assert download.extent(code, headers) == expected


def test_no_file_is_left_open(origin: Origin, target: Path) -> None:
    before = open_ones()
    origin.script["/disk.img"] = [status(503), hang_up(10)]
    fetch(origin, target)
    # The server closes its side a moment later, and maybe that of an earlier test.
    wait_for(lambda: open_ones() <= before)


def test_a_file_larger_than_it_may_be_is_given_up(origin: Origin, target: Path) -> None:
    with pytest.raises(BuildError, match=r"cannot get disk\.img .* is larger than 1000000"):
        download.fetch(
            f"{origin.url}/disk.img", target, sha256=SHA256, limit=1_000_000, patience=HASTE
        )
    assert left(target) == []
    download.fetch(f"{origin.url}/disk.img", target, sha256=SHA256, limit=len(CONTENT))


def test_a_server_that_drips_is_given_up(origin: Origin, target: Path) -> None:
    def drip(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        handler.send_response(200)
        handler.end_headers()
        with suppress(OSError):
            while not origin.closing.wait(0.02):
                handler.wfile.write(b"x")

    origin.script["/disk.img"] = [drip]
    patience = dataclasses.replace(HASTE, total=0.5)
    assert "it takes longer than 0.5 s; " in failure(origin, target, patience=patience)
