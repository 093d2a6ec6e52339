"""Tries the attacks, each in sessions of its own, and prints what came of them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

from serai.common.errors import SeraiError
from serai.runtime.client import Client

from .attacks import ATTACKS
from .rogue import DAEMONS, DEADLINE, ROGUE, WITNESS, said, wait_for


def attacked(attack: Callable[[Client], str], sandbox: str) -> str:
    """What one attack achieved, in a session of its own with that sandbox."""
    with Client(timeout=DEADLINE) as client:
        for name in (ROGUE, WITNESS):
            client.call("create", name=name, sandbox=sandbox)
        try:
            return attack(client).strip()
        except (SeraiError, OSError, ValueError, subprocess.TimeoutExpired) as error:
            return f"{type(error).__name__}: {error}"
        finally:
            with Client(timeout=DEADLINE) as fresh:
                for name in (ROGUE, WITNESS):
                    fresh.call("remove", name=name)
                names = {ROGUE, WITNESS}
                wait_for(lambda: not names & {s["name"] for s in fresh.call("list")["sessions"]})


def faults(since: float) -> str:
    """Tracebacks of the daemons in the journal."""
    units = [word for unit in DAEMONS for word in ("-u", unit)]
    told = said("journalctl", "-q", "--no-pager", "-o", "cat", f"--since=@{since:.0f}", *units)
    return told[-2000:] if "Traceback" in told else ""


def main(sandbox: str, wanted: str) -> int:
    broken, begin = 0, time.time()
    for attack in ATTACKS:
        name = attack.__name__.replace("_", " ")
        if wanted in name:
            found = attacked(attack, sandbox) or faults(begin)
            broken += bool(found)
            tries = (attack.__doc__ or "").splitlines()[0]
            outcome = f"got through: {found!a}" if found else "held"
            print(f"{name}: {tries} {outcome}", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], " ".join(sys.argv[2:])))
