"""The client keeps apart what belongs to different payloads of one connection."""

from __future__ import annotations

import base64
import json
import socket
import threading
from errno import EACCES, ECONNREFUSED
from pathlib import Path
from typing import Any

import pytest

from serai.common.errors import SeraiError
from serai.runtime.client import Client, unreachable


def test_a_late_answer_to_an_earlier_input_does_not_feed_the_next_payload(tmp_path: Path) -> None:
    path, inputs = tmp_path / "sock", []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def daemon() -> None:
        """Its first payload ends before it says that the input was taken."""
        sock, _ = listener.accept()
        with sock, sock.makefile("rw") as file:

            def say(**message: Any) -> None:
                print(json.dumps({"jsonrpc": "2.0", **message}), file=file, flush=True)

            late = None
            for number in ("1", "2"):
                # The end of the first payload's input may have been sent already.
                while (request := json.loads(file.readline()))["method"] != "exec":
                    pass
                asked = request["id"]
                if late is not None:
                    say(id=late, result={})
                say(method="exec.started", params={"request": asked, "exec": number, "pid": 1})
                given = json.loads(file.readline())
                inputs.append((given["params"]["exec"], base64.b64decode(given["params"]["data"])))
                assert json.loads(file.readline())["params"]["eof"], "sent without waiting"
                late = given["id"]
                say(id=asked, result={"status": 0, "signal": None, "timed_out": False})
            file.read()  # until the client hangs up: it may be sending still

    thread = threading.Thread(target=daemon, daemon=True)
    thread.start()
    with Client(path, timeout=30) as client:
        for text in (b"first", b"second"):
            assert client.exec("blue", ["cat"], input=text).status == 0
    thread.join(30)
    listener.close()
    assert inputs == [("1", b"first"), ("2", b"second")]


def test_who_cannot_reach_sessiond_is_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SeraiError, match=r"none: No such file or directory; 'systemctl start"):
        Client(tmp_path / "none")
    with pytest.raises(SeraiError, match=r"too long; 'systemctl start"):
        Client(tmp_path / ("x" * 200))
    assert "group serai" in str(unreachable("s", OSError(EACCES, "Permission denied")))
    assert "group" not in str(unreachable("s", OSError(ECONNREFUSED, "Connection refused")))
