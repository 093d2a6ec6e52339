"""Boot a finished image on throwaway overlays, gather facts, judge them, and say so."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from rich.table import Table
from rich.text import Text

from serai.image import checks, console, digest, facts, probe, shipped
from serai.image.checks import Result
from serai.image.definition import Image
from serai.image.errors import BuildError
from serai.image.facts import Digests, Evidence, Facts, Foreign, Shipped
from serai.image.machine import Machine, booted
from serai.image.qemu import Bus
from serai.image.run import run
from serai.image.settings import Settings

REPORT = "verify.json"
_PROBE_DEADLINE = 900.0  # seconds; it waits until the boot's last job has ended
_NOT_REACHED = "it was not reached"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Report:
    """What verify.json holds. ``boot_seconds`` is from power-on to ssh, None without a boot."""

    image: str
    version: str
    boot_seconds: float | None
    facts: dict[str, object]
    checks: tuple[Result, ...]

    @property
    def passed(self) -> int:
        """How many checks passed."""
        return sum(check.ok for check in self.checks)

    @property
    def failed(self) -> int:
        """How many checks failed."""
        return len(self.checks) - self.passed

    @property
    def ok(self) -> bool:
        """Whether the image is good. Nothing checked is nothing proved."""
        return bool(self.checks) and not self.failed


def verify(settings: Settings, image: Image, folder: Path) -> Report:
    """Verify ``<image>.qcow2`` in ``folder``, beside its SHA256SUMS, and write verify.json there.

    The disk is only read. What does not come up is a failed check; raises BuildError only where
    there is no image, or this host cannot boot one.
    """
    disk = folder / f"{image.name}.qcow2"
    if not disk.is_file():
        raise BuildError(
            f"there is no image {disk}", hint=f"run 'invoke build-image --image {image.name}'"
        )
    with console.step(f"verify {image.name}"):
        evidence, took = gather(settings, image, disk)
    report = report_of(evidence, folder.resolve().name, checks.judge(evidence, took))
    write(report, folder / REPORT)
    show(report)
    return report


def gather(settings: Settings, image: Image, disk: Path) -> tuple[Evidence, dict[str, float]]:
    """Everything there is to judge, and the seconds that each part of it took.

    The boots go side by side: an emulated one keeps one or two processors busy and no more.
    """
    found = _Found()
    settings.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="verify-", dir=settings.cache) as folder:
        work = Path(folder)
        with found.timed("digests"):
            before = digest.of_file(disk)
        in_parallel(
            [
                lambda: _kept(settings, image, disk, work / "kept", found),
                lambda: _others(settings, image, disk, work, found),
            ]
        )
        with found.timed("digests"):
            found.digests = digests(disk, before)
    return found.evidence(image), found.took


class _Found:
    """Evidence that is still being gathered, by two threads of which each sets its own parts."""

    def __init__(self) -> None:
        self.first: facts.Machine | str = _NOT_REACHED
        self.second: facts.Machine | str = _NOT_REACHED
        self.foreign: facts.Machine | str = _NOT_REACHED
        self.alone: facts.Machine | str = _NOT_REACHED
        self.shipped: Shipped | str = _NOT_REACHED
        self.digests: Digests | str = _NOT_REACHED
        self.foreign_disk: Foreign | str = _NOT_REACHED
        self.took: dict[str, float] = {}
        self._lock = threading.Lock()

    def spent(self, part: str, seconds: float) -> None:
        with self._lock:
            self.took[part] = self.took.get(part, 0.0) + seconds

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        begin = time.monotonic()
        try:
            yield
        finally:
            self.spent(part, time.monotonic() - begin)

    def machine(
        self, machine: Machine, part: str, seconds: float, token: str = ""
    ) -> facts.Machine:
        """One boot's facts; raises BuildError if the machine does not tell them."""
        told = probed(machine, token)
        self.spent(part, seconds)
        for name, took in told.took.items():
            self.spent(name, took)
        return facts.Machine(
            facts=told,
            seconds=round(seconds, 1),
            clock=time.time(),
            key=machine.ssh.key.with_suffix(".pub").read_text().strip(),
        )

    def evidence(self, image: Image) -> Evidence:
        return Evidence(
            image=image,
            first=self.first,
            second=self.second,
            foreign=self.foreign,
            alone=self.alone,
            shipped=self.shipped,
            digests=self.digests,
            foreign_disk=self.foreign_disk,
        )


def _kept(settings: Settings, image: Image, disk: Path, work: Path, found: _Found) -> None:
    """A fresh machine with a blank second disk, and the same machine after a reboot."""
    token = os.urandom(8).hex()
    try:
        with booted(image, disk, settings=settings, work=work) as machine:
            found.first = found.machine(machine, "first", machine.boot_seconds, token)
            found.second = found.machine(machine, "second", machine.reboot())
    except BuildError as error:
        if isinstance(found.first, str):
            found.first = str(error)
        found.second = str(error)


