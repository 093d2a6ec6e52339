"""Fetch a file whose digest is known, over a network that may fail at any byte.

urllib from the standard library does the HTTP: it honours http_proxy, https_proxy and no_proxy
(https://docs.python.org/3/library/urllib.request.html), and what is left to do, resuming by Range
(RFC 9110, section 14) and checking, no library does for us.
"""

from __future__ import annotations

import errno
import http.client
import io
import os
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from serai.common import files
from serai.image import cache, digest
from serai.image.errors import BuildError

Progress = Callable[[int, "int | None"], None]
T = TypeVar("T")

_CHUNK = 256 * 1024
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MAY_PASS = (408, 429, 500, 502, 503, 504)
_GONE = (404, 410)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


@dataclass(frozen=True)
class Patience:
    """How often to try and how long to wait.

    A try ends after ``seconds`` without an answer, name resolution, every address and redirects
    included, or without another byte. So no answer at all takes 38 s by default.
    """

    attempts: int = 3
    seconds: float = 12
    pause: float = 1
    total: float = 4 * 3600  # for the whole file, tries and pauses included


@dataclass(frozen=True)
class _Bounds:
    """How long and how much: ``limit`` is in bytes, ``until`` a time.monotonic() value."""

    patience: Patience
    limit: int
    until: float


PATIENCE = Patience()
LIMIT = 8 << 30
"""Bytes that a file may have where nothing better is known."""


class MissingError(BuildError):
    """The server is there, the file is not."""


class _InterruptedError(Exception):
    """What happened may have passed by the next try."""


def fetch(
    url: str,
    target: Path,
    *,
    sha256: str,
    limit: int = LIMIT,
    progress: Progress | None = None,
    hint: str = "check the network",
    patience: Patience = PATIENCE,
) -> None:
    """Have ``url`` (http, https or file) at ``target``, there whole and right or not at all.

    A ``target`` that is there already is checked and, if right, left as it is. ``progress`` is
    called with the bytes there are and the bytes there will be (None: the server did not say).

    Raises BuildError (MissingError if the server has no such file), and leaves nothing behind but,
    after an interrupted transfer, ``target``.part, from which the next call goes on.
    """
    part = target.with_name(f"{target.name}.part")
    bounds = _Bounds(patience, limit, time.monotonic() + patience.total)
    with _local_errors(url, target), cache.locked(part):
        keep = False
        try:
            if target.is_file() and digest.of_file(target) == sha256:
                return
            _complete(url, part, sha256, progress, bounds)
            files.fsync(part)
            part.replace(target)
            files.fsync(target.parent)
        except _InterruptedError as error:
            keep = part.stat().st_size > 0
            resume = f"; a re-run resumes at {part.stat().st_size >> 20} MiB" if keep else ""
            raise BuildError(_failed(url, str(error)), hint=hint + resume) from None
        except KeyboardInterrupt:
            keep = part.stat().st_size > 0
            raise
        finally:
            if not keep:
                part.unlink(missing_ok=True)


def read(
    url: str,
    *,
    limit: int = 4 << 20,
    hint: str = "check the network",
    patience: Patience = PATIENCE,
) -> bytes:
    """The bytes of a small file at ``url``; raises BuildError as fetch() does."""
    content = io.BytesIO()
    bounds = _Bounds(patience, limit, time.monotonic() + patience.total)
    try:
        _retrying(patience, lambda: _receive(url, content, bounds))
    except _InterruptedError as error:
        raise BuildError(_failed(url, str(error)), hint=hint) from None
    return content.getvalue()


def _complete(
    url: str, part: Path, sha256: str, progress: Progress | None, bounds: _Bounds
) -> None:
    """Bring ``part`` to the content with the digest ``sha256``, going on from what it holds."""
    with part.open("r+b", buffering=0) as stream:
        stream.seek(0, os.SEEK_END)
        if stream.tell() and digest.of_file(part) == sha256:
            return
        pieced = _retrying(bounds.patience, lambda: _receive(url, stream, bounds, progress))
        if pieced and digest.of_file(part) != sha256:
            # The pieces may be of two versions of the file.
            _empty(stream)
            _retrying(bounds.patience, lambda: _receive(url, stream, bounds, progress))
    found = digest.of_file(part)
    if found != sha256:
        raise BuildError(
            f"{_name(url)} from {_host(url)} is not the file that was pinned: its {_size(part)} "
            f"bytes have the SHA-256 {found}, not {sha256}",
            hint="it is removed; if a re-run says the same, the file was changed at its source or "
            "on the way, or the pin is wrong",
        )


def _retrying(patience: Patience, action: Callable[[], T]) -> T:
    for _ in range(patience.attempts - 1):
        try:
            return action()
        except _InterruptedError:
            time.sleep(patience.pause)
    return action()


