"""Serai's daemons as the installer stops, starts and checks them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

DAEMONS = ("serai-gate.service", "serai-sessiond.service")
BESIDE = "serai-audit-syslog.service"
HEALTH = ("/usr/bin/serai", "health", "--json")
ANSWERS = ("/usr/bin/serai", "list", "--json")
"""For a version that has no ``serai health`` yet."""
DEADLINE = 90.0
"""An emulated VM with others beside it takes a minute. Who fails again and again is told sooner."""
PAUSE = 0.3
OFTEN = 10
_ONE = 45.0
_JOURNAL = ("journalctl", "--quiet", "--lines=1", "--output=cat")


class Services(Protocol):
    """What the installer does with services; this VM's here, and others in tests."""

    def stop(self) -> None: ...

    def start(self) -> None: ...

    def wrong(self, *, whole: bool, patience: float = ...) -> str: ...

    def run(self, modules: str, *arguments: str) -> None: ...


class FailedError(Exception):
    """A step could not be done; one line."""


class Daemons:
    """The daemons of this VM."""

    def stop(self) -> None:
        """Stop both, and with them the clients' connections."""
        _run(["systemctl", "stop", *reversed(DAEMONS)], DEADLINE * 2)

    def start(self) -> None:
        """Start both anew, with their units as they are now."""
        _run(["systemctl", "daemon-reload"], DEADLINE)
        # One that does not start is found by the check, which says more.
        with suppress(FailedError):
            _run(["systemctl", "restart", *DAEMONS], 4 * DEADLINE)
        with suppress(FailedError):
            _run(["systemctl", "try-restart", BESIDE], DEADLINE)

    def wrong(self, *, whole: bool, patience: float = DEADLINE) -> str:
        """Why the VM is not well; '' if it is. It gets ``patience`` seconds to become so.

        Not ``whole``: it is enough that both daemons run and answer.
        """
        end = time.monotonic() + patience
        while why := _wrong(whole):
            if again := _again_and_again():
                return again
            if time.monotonic() > end:
                return why
            time.sleep(PAUSE)
        return ""

    def run(self, modules: str, *arguments: str) -> None:
        """Run a module out of the folder ``modules``. Raises FailedError."""
        code = "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
        code += "sys.argv[0] = ''; runpy.run_module(sys.argv.pop(1), run_name='__main__')"
        _run(["/usr/bin/python3", "-IBc", code, modules, *arguments], DEADLINE)


def _again_and_again() -> str:
    """Which daemon has been started so often that it will not do better, and why; '' if none."""
    for unit in DAEMONS:
        times = _said(["systemctl", "show", "-P", "NRestarts", unit])[1].strip()
        if times.isdigit() and int(times) >= OFTEN:
            return f"{unit} was started {times} times more and ended each time: {_words(unit)}"
    return ""


def _words(unit: str) -> str:
    """The last line that the daemon itself wrote; systemd's lines about it say less."""
    return _last(_said([*_JOURNAL, f"_SYSTEMD_UNIT={unit}", "_TRANSPORT=stdout"])[1])


def _wrong(whole: bool) -> str:
    for unit in DAEMONS:
        state = _said(["systemctl", "show", "-P", "ActiveState", unit])[1].strip()
        if state != "active":
            return f"{unit} is {state or 'unknown'}: {_words(unit)}"
    if whole:
        status, out, error = _said(HEALTH)
        if status == 0:
            return ""
        if "invalid choice" not in error:
            return f"'serai health' ended with status {status}: {_last(error or out)}"
    status, _, error = _said(ANSWERS)
    return "" if status == 0 else f"sessiond does not answer: {_last(error)}"


def _said(argv: Sequence[str]) -> tuple[int, str, str]:
    try:
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=_ONE)
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, "", str(error)
    return done.returncode, done.stdout, done.stderr


def _run(argv: Sequence[str], deadline: float) -> None:
    try:
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=deadline)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FailedError(str(error)) from None
    if done.returncode != 0:
        raise FailedError(f"{' '.join(argv[:3])}: {_last(done.stderr)}")


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:300] if lines else "it says nothing"
