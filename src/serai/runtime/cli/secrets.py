"""``serai secret``: what the gate keeps for sessions, which use it and never see it.

A value comes from a file, standard input or a prompt, and never from an argument: every user of the
system can see those.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from serai.common.errors import SeraiError
from serai.common.printing import say
from serai.runtime.cli.showing import table
from serai.runtime.client import Client

MOST = 64 << 10
"""Bytes to read, which is more than the gate takes."""


def add_to(commands: Any) -> None:
    """Add the command to the parser of ``serai``."""
    secret = commands.add_parser("secret", help="secrets, which sessions use and never see")
    actions = secret.add_subparsers(dest="action", required=True, metavar="ACTION")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = actions.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + "."
        )
        made.add_argument("--json", action="store_true", help="print the result as JSON")
        return made

    kept = add("set", "keep a secret, from standard input, in the place of another of that name")
    kept.add_argument("name", metavar="NAME")
    kept.add_argument("--file", metavar="F", type=Path, help="read it from this file")
    add("list", "list the secrets, and when they were set and last used")
    gone = add("rm", "forget a secret")
    gone.add_argument("name", metavar="NAME")
    gone.add_argument("--force", action="store_true", help="also if a session is bound to it")


def run(client: Client, options: argparse.Namespace) -> int:
    """Carry out ``serai secret``; returns the exit status. Raises SeraiError."""
    if options.action == "list":
        result = client.call("secret.list")
        if not options.json:
            _show(result["secrets"])
    elif options.action == "rm":
        result = client.call("secret.remove", name=options.name, force=options.force)
    else:
        value = _value(options.name, options.file)
        result = client.call("secret.set", name=options.name, value=value)
    if options.json:
        print(json.dumps(result))
    return 0


def _value(name: str, file: Path | None) -> str:
    """What is given, as characters of a byte each: what may be in it, the gate says."""
    if file is not None:
        try:
            with file.open("rb") as source:
                return source.read(MOST).decode("latin-1")
        except OSError as error:
            # It is the caller's file, and nothing that is missing of Serai.
            raise SeraiError(f"{file} cannot be read: {error.strerror}") from None
    if not sys.stdin.isatty():
        return sys.stdin.buffer.read(MOST).decode("latin-1")
    return _asked(name)


def _asked(name: str) -> str:
    """What a person types, unseen."""
    import getpass  # noqa: PLC0415  # of no use to any other
    import warnings  # noqa: PLC0415  # likewise

    with warnings.catch_warnings():
        # It would go on and show what is typed.
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            return getpass.getpass(f"The value of {name}: ")
        except getpass.GetPassWarning:
            raise SeraiError("this terminal shows what is typed", "use --file") from None
        except EOFError:
            raise SeraiError("no value was given") from None


def _show(secrets: list[dict[str, Any]]) -> None:
    rows = [("NAME", "SET", "USED", "PROBLEM")]
    for each in secrets:
        rows.append((each["name"], *(each[key] or "-" for key in ("set", "used", "problem"))))
    if rows[1:]:
        table(rows)
    else:
        say("there are no secrets", sys.stderr)