def _receive(
    url: str,
    stream: io.BytesIO | io.FileIO,
    bounds: _Bounds,
    progress: Progress | None = None,
) -> bool:
    """Append to ``stream`` what it lacks of ``url``; tell whether it was made of several pieces."""
    patience = bounds.patience
    offset = stream.tell()
    with _opened(url, offset, stream, patience) as response:
        start, total = extent(getattr(response, "status", None) or 200, response.headers)
        if start not in (0, offset):
            _empty(stream)
            raise _InterruptedError("the server answered with another part than was asked for")
        if start == 0:
            _empty(stream)
        while piece := _next(response, patience):
            _write(stream, piece)
            if stream.tell() > bounds.limit:
                raise BuildError(_failed(url, f"it is larger than {bounds.limit} bytes"))
            if time.monotonic() > bounds.until:
                raise _InterruptedError(f"it takes longer than {patience.total:g} s")
            if progress is not None:
                progress(stream.tell(), total)
    if total is not None and stream.tell() < total:
        raise _InterruptedError(f"the server hung up after {stream.tell()} of {total} bytes")
    return start > 0


def extent(status: int, headers: Mapping[str, str]) -> tuple[int, int | None]:
    """The offset at which an answer's body starts and the size of the whole file, if told.

    A 206 without a valid Content-Range starts nowhere (-1).
    """
    if status == http.client.PARTIAL_CONTENT:
        match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range") or "")
        if match is None:
            return -1, None
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = headers.get("Content-Length") or ""
    return 0, int(length) if length.isdecimal() else None


def _opened(url: str, offset: int, stream: io.BytesIO | io.FileIO, patience: Patience) -> Any:
    """The answer to a request for ``url`` from ``offset`` on."""
    if urlsplit(url).scheme not in ("http", "https", "file"):
        raise BuildError(f"{url} is neither http, https nor file", hint="correct the address")
    request = urllib.request.Request(url)  # noqa: S310 - the scheme is checked
    if offset:
        request.add_header("Range", f"bytes={offset}-")
    # A new opener each time: urlopen() would keep the proxies of the first call.
    opener = urllib.request.build_opener()
    try:
        return _within(patience.seconds, lambda: opener.open(request, timeout=patience.seconds))
    except urllib.error.HTTPError as error:
        error.close()
        said = f"the server answered {error.code} {error.reason}"
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
            _empty(stream)
            raise _InterruptedError(said) from None
        if error.code in _GONE:
            raise MissingError(_failed(url, said), hint="check the address") from None
        if error.code in _MAY_PASS:
            raise _InterruptedError(said) from None
        raise BuildError(_failed(url, said), hint="check the address") from None
    except (OSError, http.client.HTTPException) as error:
        cause = _cause(error)
        if urlsplit(url).scheme == "file":
            raise BuildError(_failed(url, reason(cause, patience)), hint="check the path") from None
        raise _InterruptedError(reason(cause, patience)) from None


def _within(seconds: float, action: Callable[[], T]) -> T:
    """The result of ``action``, or TimeoutError after ``seconds``.

    getaddrinfo(3) takes no deadline, and a socket's time-out starts anew with every address and
    every packet. A thread that is given up ends with its own time-outs or with the process.
    """
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(action())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return future.result(timeout=seconds)
    except FutureTimeout:
        raise TimeoutError from None


def _next(response: Any, patience: Patience) -> bytes:
    try:
        piece: bytes = response.read1(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _InterruptedError(reason(_cause(error), patience)) from None
    return piece


@contextmanager
def _local_errors(url: str, target: Path) -> Iterator[None]:
    """What the operating system says about our own disk, in words."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise BuildError(f"cannot write {target}: {error.strerror}") from None
        raise BuildError(
            f"no room for {_name(url)} in {target.parent}: {error.strerror}",
            hint="free some room there, or set SERAI_CACHE to a directory on a larger disk",
        ) from None


def _write(stream: io.BytesIO | io.FileIO, piece: bytes) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[stream.write(rest) :]


def _empty(stream: io.BytesIO | io.FileIO) -> None:
    stream.seek(0)
    stream.truncate()


def _cause(error: BaseException) -> BaseException:
    inner = error.reason if isinstance(error, urllib.error.URLError) else None
    return inner if isinstance(inner, BaseException) else error


def reason(error: BaseException, patience: Patience) -> str:
    """What went wrong, in words."""
    if isinstance(error, socket.gaierror):
        return f"its name cannot be resolved ({error.strerror})"
    if isinstance(error, TimeoutError):
        return f"no answer within {patience.seconds:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, (ConnectionResetError, http.client.IncompleteRead)):
        return "the server hung up"
    told = error.strerror if isinstance(error, OSError) else None
    return (told or str(error) or type(error).__name__).lower()


def _failed(url: str, why: str) -> str:
    return f"cannot get {_name(url)} from {_host(url)}: {why}"


def _name(url: str) -> str:
    path = urlsplit(url).path
    return path if path.endswith("/") else Path(path).name or url


def _host(url: str) -> str:
    """Where ``url`` leads, the proxy named without its password."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return str(Path(parts.path).parent)
    host = parts.hostname or url
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(host):
        via = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        return f"{host} through the proxy {via.hostname}"
    return host


def _size(path: Path) -> int:
    return path.stat().st_size
