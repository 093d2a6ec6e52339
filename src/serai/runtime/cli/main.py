"""The command ``serai``, all but running payloads, which is in exec."""

from __future__ import annotations

import argparse
import json
import os
import sys
import uuid
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from serai import __version__
from serai.common import stdio
from serai.common.errors import GONE, SeraiError
from serai.common.printing import say
from serai.runtime import address
from serai.runtime.cli import (
    egress,
    exec,
    exec_core,
    exports,
    folders,
    forward,
    jobs,
    limits,
    run,
    secrets,
)
from serai.runtime.cli.arguments import pair
from serai.runtime.cli.connect import connected
from serai.runtime.cli.showing import table, when

SIMPLE = {
    "stop": "end everything in a session; its home stays",
    "archive": "stop a session and lock its home away",
    "reopen": "start a session again that is archived, stopped or frozen",
    "remove": "end a session for good and delete its data",
}
SHELL = ["bash", "-l"]
AS_THEY_ARE = {"export", "get", "run", "shell"}
"""Commands whose output is somebody's bytes, and never JSON."""
Show = Callable[[Any], None]
_RUN = {
    "audit": egress.audit,
    **dict.fromkeys(exports.COMMANDS, exports.run),
    "forward": forward.run,
    "run": run.run,
    "secret": secrets.run,
    **dict.fromkeys(folders.COMMANDS, folders.run),
    **dict.fromkeys(jobs.COMMANDS, jobs.run),
}
"""The commands that call more than one method, or show what they get by themselves."""


def parser() -> argparse.ArgumentParser:
    """What the command line may look like."""
    top = argparse.ArgumentParser(prog="serai", description="Sessions of a VM.")
    where = f"a VM elsewhere: {address.FORMS} (or SERAI_VM)"
    top.add_argument("--vm", metavar="ADDRESS", help=where)
    shown = "show the version of this command, and of the image in a VM"
    top.add_argument("--version", action="version", version=f"serai {__version__}", help=shown)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, *, named: bool = True) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name not in AS_THEY_ARE:
            made.add_argument("--json", action="store_true", help="print the result as JSON")
        if named:
            made.add_argument("name", metavar="NAME")
        return made

    create = add("create", "make a session, start it, and print its name", named=False)
    create.add_argument("name", metavar="NAME", nargs="?", help="default: one is made up")
    limits.add_to_create(create)
    create.add_argument("--profile", metavar="P", help="the gate's policy for it")
    create.add_argument("--request-id", metavar="ID", help="given again: the same session again")
    limits.add_to_set(add("set", "change a session's own limits, labels and variables"))
    listed = add("list", "list the sessions", named=False)
    listed.add_argument(
        "--label",
        metavar="K=V",
        action="append",
        default=[],
        type=pair,
        help="only those that have it, may be repeated",
    )
    add("show", "show a session")
    commands.add_parser("exec", help="run a command in a session", add_help=False)
    run.add_to(add)
    add("shell", "a login shell in a session")
    switch = add("switch", "make a session the active one; the one before is frozen")
    switch.add_argument("--keep-running", action="store_true", help="do not freeze that one")
    for name, text in SIMPLE.items():
        add(name, text)
    egress.add_parsers(commands)
    secrets.add_to(commands)
    add("version", "the VM's version of Serai, and what it can do", named=False)
    commands.add_parser("mcp", help="a Model Context Protocol server, on a host", add_help=False)
    commands.add_parser("fleet", help="the VMs of a fleet, on a host", add_help=False)
    metrics = commands.add_parser("metrics", help="what sessions and daemons use, as OpenMetrics")
    metrics.add_argument("--http", action="store_true", help="answer an HTTP request on stdin")
    add("health", "say whether this VM can do its work; exit status 1 if it cannot", named=False)
    relay = commands.add_parser("stdio", help="be the control socket, for 'serai --vm ssh://…'")
    relay.add_argument("--from-host", action="store_true", help="for the host alone, by vsock")
    text = "examine this VM, and try whether sessions are contained"
    limits.add_sandbox(add("doctor", text, named=False))
    gc = add("gc", "archive sessions nobody uses, remove those archived for long", named=False)
    gc.add_argument("--keep-days", type=float, default=30.0, metavar="N", help="default: 30")
    gc.add_argument(
        "--keep-free", type=float, metavar="PERCENT", help="remove more until so much is free"
    )
    gc.add_argument("--dry-run", action="store_true", help="only say what would be done")
    add("pool", "how many sessions are held ready, for creates without a name", named=False)
    folders.add_to(add)
    exports.add_to(add)
    jobs.add_to(commands)
    forward.add_to(add)
    return top


