"""``serai exec --json``: run a payload, keep what it writes, print all of it as one object."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from serai.common.errors import SeraiError
from serai.runtime.cli.exec_core import Channel, Failure, Options, control, status_of
from serai.runtime.cli.exec_relay import MOST_KEPT, Kept, with_pipes
from serai.runtime.client import Client


def run(options: Options) -> int:
    """Run the payload; returns its exit status. Raises Failure."""
    try:
        if options.detach or options.tty:
            with Client(Path(control())) as client:
                return _by_the_library(options, client)
    except SeraiError as error:
        raise Failure(str(error)) from None
    channel, kept = Channel(control()), Kept()
    channel.take_signals()
    answer = with_pipes(options, channel, kept)
    if kept.size > MOST_KEPT:
        raise Failure(
            f"more than {MOST_KEPT} bytes were written; the exec was ended; have large output"
            " written to a file, or read it from a pipe"
        )
    show(answer, *kept.outputs.values())
    return status_of(answer)


def _by_the_library(options: Options, client: Client) -> int:
    if options.detach:
        show(client.call("exec", **parameters(options), detach=True, stdio="null"))
        return 0
    # At once, and not when Python finds the time: see Channel.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    done = client.exec(**parameters(options))
    answer = done.answer()
    show(answer, done.stdout, done.stderr)
    return status_of(answer)


def show(answer: dict[str, Any], *outputs: bytes | bytearray) -> None:
    """Print an answer as JSON, with standard output and error if they were kept."""
    texts = dict(zip(("stdout", "stderr"), outputs, strict=False))
    shown = {name: text.decode(errors="replace") for name, text in texts.items()}
    print(json.dumps({**answer, **shown}))


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
