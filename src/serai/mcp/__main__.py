"""``serai mcp`` runs this, with the address of the VM and its own arguments."""

from __future__ import annotations

import argparse
import sys

from serai.common import stdio
from serai.common.errors import SeraiError
from serai.common.printing import say
from serai.mcp.server import Tools, server
from serai.runtime.cli import limits


def parser() -> argparse.ArgumentParser:
    """What the command line may look like."""
    made = argparse.ArgumentParser(
        prog="serai mcp", description="A Model Context Protocol server on stdin and stdout."
    )
    made.add_argument("--vm", default="", help=argparse.SUPPRESS)
    made.add_argument(
        "--session",
        metavar="NAME",
        action="append",
        default=[],
        help="work with this session only, as often as there are sessions; make and remove none",
    )
    made.add_argument("--profile", metavar="P", help="the gate's policy for sessions that are made")
    limits.add_sandbox(made)
    return made


def main(arguments: list[str]) -> int:
    """Serve until standard input ends; returns the exit status."""
    options = parser().parse_args(arguments)
    only = frozenset(options.session)
    tools = Tools(options.vm, options.profile, options.sandbox, only)
    try:
        # What is wrong with the address is to be said now, and not by the first tool.
        with tools.opened():
            pass
        server(tools).run("stdio")
    except SeraiError as error:
        say(f"serai: {error}", sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        tools.close()
    return 0


if __name__ == "__main__":
    stdio.begin()
    sys.exit(main(sys.argv[1:]))
