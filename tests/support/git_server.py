"""Git's own server program for HTTP, behind Python's."""

from __future__ import annotations

import os
import subprocess
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.support.origins import DEADLINE

BACKEND = "/usr/lib/git-core/git-http-backend"
ENVIRONMENT = {
    **{"PATH": os.environ["PATH"], "HOME": "/nowhere", "GIT_CONFIG_NOSYSTEM": "1"},
    **{"GIT_AUTHOR_NAME": "x", "GIT_AUTHOR_EMAIL": "x@a.test"},
    **{"GIT_COMMITTER_NAME": "x", "GIT_COMMITTER_EMAIL": "x@a.test", "GIT_TERMINAL_PROMPT": "0"},
}


def answered(
    root: Path, asked: BaseHTTPRequestHandler, body: bytes
) -> tuple[int, dict[str, str], bytes]:
    """What Git answers for the repositories below ``root``; a push is taken from everybody."""
    path, _, query = asked.path.partition("?")
    done = subprocess.run(
        [BACKEND],
        env={
            **ENVIRONMENT,
            "GIT_PROJECT_ROOT": str(root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REMOTE_USER": "x",  # so that it takes a push
            "REQUEST_METHOD": asked.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": asked.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": asked.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": asked.headers.get("Git-Protocol", ""),
        },
        input=body,
        capture_output=True,
        check=False,
        timeout=DEADLINE,
    )
    head, _, content = done.stdout.partition(b"\r\n\r\n")
    fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
    return int(fields.pop("Status", "200").split()[0]), fields, content
