"""The hostile session, the one beside it, and what an attack uses around them."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from serai.common.paths import Paths
from serai.runtime.client import Client

DEADLINE = 120.0
PATIENCE = 2.5  # seconds for an answer of a daemon's; a payload that enters may take 3
TRIES = 3
DAEMONS = ("serai-sessiond.service", "serai-gate.service")
PAYLOADS = Path(__file__).with_name("payloads")
T = TypeVar("T")


class Attacker(Client):
    """Root's connection, which knows the names of the two sessions."""

    rogue, witness = "rogue", "witness"


def said(*argv: str, timeout: float = DEADLINE) -> str:
    """What a command says on both outputs."""
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=timeout,
    )
    return done.stdout.decode(errors="replace")


def source(program: str) -> str:
    return (PAYLOADS / f"{program}.py").read_text()


def run(client: Attacker, program: str, *words: str, name: str = "") -> str:
    """What one of the payloads says in a session, the hostile one if no other is named."""
    done = client.exec(name or client.rogue, ["python3", "-c", source(program), *words], timeout=60)
    return (done.stdout + done.stderr).decode(errors="replace")


@contextmanager
def at_work(client: Attacker, program: str) -> Iterator[None]:
    """One of the payloads that say so when they are at work, and then go on."""
    marker = Paths().home(client.rogue) / "at-work"
    marker.unlink(missing_ok=True)  # of a try before
    argv = ["python3", "-c", source(program)]
    client.call("exec", name=client.rogue, argv=argv, detach=True, stdio="null")
    wait_for(marker.exists)
    try:
        yield
    finally:
        client.call("stop", name=client.rogue)
        client.call("reopen", name=client.rogue)


def wait_for(condition: Callable[[], object], seconds: float = DEADLINE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:g} s in vain")
        time.sleep(0.1)


def settled(left: Callable[[], list[T]]) -> list[T]:
    """What is left when nothing is left, or when it has been too long."""
    end = time.monotonic() + DEADLINE
    while (found := left()) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def slow(what: str, longest: Callable[[], float]) -> str:
    """What an attack achieved that delays answers, by the ``longest`` it saw in a try.

    The best of some tries counts: one may be slow as the whole VM stood still for a while.
    """
    best = longest()
    for _ in range(TRIES - 1):
        if best > PATIENCE:
            best = min(best, longest())
    return f"{what} {best:.1f} s" if best > PATIENCE else ""


def daemon(unit: str = DAEMONS[0]) -> int:
    return int(said("systemctl", "show", "-P", "MainPID", unit).strip() or 0)


@contextmanager
def directory() -> Iterator[Path]:
    """One of root's that may be attached."""
    path = Path(tempfile.mkdtemp(dir="/srv"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
