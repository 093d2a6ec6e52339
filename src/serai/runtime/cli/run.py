"""``serai run``: a fresh session, a command in it, and with ``--rm`` no session any more."""

from __future__ import annotations

import argparse
import sys
import uuid
from collections.abc import Callable

from serai.common.errors import SeraiError
from serai.common.printing import say
from serai.runtime.cli import exec, exec_core, limits
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
    made.add_argument("--timeout", metavar="S", type=float, default=0.0, help="end it after S s")
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


def run(client: Client, options: argparse.Namespace) -> int:
    """Do all of it; returns the command's exit status, 125 if there was none. Raises SeraiError."""
    made = client.call(
        "create",
        name=options.name,
        **limits.of_create(options),
        profile=options.profile,
        request_id=uuid.uuid4().hex,
    )
    name = str(made["name"])
    try:
        for role, path, writable in options.attach:
            client.call("attach", name=name, role=role, path=path, writable=writable)
        if not options.rm:
            say(f"serai: the session is {name}", sys.stderr)
        return _exec(name, options)
    except SeraiError:
        options.rm = True  # nothing ran in it, so nobody can want it
        raise
    finally:
        if options.rm:
            _remove(client, name)


def _remove(client: Client, name: str) -> None:
    try:
        client.call("remove", name=name)
    except SeraiError as error:  # the command's own end is what counts
        say(f"serai: the session {name} is still there: {error}", sys.stderr)


def _exec(name: str, options: argparse.Namespace) -> int:
    asked = exec_core.Options()
    asked.vm = options.vm
    asked.name, asked.argv = name, options.argv
    asked.tty, asked.cwd, asked.timeout = options.tty, options.cwd, options.timeout
    try:
        return exec.run(asked)
    except exec_core.Failure as failure:
        say(f"serai: {failure}", sys.stderr)
        return failure.status
