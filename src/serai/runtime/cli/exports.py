"""The commands of ``serai`` for sessions as files, and for moving them to another VM."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from serai.common.errors import INVALID_PARAMS, SeraiError
from serai.common.printing import say
from serai.runtime import packing
from serai.runtime.client import Client

COMMANDS = frozenset({"backup", "export", "import", "move"})


def add_to(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands to the parser of ``serai``."""
    export = add("export", "write a session to standard output; one that runs is frozen meanwhile")
    export.add_argument("--plain", action="store_true", help="tar, not compressed by zstd")
    taken = add("import", "make a session of what export wrote; it is stopped", named=False)
    taken.add_argument("--name", metavar="N", help="default: the one that it had")
    _add_bindings(taken)
    moved = add("move", "move a session to another VM; again, if it was cut off")
    moved.add_argument("--to", metavar="ADDRESS", default="", help="the other VM, as --vm has it")
    moved.add_argument("--name", metavar="N", dest="new_name", help="its name there")
    back = moved.add_argument("--cancel", action="store_true", help="have it back")
    back.help = "have it back, if the other VM does not have it for good"
    _add_bindings(moved)
    moved.add_argument(
        "--force", action="store_true", help="with --cancel: do not ask the other VM"
    )

    backup = add("backup", "export all sessions, the registry and the audit log", named=False)
    backup.add_argument("directory", metavar="DIR", type=Path, help="a new directory")
    backup.add_argument("--plain", action="store_true", help="tar, not compressed by zstd")
    restore = add("restore", "have all of a backup on a blank sessions disk", named=False)
    restore.add_argument("directory", metavar="DIR", type=Path, help="what backup has made")


def _add_bindings(parser: argparse.ArgumentParser) -> None:
    text = "let it use secrets of the VM it comes to, as its policy and its profile say"
    parser.add_argument("--bindings", action="store_true", help=text)


def run(client: Client, options: argparse.Namespace) -> int:
    """Carry out one of COMMANDS; returns the exit status. Raises SeraiError."""
    if options.command == "move":
        return _move(options)
    if options.command == "backup":
        from serai.runtime.cli import backup  # noqa: PLC0415  # 100 ms that no other takes

        return backup.run(client, options)
    if options.command == "export":
        if os.isatty(1):
            text = "an export is nothing for a terminal"
            raise SeraiError(text, "send it to a file", INVALID_PARAMS)
        packing.export(client, options.name, 1, plain=options.plain)
        return 0
    from serai.runtime import moving  # noqa: PLC0415  # of no use to any before

    if os.isatty(0):
        raise SeraiError("an export comes from a file", "serai import < FILE", INVALID_PARAMS)
    with packing.unpacked(0) as source:
        params = moving.wanted(options.name, bindings=options.bindings)
        made = client.send("import", source, **params)
    if options.json:
        print(json.dumps(made))
    else:
        say(made["name"])
    return 0


def _move(options: argparse.Namespace) -> int:
    from serai.runtime import moving  # noqa: PLC0415  # of no use to any other
    from serai.runtime.library import Vm  # noqa: PLC0415

    if options.force and not options.cancel:
        raise SeraiError("--force goes with --cancel", code=INVALID_PARAMS)
    with Vm(options.vm) as source:
        if options.cancel:
            peer = options.to or source.call("move.show", name=options.name)["peer"]
            with contextlib.ExitStack() as stack:
                asked = None if options.force else stack.enter_context(Vm(_address(options, peer)))
                moving.cancel(source, asked, options.name)
            return 0
        if not options.to:
            raise SeraiError("--to says which VM it is moved to", code=INVALID_PARAMS)
        with Vm(_address(options, options.to)) as target:
            moved = moving.move(
                *(source, target, options.name),
                new_name=options.new_name,
                bindings=options.bindings,
            )
    if options.json:
        print(json.dumps(moved))
    else:
        say(moved["name"])
    sys.stdout.flush()
    return 0


def _address(options: argparse.Namespace, to: str) -> str:
    """The other VM's address; in a fleet its name is enough."""
    if "://" in to or not options.vm.startswith("nats://"):
        return to
    return f"nats://{options.vm.removeprefix('nats://').partition('/')[0]}/{to}"