def script() -> int:
    """The command as pip installs it on a host."""
    stdio.begin()
    return main(sys.argv[1:])


def main(arguments: list[str]) -> int:  # noqa: PLR0911  # an end a command
    """Run ``serai`` with these arguments; returns the exit status."""
    vm, arguments = _named_vm(arguments)
    if arguments[:1] == ["exec"]:
        return exec.main(arguments[1:], vm)
    if arguments[:1] in (["mcp"], ["fleet"]):
        return _hosts(arguments[0], arguments[1:], vm)
    if arguments == ["--version"]:
        return _version()
    options = parser().parse_args(arguments)
    options.vm = vm
    if options.command == "stdio":
        from serai.runtime.cli import stdio as relay  # noqa: PLC0415  # of no use to any other

        return relay.main([relay.FROM_HOST] if options.from_host else [])
    if options.command == "shell":
        return _shell(options.name, vm)
    try:
        if options.command in ("doctor", "health", "metrics"):
            return _flushed(_examined(options, vm))
        if options.command == "restore":
            return _restore(options, vm)
        with connected(vm) as client:
            if (does := _RUN.get(options.command)) is not None:
                return _flushed(does(client, options))
            policy = options.command == "policy"
            method, params, show = (egress.policy_call if policy else _call)(options)
            result = client.call(method, **params)
    except SeraiError as error:
        say(f"serai: {error}", sys.stderr)
        return 3 if error.code == GONE else 1
    except KeyboardInterrupt:
        return 130
    if options.json:
        print(json.dumps(result))
    else:
        show(result)
    _tell_recorded(result)
    return _flushed(0)


def _tell_recorded(result: dict[str, Any]) -> None:
    if result.get("recorded") is False:
        text = "this is done; the audit log gets it as soon as it can be written"
        say(f"serai: {text}", sys.stderr)


def _named_vm(arguments: list[str]) -> tuple[str, list[str]]:
    """The VM that is meant ('': this one), and the arguments without it.

    It comes before the command, since what follows ``exec`` is not argparse's to read.
    """
    first, equals, value = arguments[0].partition("=") if arguments else ("", "", "")
    if first != "--vm" or not (equals or arguments[1:]):
        return exec_core.vm(), arguments
    return (value, arguments[1:]) if equals else (arguments[1], arguments[2:])


def _examined(options: argparse.Namespace, vm: str) -> int:
    """The commands about the VM itself. Each imports what is of no use to any other."""
    if options.command == "health":
        from serai.runtime.cli import health  # noqa: PLC0415  # see above

        return health.main(vm, as_json=options.json)
    if options.command == "metrics":
        from serai.runtime.cli import metrics  # noqa: PLC0415  # see above

        return metrics.main(vm, http=options.http)
    if vm:
        raise SeraiError("the doctor examines the VM that it runs in", "run it there, as root")
    from serai.runtime.doctor import report  # noqa: PLC0415  # see above

    return report.main(options.json, options.sandbox)


def _restore(options: argparse.Namespace, vm: str) -> int:
    from serai.runtime import restore  # noqa: PLC0415  # of no use to any other

    come = restore.main(options.directory, vm)
    if options.json:
        print(json.dumps({"restored": come}))
    else:
        say(f"restored sessions: {len(come)}; they are stopped, or archived as they were")
    return _flushed(0)


def _version() -> int:
    from serai.runtime.image import image  # noqa: PLC0415  # of no use to most

    made_of = image()
    say(f"serai {__version__}{_image(made_of)}")
    return _flushed(0)


def _image(made_of: dict[str, str] | None) -> str:
    return f", image {made_of['id']} {made_of['version']}" if made_of else ""


def _hosts(command: str, arguments: list[str], vm: str) -> int:
    """Run what only a host has as a program: nothing here may import it."""
    import runpy  # noqa: PLC0415  # of no use to any other

    package, module = {"mcp": ("mcp", "serai.mcp"), "fleet": ("nats", "serai.fleet")}[command]
    if not all(map(find_spec, (package, module))):
        what = f"this takes the package {package}: pip install 'serai[{command}]', on a host"
        say(f"serai: {what}", sys.stderr)
        return 1
    sys.argv = ["serai", f"--vm={vm}", *arguments]
    runpy.run_module({"fleet": "serai.fleet.command"}.get(command, module), run_name="__main__")
    return 0


def _flushed(status: int) -> int:
    """The exit status, when all is written; what cannot be is no success, and is said in words."""
    sys.stdout.flush()
    return status


