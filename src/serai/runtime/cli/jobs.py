"""The commands of ``serai`` for jobs: commands that go on without whoever started them."""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import sys
import threading
import uuid
from typing import Any

from serai.common import stdio
from serai.common.errors import GONE, SeraiError
from serai.common.printing import say
from serai.runtime.cli.arguments import pair
from serai.runtime.cli.connect import connected
from serai.runtime.cli.showing import table, when
from serai.runtime.client import FOLLOW, Client

CHUNK = 32 << 10
UNKNOWN = 125
"""The exit status where a job's own is not known: as exec's, where Serai failed."""
_ENDS = ("out of memory", "session stopped", "VM restarted", "lost", "not started")
COMMANDS = frozenset({"start", "jobs", "logs", "attach-job", "kill", "wait"})


def add_to(commands: Any) -> None:
    """Add the commands to the parser of ``serai``."""

    def add(name: str, text: str, *, named: bool = True) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + "."
        )
        if named:
            made.add_argument("job", metavar="JOB", help="its ID, as 'serai jobs' shows it")
        return made

    start = add("start", "start a command that goes on by itself; print its job's ID", named=False)
    start.add_argument("name", metavar="NAME")
    start.add_argument("--env", metavar="K=V", action="append", default=[], type=pair)
    start.add_argument("--cwd", metavar="DIR", default="", help="default: the session's home")
    start.add_argument("--timeout", metavar="S", type=float, help="end it after S seconds")
    start.add_argument("--stdin", action="store_true", help="keep its input open for attach-job")
    start.add_argument("--request-id", metavar="ID", help="given again: the same job again")
    start.add_argument("argv", metavar="COMMAND", nargs="+", help="after '--', with its arguments")
    listing = add("jobs", "list the jobs of a session, or of all", named=False)
    listing.add_argument("name", metavar="NAME", nargs="?")
    logs = add("logs", "show what a job has written, its first MiB and its last")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until it ends")
    logs.add_argument("--offset", metavar="N", type=int, default=0, help="begin at byte N")
    add("attach-job", "show a job's output until it ends, and give it standard input")
    kill = add("kill", "send a signal to a job")
    kill.add_argument("--signal", metavar="S", default="TERM", help="default: TERM")
    wait = add("wait", "wait for a job's end; the exit status is the job's")
    wait.add_argument("--timeout", metavar="S", type=float, help="at most S seconds; then 124")
    for each in (start, listing, kill, wait):
        each.add_argument("--json", action="store_true", help="print the result as JSON")


def run(client: Client, options: argparse.Namespace) -> int:
    """Carry out one of COMMANDS; returns the exit status. Raises SeraiError."""
    if options.command == "logs":
        follow(client, options.job, options.offset, wait=options.follow)
        return 0
    if options.command == "attach-job":
        return _attached(client, options)
    if options.command == "wait":
        return _wait(client, options)
    if options.command == "start":
        keys = ("name", "argv", "cwd", "timeout", "stdin")
        params = {key: getattr(options, key) for key in keys}
        request = options.request_id or uuid.uuid4().hex
        result = client.call("job.start", **params, env=dict(options.env), request_id=request)
    elif options.command == "jobs":
        result = client.call("job.list", name=options.name)
    else:
        signal = options.signal.removeprefix("SIG")
        result = client.call("job.signal", job=options.job, signal=signal)
    if options.json:
        print(json.dumps(result))
    elif options.command == "start":
        say(result["job"])
    elif options.command == "jobs":
        _show(result["jobs"])
    return 0


def _wait(client: Client, options: argparse.Namespace) -> int:
    try:
        result = client.call("job.wait", job=options.job, timeout=options.timeout)
    except SeraiError as error:
        if error.code == GONE:
            raise
        say(f"serai: {error}", sys.stderr)
        return UNKNOWN  # 1 may be the job's own status
    if options.json:
        print(json.dumps(result))
    return status_of(result)


def follow(client: Client, job: str, offset: int, *, wait: bool) -> dict[str, Any]:
    """Write a job's output to standard output, with ``wait`` until it ends; returns the job."""
    while True:
        patience = FOLLOW if wait else 0.0
        found = client.call("job.read", job=job, offset=offset, wait=patience)
        shown: dict[str, Any] = found["job"]
        if found["offset"] > offset:
            gap = found["offset"] - offset
            sys.stderr.write(f"serai: {gap} bytes are not kept, between the first MiB and here\n")
        stdio.write_all(1, base64.b64decode(found["data"]))
        offset = found["next"]
        if not found["data"] and (not wait or shown["state"] != "running"):
            if shown["lost"]:
                sys.stderr.write(f"serai: {shown['lost']} bytes found no room on the disk\n")
            return shown


def status_of(job: dict[str, Any]) -> int:
    """The exit status that stands for a job's end; why it has none goes to stderr."""
    if job["state"] == "running":
        return 124
    if job["reason"] in _ENDS:
        say(f"serai: job {job['job']} has ended: {job['reason']}", sys.stderr)
    return UNKNOWN if job["status"] is None else int(job["status"])


def _attached(client: Client, options: argparse.Namespace) -> int:
    # Another connection: one call waits for output while the other waits for the input's room.
    with connected(options.vm) as second:
        reader = threading.Thread(target=_feed, args=(second, options.job), daemon=True)
        reader.start()
        return status_of(follow(client, options.job, 0, wait=True))


def _feed(client: Client, job: str) -> None:
    # A job without an open input, or one that ends: its output goes on, and says so itself.
    with contextlib.suppress(SeraiError, OSError):
        client.call("job.input", job=job)  # nothing yet, but who attaches is to find it awake
        while True:
            data = os.read(0, CHUNK)
            text = base64.b64encode(data).decode()
            client.call("job.input", job=job, data=text, eof=not data)
            if not data:
                return


def _show(jobs: list[dict[str, Any]]) -> None:
    rows = [("JOB", "STATE", "STARTED", "OUTPUT", "COMMAND")]
    for job in jobs:
        state = "running"
        if job["state"] != "running":
            known = job["status"] is not None and job["reason"] in ("exit", "signal")
            state = f"ended ({job['status']})" if known else f"ended ({job['reason']})"
        started = when(job["started_at"])
        rows.append((job["job"], state, started, str(job["written"]), " ".join(job["argv"])))
    table(rows)