def _others(settings: Settings, image: Image, disk: Path, work: Path, found: _Found) -> None:
    """The bytes at rest; a machine whose second disk is somebody else's; one without any."""
    with found.timed("shipped"):
        found.shipped = attempt(lambda: shipped.gather(disk, work))
    strange = work / "other.raw"
    other_bus: Bus = "virtio" if image.disk.bus == "nvme" else "nvme"
    try:
        before = _foreign_disk(strange)
        with booted(
            image, disk, settings=settings, work=work / "foreign", sessions=strange, bus=other_bus
        ) as machine:
            found.foreign = found.machine(machine, "foreign", machine.boot_seconds)
            machine.shutdown()
        found.foreign_disk = Foreign(before=before, after=digest.of_file(strange))
    except BuildError as error:
        found.foreign = found.foreign_disk = str(error)
    try:
        with booted(
            image, disk, settings=settings, work=work / "alone", no_sessions=True
        ) as machine:
            found.alone = found.machine(machine, "alone", machine.boot_seconds)
    except BuildError as error:
        found.alone = str(error)


def probed(machine: Machine, token: str = "") -> Facts:
    """What ``probe`` finds in ``machine``; raises BuildError if it does not print facts."""
    source = Path(probe.__file__).read_text()
    done = machine.ssh.run(f"python3 - {token}", stdin=source, timeout=_PROBE_DEADLINE)
    try:
        return Facts.model_validate_json(done.stdout)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise BuildError(f"the guest's facts make no sense: {where}: {first['msg']}") from None


def attempt(action: Callable[[], _T]) -> _T | str:
    """The action's result, or why there is none."""
    try:
        return action()
    except BuildError as error:
        return str(error)


def in_parallel(actions: Sequence[Callable[[], None]]) -> None:
    """Run each action in a thread of its own; raises the first error when all have ended.

    Ctrl-C does not wait: the threads are daemons, and their machines end with this process.
    """
    errors: list[BaseException] = []

    def guarded(action: Callable[[], None]) -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(action,), daemon=True) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _foreign_disk(target: Path) -> str:
    """Make a small disk that holds somebody else's files; returns its SHA-256."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        (Path(folder) / "precious").write_text("do not touch\n")
        run(["mke2fs", "-q", "-t", "ext4", "-L", "other", "-d", folder, target, "64M"])
    return digest.of_file(target)


def digests(disk: Path, before: str) -> Digests | str:
    """The digest that SHA256SUMS beside ``disk`` promises, the one ``before``, and the present."""
    sums = disk.with_name("SHA256SUMS")
    if not sums.is_file():
        return f"there is no {sums.name}"
    lines = [line.split(maxsplit=1) for line in sums.read_text().splitlines() if line.strip()]
    promised = {name.lstrip("*"): value for value, name in lines}.get(disk.name)
    if promised is None:
        return f"{sums.name} does not name {disk.name}"
    return Digests(promised=promised, before=before, after=digest.of_file(disk))


def report_of(evidence: Evidence, version: str, results: Sequence[Result]) -> Report:
    """The report of what was judged, with the facts that people ask for."""
    first = evidence.first
    told: dict[str, object] = {}
    if not isinstance(first, str):
        system = first.facts.system
        told = {
            "packages": system.packages,
            "root_bytes": system.root_bytes,
            "root_used": system.root_used,
            "kernel": system.kernel,
            "reboot_seconds": None if isinstance(evidence.second, str) else evidence.second.seconds,
        }
    seconds = None if isinstance(first, str) else first.seconds
    return Report(evidence.image.name, version, seconds, told, tuple(results))


def write(report: Report, target: Path) -> None:
    """Write verify.json, whole or not at all."""
    content = {
        "image": report.image,
        "version": report.version,
        "boot_seconds": report.boot_seconds,
        "facts": report.facts,
        "checks": [asdict(check) for check in report.checks],
        "passed": report.passed,
        "failed": report.failed,
    }
    temporary = target.with_name(f".{target.name}.new")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(content, indent=2) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(target)


def show(report: Report) -> None:
    """Print the checks as a table, and the sum."""
    table = Table(box=None, pad_edge=False)
    for title in ("", "check", "found", "s"):
        table.add_column(title, justify="right" if title == "s" else "left", overflow="fold")
    for check in report.checks:
        mark = Text("✓", "green") if check.ok else Text("✗", "bold red")
        table.add_row(mark, Text(check.name), Text(check.detail), f"{check.seconds:.1f}")
    console.out.print(table, soft_wrap=False)
    if not report.checks:
        console.fail("nothing was checked")
    console.say(f"{report.image} {report.version}: {report.passed} passed, {report.failed} failed")
