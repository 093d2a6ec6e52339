"""``serai doctor``: collect, judge, and say so."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import site
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from types import FrameType

from serai.common.checks import Facts, Result, judge, summary
from serai.common.errors import SeraiError
from serai.common.paths import Paths
from serai.common.printing import clean
from serai.runtime import settings
from serai.runtime.doctor import collect, tenant
from serai.runtime.doctor.checks import CHECKS
from serai.runtime.sessions import own


def examine(paths: Paths, sandbox: str | None = None) -> list[Result]:
    """Every check's result, in sessions with ``sandbox`` or the VM's default.

    Raises SeraiError if another doctor is at work, or we are not root.
    """
    if os.geteuid() != 0:
        raise SeraiError("the doctor takes root", "sudo serai doctor")
    paths.run.mkdir(mode=0o755, parents=True, exist_ok=True)
    with closing(
        os.fdopen(os.open(paths.run / "doctor.lock", os.O_RDWR | os.O_CREAT, 0o600))
    ) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SeraiError("another doctor is at work", "wait for it to end") from None
        took: dict[str, float] = {}
        facts = collect.gather(paths, took)
        try:
            found = settings.load(paths.settings)
        except SeraiError:
            found = settings.SessionSettings()  # that it cannot be read is a finding of its own
        if sandbox is not None:
            own.check_sandbox(sandbox, found)
            found = replace(found, sandboxes=(sandbox,))
        facts |= tenant.gather(paths, found, took)
        # Last: what the throwaway session was allowed and denied is in the log, too.
        facts["audit"] = collect.timed("audit", partial(collect.audit, paths), took)
        return judge(Facts(facts), took, CHECKS)


def table(results: Sequence[Result], colour: bool) -> str:
    """A line a check, below its area; what it means follows one that failed."""
    lines, area = [], ""
    width = max((len(each.check.name) for each in results), default=0)
    good, bad, off = ("\033[32m", "\033[1;31m", "\033[0m") if colour else ("", "", "")
    for each in results:
        if each.check.area != area:
            area = each.check.area
            lines += [f"{area}:"]
        mark = f"{good}ok  {off}" if each.ok else f"{bad}FAIL{off}"
        lines.append(f"  {mark}  {each.check.name.ljust(width)}  {clean(each.detail)}".rstrip())
        if not each.ok:
            lines.append(f"        {each.check.means}")
    failed = sum(not each.ok for each in results)
    return "\n".join([*lines, f"{len(results) - failed} passed, {failed} failed"])


INTRODUCTION = """\
# serai doctor

    serai doctor [--json] [--sandbox strict|sockets]

Looks at a VM as a support engineer would, and tries from inside whether sessions are contained.
It takes root and some seconds, changes no setting and touches no session of yours: it makes two
throwaway sessions, tries to break out of the first one, and removes both, whatever happens. They
are named `doctor-…` or, if the [pool](pool.md) has two, come out of it, so that what others get is
examined. Their sandbox is the VM's default, or the one that you name. Exit status 1 if a check
fails.

The audit log has all that these sessions do: about 30 lines a run, each with the key `doctor`.
Metrics do not count them. To ask every minute whether a VM is well, use
[`serai health`](reference-commands.md#serai-health): it makes nothing and writes nothing.

`--json` prints `{{"checks": [{{"name", "ok", "detail", "seconds"}}], "passed", "failed"}}`, with
`"means"` where a check failed. A check whose facts could not be collected fails, and says why.

System calls are really made. A call that the session's filters let pass is caught by a filter of
the doctor's own, so a broken sandbox is seen, and not used to restart the VM.

There are {count} checks.
"""


def page() -> str:
    """The text of docs/doctor.md."""
    lines = [INTRODUCTION.format(count=len(CHECKS))]
    for area in dict.fromkeys(each.area for each in CHECKS):
        rows = [f"| {each.name} | {each.means} |" for each in CHECKS if each.area == area]
        title = f"{area[0].upper()}{area[1:]}"
        lines += ["\n".join([f"## {title}", "", "| check | if it fails |", "|---|---|", *rows, ""])]
    return "\n".join(lines)


def main(as_json: bool, sandbox: str | None) -> int:
    """Carry out the command; returns its exit status. Raises SeraiError."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    site.main()  # the command is started without, and modules of the distribution's are looked at
    begin = time.monotonic()
    results = examine(Paths(), sandbox)
    report = summary(results)
    if as_json:
        print(json.dumps(report))
    else:
        print(table(results, sys.stdout.isatty()), f"in {time.monotonic() - begin:.1f} s")
    return 0 if report["checks"] and not report["failed"] else 1


def _leave(number: int, _frame: FrameType | None) -> None:
    """Clean up, as at Ctrl-C."""
    raise SystemExit(128 + number)
