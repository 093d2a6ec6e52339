"""``serai policy`` and ``serai audit``: what a session may reach, and what it reached."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from serai.common.errors import SeraiError
from serai.common.printing import say
from serai.runtime.client import Client

POLL = 0.5  # seconds
PAGE = 1000
_BIND = ("secret", "service", "hosts", "header", "basic", "query", "variable")
_SERVICE = "which well-known service it is for; default: the one of its name"
Call = tuple[str, dict[str, Any], Callable[[Any], None]]


def add_parsers(commands: Any) -> None:
    """Add both commands to the parser of ``serai``."""
    policy = commands.add_parser("policy", help="what a session may reach through the gate")
    actions = policy.add_subparsers(dest="action", required=True, metavar="ACTION")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = actions.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + "."
        )
        made.add_argument("--json", action="store_true", help="print the result as JSON")
        made.add_argument("name", metavar="NAME")
        return made

    add("show", "show a session's profile, and the rules and bindings of its own")
    whole = add("set", "give a session another policy; what is not given is empty")
    whole.add_argument("--profile", default="default", help="default: default")
    whole.add_argument("--allow", metavar="RULE", action="append", default=[])
    whole.add_argument("--deny", metavar="RULE", action="append", default=[])
    more = add(
        "allow", "allow a session more: HOST, *.HOST, HOST:PORT, CIDR or 'HOST GET /path/**'"
    )
    less = add("deny", "allow a session less; what is denied wins over what is allowed")
    for parser in (more, less):
        parser.add_argument("rules", metavar="RULE", nargs="+")
    for parser in (whole, more, less):
        parser.add_argument("--cut", action="store_true", help="end connections it now forbids")
    bind = add("bind", "have a session use a secret that it never sees")
    bind.add_argument("secret", metavar="SECRET")
    bind.add_argument("--as", dest="service", metavar="SERVICE", default="", help=_SERVICE)
    hosts = "a host that it is for, with port 443 or HOST:PORT; more than once for several"
    bind.add_argument(
        "--host", metavar="HOST", dest="hosts", action="append", default=[], help=hosts
    )
    place = bind.add_mutually_exclusive_group()
    place.add_argument("--header", metavar="'NAME: {}'", default="", help="with {} in its place")
    place.add_argument("--basic", metavar="USER", default="", help="as this user's password")
    place.add_argument("--query", metavar="KEY", default="", help="as this parameter of the query")
    variable = "the variable in which programs find the placeholder"
    bind.add_argument("--variable", metavar="VAR", default="", help=variable)
    unbind = add("unbind", "have a session use a secret no more")
    unbind.add_argument("secret", metavar="SECRET")
    explain = add("explain", "say what the gate would answer, and why")
    explain.add_argument("target", metavar="URL|HOST[:PORT]")
    explain.add_argument("--method", metavar="M", default="", help="default for a URL: GET")

    log = commands.add_parser("audit", help="what the gate decided, and what became of it")
    log.add_argument("--json", action="store_true", help="the same as --format jsonl")
    log.add_argument(
        "--format",
        choices=("jsonl", "ocsf"),
        help="a line each: entries as they are, or as events of OCSF 1.8.0",
    )
    log.add_argument("--session", metavar="NAME", help="of this session only")
    log.add_argument("-n", "--lines", type=int, default=100, metavar="N", help="default: 100")
    log.add_argument("-f", "--follow", action="store_true", help="go on with what is added")
    log.add_argument("--verify", action="store_true", help="check that the log is whole")


def policy_call(options: argparse.Namespace) -> Call:
    """The method behind ``serai policy``, its parameters, and how to show the result."""
    params: dict[str, Any] = {"name": options.name}
    if options.action == "explain":
        params |= {"target": options.target, "method": options.method}
        return "policy.explain", params, _show_explained
    keys: tuple[str, ...] = {
        "show": (),
        "set": ("profile", "allow", "deny", "cut"),
        "bind": _BIND,
        "unbind": ("secret",),
    }.get(options.action, ("rules", "cut"))
    params.update({key: getattr(options, key) for key in keys})
    return f"policy.{options.action}", params, _show_policy


def audit(client: Client, options: argparse.Namespace) -> int:
    """Carry out ``serai audit``; returns the exit status. Raises SeraiError."""
    if options.verify:
        report = client.call("audit.verify")
        if options.json or options.format:
            print(json.dumps(report))
        elif report["ok"]:
            say(f"the audit log is whole: {report['entries']} entries")
        if not report["ok"]:
            raise SeraiError(f"the audit log is not whole: {report['problem']}")
        return 0
    found = client.call("audit", limit=options.lines, session=options.session)
    _show_entries(found["entries"], options)
    while options.follow:
        after = found["entries"][-1]["seq"] if len(found["entries"]) == PAGE else found["last"]
        found = client.call("audit", after=after, limit=PAGE, session=options.session)
        _show_entries(found["entries"], options)
        if not found["entries"]:
            time.sleep(POLL)
    return 0


def line(entry: dict[str, Any]) -> str:
    """An entry for a person."""
    when = str(entry["time"])[:19].replace("T", " ")
    if entry["event"] == "operation":
        return _operation(when, entry)
    if "session" not in entry:
        more = " ".join(f"{key}={value}" for key, value in entry.items() if key != "event")
        return f"{when}  {entry['event']}  {more}"
    place = f"{entry['host']}:{entry['port']}"
    if entry["address"] not in (None, entry["host"]):
        place += f" ({entry['address']})"
    if entry["event"] == "decision":
        what = "allowed" if entry["allowed"] else "denied"
        if "method" in entry:
            place += f"  {entry['method']} {entry['path']}"
        said = f"{what}  {place}  {entry['rule']}"
        if "secret" in entry:
            said += f"  with {entry['secret']}"
    else:
        said = f"closed  {place}  {entry['sent']} B out, {entry['received']} B in"
        said += f", {entry['seconds']:.1f} s"
        if "status" in entry:
            said += f", status {entry['status']}"
    if entry.get("error"):
        said += f"  {entry['error']}"
    return f"{when}  {entry['session']}{_mark(entry)}  {entry['protocol']}  {said}"


def _operation(when: str, entry: dict[str, Any]) -> str:
    """What sessiond did, and who wanted that."""
    by = entry["by"]
    user = f"uid {by['uid']}" + (f" (login {by['login']})" if "login" in by else "")
    place = by["via"] + (f" from {by['from']}" if "from" in by else "")
    known = ("seq", "time", "prev", "event", "operation", "session", "uid", "doctor", "by", "error")
    words = [f"{key}={value}" for key, value in entry.items() if key not in known]
    said = "  ".join([entry["operation"], f"by {user}, pid {by['pid']}, {place}", *words])
    error = f"  failed: {entry['error']}" if "error" in entry else ""
    return f"{when}  {entry.get('session', '-')}{_mark(entry)}  {said}{error}"


def _mark(entry: dict[str, Any]) -> str:
    return " (doctor)" if entry.get("doctor") else ""


def _show_entries(entries: list[dict[str, Any]], options: argparse.Namespace) -> None:
    show: Callable[[dict[str, Any]], str] = line
    if options.format == "ocsf":
        from serai.runtime import ocsf  # noqa: PLC0415  # of no use to any other

        show = ocsf.line
    elif options.json or options.format:
        show = json.dumps
    for entry in entries:
        say(show(entry))
    sys.stdout.flush()


def _show_policy(policy: dict[str, Any]) -> None:
    say(f"profile: {policy['profile']}")
    for side in ("allow", "deny"):
        for rule in policy[side]:
            say(f"{side}: {rule}")
    for binding in policy["bind"]:
        say(f"bind: {_bound(binding)}")
    if policy.get("cut"):
        say(f"cut: {policy['cut']} connections")


def _bound(binding: dict[str, Any]) -> str:
    """A binding for a person."""
    place = "wherever its placeholder stands"
    if "header" in binding:
        place = f"in the header '{binding['header']}'"
    elif "basic" in binding:
        place = f"as the password of {binding['basic']}"
    elif "query" in binding:
        place = f"as {binding['query']}= in the query"
    variable = f", placeholder in {binding['variable']}" if "variable" in binding else ""
    return f"{binding['secret']} for {', '.join(binding['hosts'])}, {place}{variable}"


def _show_explained(result: dict[str, Any]) -> None:
    if "problem" in result:  # it is not denied, so no rule would help
        said = f"cannot be reached: {result['problem']}"
    else:
        said = "allowed" if result["allowed"] else "denied"
    asked = f" {result['request']}" if result["request"] else ""
    say(f"{result['target']}{asked}: {said}")
    for verdict in result["verdicts"]:
        of = f"{verdict['address']}: " if verdict["address"] else ""
        what = "allowed" if verdict["allowed"] else "denied"
        say(f"  {of}{what} by {verdict['rule']}: {verdict['reason']}")
    if result["allowed"] and result["tls"] == "ended":
        say("  the gate ends TLS there and sees requests, which rules may decide one by one")
    for secret in result["secrets"]:
        say(f"  the secret {secret} goes in")
