"""``serai exec`` and ``serai shell``: the command that is run most, so it imports next to nothing.

The payload gets this process's own stdin, stdout and stderr where they are pipes. What must not be
handed in (a terminal, a socket, a file to write to) is relayed, by a module that is imported then.
"""

from __future__ import annotations

import posix
import sys

from serai.common import stdio
from serai.common.printing import clean
from serai.common.stdio import may_be_handed_in
from serai.runtime.cli.exec_core import Channel, Failure, Options, control, request, status_of

USAGE = "usage: serai exec NAME [option ...] -- COMMAND [ARGUMENT ...]"
HELP = f"""{USAGE}

Run COMMAND in the running session NAME, with this command's stdin, stdout and stderr. Signals are
passed on; the exit status is the command's (128 + n if signal n ended it). What it leaves running
is ended with it.

  --timeout S   end it after S seconds (exit status 124)
  --env K=V     set a variable, as often as wanted
  --cwd DIR     start in DIR (default: the session's home)
  --tty         give it a terminal of the sandbox's own
  --detach      return at once; the command goes on until it ends or the session is stopped. Its
                output goes nowhere: have it write to a file in the session
  --json        print status, stdout and stderr as JSON when it has ended; at most 64 MiB

Exit status 125: Serai failed; 126: the command cannot be executed; 127: there is no such command.
"""


def parse(arguments: list[str]) -> Options:
    """The options before ``--`` and the command after it. Raises Failure."""
    options = Options()
    rest = list(arguments)
    while rest and rest[0] != "--":
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if name in ("--tty", "-t", "--detach", "-d", "--json", "--help", "-h") and not equals:
            long = {"-t": "tty", "-d": "detach", "-h": "help"}.get(name, name.lstrip("-"))
            setattr(options, long, True)
        elif name in ("--timeout", "--env", "--cwd"):
            if not equals:
                if not rest:
                    raise Failure(f"{name} needs a value; {USAGE}", 2)
                value = rest.pop(0)
            _set(options, name, value)
        elif options.name and not word.startswith("-"):
            raise Failure(f"there is no -- before {word!a}; {USAGE}", 2)
        elif word.startswith("-"):
            raise Failure(f"{word!a} is not understood; {USAGE}", 2)
        else:
            options.name = word
    options.argv = rest[1:]
    if not options.help and not (options.name and options.argv):
        raise Failure(USAGE, 2)
    return options


def main(arguments: list[str], vm: str | None = None) -> int:
    """Run ``serai exec`` with these arguments, in ``vm``; returns the exit status."""
    try:
        options = parse(arguments)
        options.vm = options.vm if vm is None else vm
    except Failure as failure:
        return _told(failure)
    if options.help:
        sys.stdout.write(HELP)
        return 0
    return complete(options)


def complete(options: Options) -> int:
    """Run the payload, tell on stderr what fails, and leave what is shared as it was."""
    flags = stdio.status_flags()
    try:
        return run(options)
    except Failure as failure:
        return _told(failure)
    finally:
        stdio.restore(flags)


def _told(failure: Failure) -> int:
    sys.stderr.write(f"serai: {clean(str(failure))}\n")
    return failure.status


def run(options: Options) -> int:
    """Run the payload; returns its exit status. Raises Failure."""
    if options.vm:
        from serai.runtime.cli import exec_remote  # noqa: PLC0415  # costs 40 ms

        return exec_remote.run(options)
    if options.json:
        from serai.runtime.cli import exec_json  # noqa: PLC0415  # costs 30 ms

        return exec_json.run(options)
    channel = Channel(control())
    channel.take_signals()
    if options.detach:
        # Pipes would tie it to their other ends, which wait for it, or end it by going.
        null = posix.open("/dev/null", posix.O_RDWR)
        if _is_file(1) or _is_file(2):
            sys.stderr.write("serai: what a detached command writes is not kept in this file\n")
        handed = (0 if _is_file(0) and may_be_handed_in(0) else null, null, null)
        channel.send("exec", request(options, "fds"), answer=True, fds=handed)
        return status_of(channel.wait())
    if options.tty or not all(map(may_be_handed_in, (0, 1, 2))):
        from serai.runtime.cli import exec_relay  # noqa: PLC0415  # only where something must be relayed

        return exec_relay.run(options, channel)
    channel.send("exec", request(options, "fds"), answer=True, fds=(0, 1, 2))
    return status_of(channel.wait())


def _is_file(descriptor: int) -> bool:
    return posix.fstat(descriptor).st_mode & 0o170000 == 0o100000  # noqa: PLR2004  # S_IFREG


def _set(options: Options, name: str, value: str) -> None:
    if name == "--timeout":
        try:
            options.timeout = float(value)
        except ValueError:
            options.timeout = 0.0
        if not 0 < options.timeout < float("inf"):
            raise Failure("--timeout takes a number of seconds above 0", 2)
    elif name == "--env":
        key, equals, text = value.partition("=")
        if not key or not equals:
            raise Failure("--env takes K=V", 2)
        options.env[key] = text
    else:
        options.cwd = value
