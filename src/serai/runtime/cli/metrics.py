"""The command ``serai metrics``: prints them, or answers one HTTP request with them.

Load balancers ask the same socket whether this VM is healthy.

A socket of systemd's starts the latter for each connection, so nothing of it runs between two
scrapes, and no daemon of ours listens for HTTP.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import time

from serai.common import stdio
from serai.common.errors import SeraiError
from serai.common.paths import Paths
from serai.common.printing import clean
from serai.runtime import metrics
from serai.runtime.cli import health
from serai.runtime.cli.connect import connected

LONGEST = 16 << 10
"""Bytes of a request's head."""
PATIENCE = 5.0
"""Seconds for a client to send it."""
FOR_SESSIOND = 8.0
"""Seconds for each of its answers: Prometheus waits for ten."""
PATHS = ("/", "/metrics")
HEALTH = "/health"


def main(vm: str, *, http: bool) -> int:
    """Print the metrics of this VM, or answer a request; returns the exit status."""
    if vm:
        raise SeraiError(
            "the metrics are read in the VM that they are about",
            "run 'serai metrics' there, for example by ssh",
        )
    if not http:
        sys.stdout.write(current())
        return 0
    response = answer(request(0, PATIENCE))
    with contextlib.suppress(OSError):  # a client that hung up wants nothing any more
        stdio.write_all(1, response)
    return 0


def current() -> str:
    """The metrics of this VM. Raises SeraiError."""
    with connected("", FOR_SESSIOND) as client:
        return metrics.text(metrics.collect(client, Paths().sessions))


def request(descriptor: int, patience: float) -> bytes:
    """The head of an HTTP request; what came of it, if it is too long or comes too slowly."""
    data, end = b"", time.monotonic() + patience
    while b"\r\n\r\n" not in data and len(data) < LONGEST:
        # However late it is here: what has come is read.
        if not select.select([descriptor], [], [], max(0.0, end - time.monotonic()))[0]:
            break
        piece = os.read(descriptor, LONGEST)
        if not piece:
            break
        data += piece
    return data


def answer(head: bytes) -> bytes:
    """The whole response to a request. What the request says is never part of it."""
    line, end, _ = head.partition(b"\r\n")
    words = line.decode("latin-1").split(" ")
    if b"\r\n\r\n" not in head or not end or len(words) != 3 or words[2][:7] != "HTTP/1.":  # noqa: PLR2004
        return _response("400 Bad Request", "This is no HTTP request of 16 KiB at most.\n")
    method, target, _ = words
    if method not in ("GET", "HEAD"):
        return _response("405 Method Not Allowed", "Only GET and HEAD.\n", more="Allow: GET, HEAD")
    path = target.partition("?")[0]
    if path == HEALTH:
        return _healthy(bare=method == "HEAD")
    if path not in PATHS:
        return _response("404 Not Found", "There are /metrics and /health.\n")
    try:
        body, kind, status = current(), metrics.CONTENT_TYPE, "200 OK"
    except SeraiError as error:
        body, kind, status = f"{clean(str(error))}\n", "", "503 Service Unavailable"
    return _response(status, body, kind, bare=method == "HEAD")


def _healthy(*, bare: bool) -> bytes:
    """200 or 503, for who sends sessions to VMs; the body is what 'serai health --json' prints."""
    try:
        found = health.asked()
        ill = found["status"] == health.UNHEALTHY
        body, kind = f"{json.dumps(found)}\n", "application/json"
    except SeraiError as error:
        body, kind, ill = f"{clean(str(error))}\n", "", True
    return _response("503 Service Unavailable" if ill else "200 OK", body, kind, bare=bare)


def _response(
    status: str, body: str, kind: str = "", *, more: str = "", bare: bool = False
) -> bytes:
    data = body.encode()
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {kind or 'text/plain; charset=utf-8'}",
        f"Content-Length: {len(data)}",
        "Connection: close",
        *([more] if more else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + (b"" if bare else data)
