"""``serai exec --json``: run a payload, keep what it writes, print all of it as one object."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

from serai.common.errors import SeraiError
from serai.runtime.cli.exec_core import Failure, Options, control
from serai.runtime.client import Client


def run(options: Options) -> int:
    """Run the payload; returns its exit status. Raises Failure."""
    # At once, and not when Python finds the time: see Channel.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    given = b"" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read()
    try:
        with Client(Path(control())) as client:
            if options.detach:
                started = client.call("exec", **parameters(options), detach=True, stdio="null")
                print(json.dumps(started))
                return 0
            done = client.exec(input=given, **parameters(options))
    except SeraiError as error:
        raise Failure(str(error)) from None
    shown = {
        "status": done.status,
        "signal": done.signal,
        "timed_out": done.timed_out,
        "out_of_memory": done.out_of_memory,
        "left": done.left,
        "stdout": done.stdout.decode(errors="replace"),
        "stderr": done.stderr.decode(errors="replace"),
    }
    print(json.dumps(shown))
    return done.status


def parameters(options: Options) -> dict[str, Any]:
    """The parameters of ``exec`` that do not depend on where its bytes go."""
    return {
        "name": options.name,
        "argv": options.argv,
        "env": options.env,
        "cwd": options.cwd,
        "timeout": options.timeout or None,
        "tty": options.tty,
    }
