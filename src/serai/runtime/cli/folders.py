"""The commands of ``serai`` for what comes in and out of sessions."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

from serai.common.errors import SeraiError
from serai.common.printing import say
from serai.runtime.cli.showing import when
from serai.runtime.client import Client

TRANSFERS = {
    "put": "make standard input a file in a path role's directory",
    "get": "write a file in a path role's directory to standard output",
    "ls": "list a path role's directory, or one below it",
}
OPERATIONS = {
    "mkdir": "make a directory in a path role's directory, and those above it",
    "rm": "remove a file, a symlink or an empty directory in a path role's directory",
    "mv": "give something in a path role's directory another name",
    "stat": "what is at a path in a path role's directory, as JSON",
}
COMMANDS = frozenset({"attach", "detach", "hints", "watch", *TRANSFERS, *OPERATIONS})


def add_to(add: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """The commands for what comes in and out of sessions."""
    attach = add("attach", "attach a directory of the VM to a session, which may be running")
    attach.add_argument("role", metavar="ROLE", help="workdir, outputs, uploads, skills or config")
    attach.add_argument("path", metavar="PATH", help="absolute, in the VM")
    mode = attach.add_mutually_exclusive_group()
    for option, writable, text in (
        ("--ro", False, "read-only (the default for uploads and skills)"),
        ("--rw", True, "read-write (the default for all others)"),
    ):
        mode.add_argument(option, dest="writable", action="store_const", const=writable, help=text)
    attach.add_argument("--host-path", metavar="P", default="", help="what the person calls it")
    kind = "how it is mounted (default: auto, by idmap where its file system can)"
    attach.add_argument("--kind", choices=["auto", "idmap", "bindfs"], default="auto", help=kind)
    detach = add("detach", "take a directory away from a session")
    detach.add_argument("role", metavar="ROLE")
    for name, text in TRANSFERS.items():
        transfer = add(name, text)
        transfer.add_argument("role", metavar="ROLE", help="a path role, e.g. outputs")
        nargs = "?" if name == "ls" else None
        transfer.add_argument(
            "path", metavar="RELPATH", help="relative to it", nargs=nargs, default=""
        )
        if name != "ls":
            whole = "a whole directory: the bytes are a tar archive of what is in it"
            transfer.add_argument("--tree", action="store_true", help=whole)
    _add_operations(add)
    hints = add("hints", "where a session's directories are, for an agent")
    hints.add_argument("--format", choices=["json", "prompt"], default="json")


def _add_operations(add: Callable[[str, str], argparse.ArgumentParser]) -> None:
    for name, text in OPERATIONS.items():
        made = add(name, text)
        made.add_argument("role", metavar="ROLE")
        made.add_argument("path", metavar="RELPATH")
        if name == "rm":
            whole = "a directory with all that is in it"
            made.add_argument("-r", "--recursive", action="store_true", help=whole)
        if name == "mv":
            made.add_argument("to", metavar="TO", help="relative to the same directory")
            there = "replace a file that is there"
            made.add_argument("-f", "--replace", action="store_true", help=there)
    watch = add("watch", "tell what changes below a path role's directory, until it is ended")
    watch.add_argument("role", metavar="ROLE")
    watch.add_argument("path", metavar="RELPATH", nargs="?", default="")


def run(client: Client, options: argparse.Namespace) -> int:
    """Carry out one of COMMANDS; returns the exit status. Raises SeraiError."""
    if options.command in TRANSFERS:
        return _transfer(client, options)
    if options.command in OPERATIONS:
        return _operate(client, options)
    if options.command == "watch":
        return _watch(client, options)
    keys = {
        "attach": ("name", "role", "path", "writable", "host_path", "kind"),
        "detach": ("name", "role"),
        "hints": ("name", "format"),
    }[options.command]
    result = client.call(options.command, **{key: getattr(options, key) for key in keys})
    if options.json:
        print(json.dumps(result))
    elif options.command == "hints":
        if "prompt" in result:
            for line in result["prompt"].splitlines():
                say(line)
        else:
            print(json.dumps(result, indent=1))
    return 0


def _transfer(client: Client, options: argparse.Namespace) -> int:
    """put, get and ls: the bytes go past this process, but for a list that a person reads."""
    keys = {key: getattr(options, key) for key in ("name", "role", "path")}
    if options.command == "ls" and not options.json:
        for entry in client.ls(**keys):
            size = "-" if entry["size"] is None else str(entry["size"])
            # Quoted where a name could be taken for something else on a terminal.
            name = entry["name"] if entry["name"].isprintable() else ascii(entry["name"])
            say(f"{entry['type']:<7} {size:>12} {when(entry['modified_at'])} {name}")
    else:
        tree = options.command != "ls" and options.tree
        method = f"tree.{options.command}" if tree else options.command
        result = client.send(method, 0 if options.command == "put" else 1, **keys)
        if options.command == "put" and options.json:
            print(json.dumps(result))
    return 0


def _operate(client: Client, options: argparse.Namespace) -> int:
    names = {"rm": "remove", "mv": "move"}
    keys = {"rm": ("path", "recursive"), "mv": ("path", "to", "replace")}
    operation = {key: getattr(options, key) for key in keys.get(options.command, ("path",))}
    operation["do"] = names.get(options.command, options.command)
    (found,) = client.batch(options.name, options.role, [operation])
    if isinstance(found, SeraiError):
        raise found
    if options.json or options.command == "stat":
        print(json.dumps(found or {}))
    return 0


def _watch(client: Client, options: argparse.Namespace) -> int:
    for event in client.lines("file.watch", options.name, options.role, options.path):
        if options.json:
            print(json.dumps(event), flush=True)
        elif event["path"]:
            path = event["path"] if event["path"].isprintable() else ascii(event["path"])
            say(f"{event['event']:<10} {path}{'/' if event['directory'] else ''}")
        else:
            say(event["event"])
        sys.stdout.flush()
    return 0
