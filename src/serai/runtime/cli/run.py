"""``serai run``: a fresh session, a command in it, and with ``--rm`` no session any more."""

from __future__ import annotations

import argparse
import math
import signal
import sys
import uuid
from collections.abc import Callable

from serai.common.errors import SeraiError
from serai.common.printing import say
from serai.runtime.cli import exec, exec_core, limits
from serai.runtime.cli.connect import connected
from serai.runtime.client import Client

EXAMPLE = "serai run --rm --attach workdir=/srv/project -- make test"


def add_to(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The options: those of create, and those of exec that a command may need."""
    made = add("run", "make a session and run a command in it", named=False)
    made.epilog = f"For example: {EXAMPLE}"
    made.add_argument("--rm", action="store_true", help="remove the session when it has ended")
    made.add_argument("--name", metavar="NAME", help="the session's name; default: one is made up")
    made.add_argument("--profile", metavar="P", help="the gate's policy for it")
    made.add_argument(
        "--attach",
        metavar="ROLE=PATH[:ro|:rw]",
        action="append",
        default=[],
        type=attachment,
        help="attach a directory of the VM, may be repeated",
    )
    limits.add_to_create(made)
    made.add_argument("-t", "--tty", action="store_true", help="give it a terminal of its own")
    made.add_argument("--cwd", metavar="DIR", default="", help="start in DIR (default: its home)")
    made.add_argument("--timeout", metavar="S", type=seconds, default=0.0, help="end it after S s")
    made.add_argument("argv", metavar="COMMAND", nargs="+", help="after --")


def attachment(text: str) -> tuple[str, str, bool | None]:
    """Role, path and whether it can be written; None is the role's own default."""
    role, equals, path = text.partition("=")
    if not equals or not role or not path:
        raise argparse.ArgumentTypeError(f"{text!a} is not ROLE=PATH")
    for mode, writable in ((":ro", False), (":rw", True)):
        if path.endswith(mode):
            return role, path[: -len(mode)], writable
    return role, path, None


def seconds(text: str) -> float:
    """A time limit."""
    found = float(text)
    if not 0 < found < math.inf:
        raise argparse.ArgumentTypeError(f"{text!a} is no number of seconds above 0")
    return found


def run(client: Client, options: argparse.Namespace) -> int:
    """Do all of it; returns the command's exit status, 125 if none was run. Raises SeraiError."""
    name = ""
    try:
        made = client.call(
            "create",
            name=options.name,
            **limits.of_create(options),
            profile=options.profile,
            request_id=uuid.uuid4().hex,
        )
        name = str(made["name"])
        if not options.rm:
            say(f"serai: the session is {name}", sys.stderr)
        for role, path, writable in options.attach:
            client.call("attach", name=name, role=role, path=path, writable=writable)
    except SeraiError as error:
        say(f"serai: {error}", sys.stderr)
        _remove(name, options.vm)  # nothing ran in it, so nobody can want it
        return exec_core.FAILED
    except KeyboardInterrupt:
        _remove(name, options.vm)
        raise
    try:
        return _exec(name, options)
    finally:
        for number in exec_core.FORWARDED:
            signal.signal(number, signal.SIG_DFL)  # nothing is left to pass them on to
        if options.rm:
            _remove(name, options.vm)


def _remove(name: str, vm: str) -> None:
    """Remove the session by a connection of its own: the first may be hours old, or cut."""
    if not name:
        return
    try:
        with connected(vm) as client:
            client.call("remove", name=name)
    except SeraiError as error:  # the command's own end is what counts
        say(f"serai: the session {name} is still there: {error}", sys.stderr)


def _exec(name: str, options: argparse.Namespace) -> int:
    asked = exec_core.Options()
    asked.vm = options.vm
    asked.name, asked.argv = name, options.argv
    asked.tty, asked.cwd, asked.timeout = options.tty, options.cwd, options.timeout
    return exec.complete(asked)