def _call(options: argparse.Namespace) -> tuple[str, dict[str, Any], Show]:  # noqa: PLR0911  # a command each
    """The method, its parameters, and how to show the result to a person."""
    if options.command == "create":
        params = {
            "name": options.name,
            **limits.of_create(options),
            "profile": options.profile,
            "request_id": options.request_id or uuid.uuid4().hex,
        }
        return "create", params, lambda session: say(session["name"])
    if options.command == "version":
        return "version", {}, _show_version
    if options.command == "pool":
        return "pool", {}, _show_pool
    if options.command == "list":
        # An older VM knows no such parameter.
        return "list", {"labels": dict(options.label)} if options.label else {}, _show_list
    if options.command == "show":
        return "show", {"name": options.name}, _show_one
    if options.command == "switch":
        return "switch", {"name": options.name, "keep_running": options.keep_running}, _silent
    if options.command == "gc":
        keys = ("keep_days", "keep_free", "dry_run")
        return "gc", {key: getattr(options, key) for key in keys}, _show_actions
    if options.command == "set":
        return "set", limits.of_set(options), _silent
    return options.command, {"name": options.name}, _silent


def _shell(name: str, vm: str) -> int:
    options = exec_core.Options()
    options.vm = vm
    options.name, options.argv = name, SHELL
    options.tty = all(map(os.isatty, (0, 1)))
    if options.tty:
        options.env = {"TERM": os.environ.get("TERM", "dumb")}
    return exec.complete(options)


def _show_list(result: dict[str, Any]) -> None:
    # A fleet says which VM each is in. UIDs are a VM's own, and say nothing beside those of others.
    fleet = any("vm" in session for session in result["sessions"])
    rows = [("NAME", "STATE", "VM" if fleet else "UID", "CREATED", "LABELS")]
    for session in result["sessions"]:
        labels = " ".join(f"{key}={value}" for key, value in session["labels"].items())
        created, where = when(session["created_at"]), session["vm" if fleet else "uid"]
        rows.append((session["name"], session["state"], str(where), created, labels))
    table(rows)


def _show_pool(pool: dict[str, Any]) -> None:
    making = ", one is being made" if pool["making"] else ""
    old = f", {pool['removing']} old to be removed" if pool["removing"] else ""
    if pool["size"]:
        say(f"{pool['ready']} of {pool['wanted']} sessions are ready{making}{old}")
    else:
        say(f"none is held ready: size in [pool] of /etc/serai/session.toml is 0{making}{old}")
    if pool["wanted"] < pool["size"]:
        say(f"the settings ask for {pool['size']}; the VM's memory has no room for more")
    say(f"{pool['taken']} were taken, and {pool['missed']} times there was none")
    if pool["problem"]:
        say(f"it is not filled: {pool['problem']}")


def _show_version(met: dict[str, Any]) -> None:
    # A VM with an older Serai does not say which image it is.
    say(f"Serai {met['version']}, protocol {met['protocol']}{_image(met.get('image'))}")


def _show_one(session: dict[str, Any]) -> None:
    labels = " ".join(f"{key}={value}" for key, value in session["labels"].items())
    for key, value in {**session, "labels": labels}.items():
        if key in ("limits", "env", "usage"):
            continue
        if key == "quota":
            say(f"quota: {_used(value) if value else 'none is kept'}")
        elif key == "folders":
            for each in value:
                mode = "rw" if each["writable"] else "ro"
                state = each["problem"] or each["mount"] or "not mounted"
                say(f"{each['role']}: {each['path']} ({mode}, {state})")
        elif key == "forwards":
            for each in value:
                say(f"forward: port {each['port']}, {each['connections']} connection(s)")
        elif key.endswith("_at"):
            say(f"{key.removesuffix('_at')}: {when(value)}") if value else None
        elif key == "refused":
            for each in value:
                say(exec_core.refusal(each))
        elif key == "out_of_memory":
            say(f"{key}: the kernel killed {value} process(es)") if value else None
        elif value not in (None, ""):
            say(f"{key}: {value}")
    limits.show(session)


def _used(quota: dict[str, int]) -> str:
    limit = quota["bytes_limit"] >> 20
    of = f" of {limit} MiB" if limit else ""
    return f"{quota['bytes'] >> 20} MiB{of}, {quota['files']} files"


def _show_actions(result: dict[str, Any]) -> None:
    for action in result["actions"]:
        verb = "archive" if action["goal"] == "archived" else "remove"
        say(f"{verb} {action['name']}: {action['reason']}")


def _silent(_result: Any) -> None:
    """A command that did what it was told says nothing."""
