"""``serai set``, and the same options of ``serai create``: a session's own limits and variables."""

from __future__ import annotations

import argparse
from typing import Any

from serai.common.printing import say
from serai.common.sandboxes import SANDBOXES
from serai.runtime.cli.arguments import change, pair

LIMITS = {
    "memory": ("AMOUNT", "memory, such as 1G or 25%%"),
    "cpus": ("N", "CPUs at once, such as 1.5"),
    "tasks": ("N", "processes and threads"),
    "quota": ("AMOUNT", "what it may use of the sessions disk, such as 4G or 10%%"),
    "idle_freeze": ("TIME", "freeze it when nothing was done in it for so long, such as 10m"),
    "ttl": ("TIME", "archive it when so long has passed, such as 8h"),
}
VM = ("memory", "cpus", "tasks", "quota")
"""The limits that every session has."""
DEFAULT = "default"
"""A limit that is no longer the session's own."""


def add_to_create(parser: argparse.ArgumentParser) -> None:
    """The options for what a new session has of its own."""
    for name, (metavar, text) in LIMITS.items():
        parser.add_argument(option(name), metavar=metavar, help=text)
    add_sandbox(parser)
    _add_pairs(parser, "K=V", pair)


def add_sandbox(parser: argparse.ArgumentParser) -> None:
    """The option for which sandbox a session gets."""
    text = "with sockets its programs have Unix sockets; default: as the VM's settings say"
    parser.add_argument("--sandbox", choices=SANDBOXES, help=text)


def add_to_set(parser: argparse.ArgumentParser) -> None:
    """The options to change that."""
    for name, (metavar, text) in LIMITS.items():
        less = f"{text}; {DEFAULT}: {'as the VM says' if name in VM else 'never'}"
        parser.add_argument(option(name), metavar=metavar, help=less)
    _add_pairs(parser, "K[=V]", change)


def option(limit: str) -> str:
    """How a limit is called on the command line."""
    return f"--{limit.replace('_', '-')}"


def _add_pairs(parser: argparse.ArgumentParser, metavar: str, kind: Any) -> None:
    less = "" if kind is pair else "; K alone takes it away"
    for name, text in (("label", "a label"), ("env", "a variable of commands started from now on")):
        parser.add_argument(
            f"--{name}",
            metavar=metavar,
            action="append",
            default=[],
            type=kind,
            help=f"{text}, may be repeated{less}",
        )


def of_create(options: argparse.Namespace) -> dict[str, Any]:
    """What these options are for ``create``. An older VM knows no others, and is asked for none."""
    more = {"limits": _limits(options), "env": dict(options.env), "sandbox": options.sandbox}
    return {"labels": dict(options.label), **{key: value for key, value in more.items() if value}}


def of_set(options: argparse.Namespace) -> dict[str, Any]:
    """What these options are for ``set``."""
    limits = {key: None if text == DEFAULT else text for key, text in _limits(options).items()}
    labels, env = dict(options.label), dict(options.env)
    return {"name": options.name, "labels": labels, "limits": limits, "env": env}


def show(session: dict[str, Any]) -> None:
    """A session's use, next to what it may use, and what it has of its own."""
    if usage := session.get("usage"):
        _show_usage(usage)
    if limits := session.get("limits"):
        say(f"own limits: {' '.join(f'{key}={value}' for key, value in limits.items())}")
    for key, value in session.get("env", {}).items():
        say(f"env: {key}={value}")


def _show_usage(usage: dict[str, Any]) -> None:
    """What the kernel does not count is left out."""
    if (memory := usage["memory"]) is not None:
        peak = usage["memory_peak"]
        most = "" if peak is None else f", at most {_mib(peak)} so far"
        say(f"memory: {_mib(memory)}{_of(usage['memory_limit'], _mib)}{most}")
    if (seconds := usage["cpu_seconds"]) is not None:
        limit, waited = usage["cpu_limit"], usage["cpu_waited"]
        limited = (
            "" if limit is None else f", at most {limit:g} CPUs, waited for {waited or 0:.1f} s"
        )
        say(f"cpu: {seconds:.1f} s{limited}")
    if (tasks := usage["tasks"]) is not None:
        refused = usage["tasks_refused"]
        said = f", {refused} refused" if refused else ""
        say(f"tasks: {tasks}{_of(usage['tasks_limit'], str)}{said}")
    if (sent := usage["sent"]) is not None:
        say(f"egress: {sent} bytes sent, {usage['received']} received")


def _of(limit: int | None, words: Any) -> str:
    return "" if limit is None else f" of {words(limit)}"


def _mib(amount: int) -> str:
    return f"{amount >> 20} MiB"


def _limits(options: argparse.Namespace) -> dict[str, str]:
    given = {name: getattr(options, name) for name in LIMITS}
    return {name: value for name, value in given.items() if value is not None}
