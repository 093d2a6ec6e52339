"""Tries the attacks, each in sessions of its own, and prints what came of them.

The words are the sandbox, ``cold`` or ``pool``, and what the attack's name has.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from serai.common.errors import SeraiError
from serai.common.paths import Paths
from serai.runtime.client import Client

from .attacks import ATTACKS
from .rogue import DAEMONS, DEADLINE, Attacker, said, wait_for

PAIR = 2
SIZE = 2 * PAIR
"""Of the pool: the next attack's sessions are made during one."""
SETTINGS = Paths().settings


def take(client: Attacker, sandbox: str) -> None:
    """Have two sessions out of the pool. Raises SeraiError or TimeoutError."""
    wait_for(lambda: client.call("pool")["ready"] >= PAIR)
    before = client.call("pool")["taken"]
    client.rogue, client.witness = (
        client.call("create", sandbox=sandbox)["name"] for _ in range(PAIR)
    )
    if client.call("pool")["taken"] != before + PAIR:
        raise SeraiError("they are not from the pool")


def attacked(attack: Callable[[Attacker], str], sandbox: str, *, pool: bool) -> str:
    """What one attack achieved, in a session of its own with that sandbox."""
    with Attacker(timeout=DEADLINE) as client:
        if pool:
            take(client, sandbox)
        else:
            for name in (client.rogue, client.witness):
                client.call("create", name=name, sandbox=sandbox)
        try:
            return attack(client).strip()
        except (SeraiError, OSError, ValueError, subprocess.TimeoutExpired) as error:
            return f"{type(error).__name__}: {error}"
        finally:
            names = {client.rogue, client.witness}
            with Client(timeout=DEADLINE) as fresh:
                for name in names:
                    fresh.call("remove", name=name)
                wait_for(lambda: not names & {s["name"] for s in fresh.call("list")["sessions"]})


@contextmanager
def pooled(sandbox: str) -> Iterator[None]:
    """The VM has a pool meanwhile, of sessions with that sandbox."""
    kept = SETTINGS.read_bytes()
    others = re.sub(r"(?m)^sandboxes = .*\n", "", kept.decode())
    text = re.sub(r"(?m)^\[pool\]\n(size = .*\n)?", f"[pool]\nsize = {SIZE}\n", others)
    SETTINGS.write_text(f'sandboxes = ["{sandbox}"]\n{text}')
    try:
        said("systemctl", "reload", DAEMONS[0])
        yield
    finally:
        SETTINGS.write_bytes(kept)
        said("systemctl", "reload", DAEMONS[0])
        with Client(timeout=DEADLINE) as client:
            wait_for(lambda: not any(map(client.call("pool").get, ("ready", "removing"))))


def faults(since: float) -> str:
    """Tracebacks of the daemons in the journal."""
    units = [word for unit in DAEMONS for word in ("-u", unit)]
    told = said("journalctl", "-q", "--no-pager", "-o", "cat", f"--since=@{since:.0f}", *units)
    return told[-2000:] if "Traceback" in told else ""


def main(sandbox: str, where: str, wanted: str) -> int:
    broken, begin, pool = 0, time.time(), where == "pool"
    with pooled(sandbox) if pool else nullcontext():
        for attack in ATTACKS:
            name = attack.__name__.replace("_", " ")
            if wanted in name:
                found = attacked(attack, sandbox, pool=pool) or faults(begin)
                broken += bool(found)
                tries = (attack.__doc__ or "").splitlines()[0]
                outcome = f"got through: {found!a}" if found else "held"
                print(f"{name}: {tries} {outcome}", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], " ".join(sys.argv[3:])))
