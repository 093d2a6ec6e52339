"""Boot a finished image on throwaway overlays, gather facts, judge them, and say so."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from serai.common.checks import judge
from serai.image import cache, console, digest, layout
from serai.image.definition import tools
from serai.image.definition.definition import Image, megabytes
from serai.image.errors import BuildError
from serai.image.guest import exercise, probe
from serai.image.parallel import guests_at_once, in_parallel
from serai.image.run import run
from serai.image.settings import Settings
from serai.image.verify import boot_chart, own, shipped
from serai.image.verify.checks import CHECKS
from serai.image.verify.facts import (
    BootFacts,
    Digests,
    Evidence,
    ExerciseFacts,
    FirstBoot,
    Foreign,
    ObservedBoot,
    ProbeFacts,
    Ran,
    Shipped,
)
from serai.image.verify.verdict import Report, report_of, show, write
from serai.image.vm.qemu import Bus
from serai.image.vm.vm import VM, booted

LATER = ("second", "foreign", "alone")  # parts of the evidence that take another boot
_PROBE_DEADLINE = 900.0  # seconds; it waits until the boot's last job has ended
_NOT_REACHED = "it was not reached"
_T = TypeVar("_T")
_M = TypeVar("_M", bound=BaseModel)


def verify(settings: Settings, image: Image, folder: Path, *, quick: bool = False) -> Report:
    """Verify ``<image>.qcow2`` in ``folder``, beside its SHA256SUMS, and write verify.json there.

    The disk is only read. A VM that does not come up is failed checks; raises BuildError where
    there is no image, or another process verifies it. With ``quick`` it is booted once,
    and nothing is written: what was not checked cannot be released.
    """
    disk = folder / layout.disk(image.name)
    if not disk.is_file():
        raise BuildError(
            f"there is no image {disk}", hint=f"run 'invoke build-image --image {image.name}'"
        )
    with console.step(f"verify {image.name}"):
        evidence, took = gather(settings, image, disk, quick=quick)
    every = (*CHECKS, *own.checks(image))
    checks = [check for check in every if not quick or check.part not in LATER]
    report = report_of(evidence, folder.resolve().name, judge(evidence, took, checks))
    if not quick:
        write(report, folder / layout.VERIFIED)
    show(report)
    if left := len(every) - len(checks):
        console.say(
            f"{left} checks take three more boots, and a release takes them: leave out --quick"
        )
    return report


def gather(
    settings: Settings, image: Image, disk: Path, *, quick: bool = False
) -> tuple[Evidence, dict[str, float]]:
    """Everything there is to judge, and the seconds that each part of it took.

    With ``quick`` there is the first boot and no other.

    Two go side by side where the host has the processors and the memory: an emulated one keeps one
    or two processors busy and no more. The VMs' logs stay in the cache, below ``verify/<image>``.
    """
    found, promised = _Found(), tools.promised(settings, image)
    folder = settings.cache / "verify"
    with cache.locked(folder / f".{image.name}.lock"), _cleared(folder / image.name) as work:
        with found.timed("digests"):
            before = digest.of_file(disk)
        in_parallel(
            [
                lambda: _kept(settings, image, disk, work / "kept", found, quick=quick),
                lambda: _at_rest(disk, work, found),
                *([] if quick else [lambda: _others(settings, image, disk, work, found)]),
            ],
            found.stop,
            guests_at_once(megabytes(image.machine.memory)),
        )
        with found.timed("digests"):
            found.digests = digests(disk, before)
    return found.evidence(image, promised), found.took


@contextmanager
def _cleared(work: Path) -> Iterator[Path]:
    """An empty folder in which only logs stay, or nothing if the block fails."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        yield work
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


@dataclass
class _Found:
    """Evidence that is still being gathered, by threads of which each sets its own parts."""

    # set by _kept
    first: FirstBoot | str = _NOT_REACHED
    second: ObservedBoot | str = _NOT_REACHED
    exercise: ExerciseFacts | str = _NOT_REACHED
    own: list[Ran] | str = _NOT_REACHED
    # set by _at_rest
    shipped: Shipped | str = _NOT_REACHED
    # set by _others
    foreign: ObservedBoot | str = _NOT_REACHED
    foreign_disk: Foreign | str = _NOT_REACHED
    alone: ObservedBoot | str = _NOT_REACHED
    # set by gather, before and after
    digests: Digests | str = _NOT_REACHED
    # shared
    took: dict[str, float] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

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

    def first_boot(self, vm: VM, token: str) -> FirstBoot:
        """All facts; raises BuildError if the VM does not tell them."""
        told = probed(vm, token)
        return FirstBoot(
            facts=told,
            seconds=self._up(told, "first", vm.boot_seconds),
            clock=time.time(),
            key=vm.ssh.key.with_suffix(".pub").read_text().strip(),
        )

    def boot(self, vm: VM, part: str, seconds: float) -> ObservedBoot:
        """What another boot must show anew; raises BuildError if the VM does not tell it."""
        told = probed_again(vm)
        return ObservedBoot(facts=told, seconds=self._up(told, part, seconds))

    def _up(self, told: BootFacts, part: str, seconds: float) -> float:
        console.say(f"  {part}: up after {console.seconds(seconds)}")
        self.spent(part, seconds)
        for name, took in told.took.items():
            self.spent(name, took)
        return round(seconds, 1)

    def evidence(self, image: Image, promised: dict[str, str]) -> Evidence:
        return Evidence(
            image=image,
            promised=promised,
            first=self.first,
            second=self.second,
            foreign=self.foreign,
            alone=self.alone,
            exercise=self.exercise,
            own=self.own,
            shipped=self.shipped,
            digests=self.digests,
            foreign_disk=self.foreign_disk,
        )


def _kept(
    settings: Settings, image: Image, disk: Path, work: Path, found: _Found, *, quick: bool
) -> None:
    """A fresh VM with a blank second disk, and, if not ``quick``, the same VM after a reboot."""
    token = os.urandom(8).hex()
    chart = disk.with_name(layout.BOOT_CHART)
    chart.unlink(missing_ok=True)  # an earlier boot's
    try:
        with booted(image, disk, settings=settings, work=work) as vm:
            found.first = found.first_boot(vm, token)
            draw_boot(vm, chart)
            with found.timed("exercise"):
                found.exercise = attempt(lambda: exercised(vm))
            with found.timed(own.PART):
                found.own = attempt(lambda: own.ran(vm, image.checks))
            if not quick:
                found.second = found.boot(vm, "second", vm.reboot())
    except BuildError as error:
        if isinstance(found.first, str):
            found.first = str(error)
        found.second = str(error)


def _at_rest(disk: Path, work: Path, found: _Found) -> None:
    """The bytes that nobody boots."""
    with found.timed("shipped"):
        found.shipped = attempt(lambda: shipped.gather(disk, work))


def _others(settings: Settings, image: Image, disk: Path, work: Path, found: _Found) -> None:
    """A VM whose second disk is somebody else's; one without any."""
    strange = work / "other.raw"
    other_bus: Bus = "virtio" if image.disk.bus == "nvme" else "nvme"
    try:
        before = _foreign_disk(strange)
        with booted(
            image,
            disk,
            settings=settings,
            work=work / "foreign",
            sessions=strange,
            sessions_format="raw",
            bus=other_bus,
        ) as vm:
            found.foreign = found.boot(vm, "foreign", vm.boot_seconds)
            vm.ssh.run("sync")
        found.foreign_disk = Foreign(before=before, after=digest.of_file(strange))
    except BuildError as error:
        found.foreign = found.foreign_disk = str(error)
    finally:
        strange.unlink(missing_ok=True)
    if found.stop.is_set():
        return
    try:
        with booted(image, disk, settings=settings, work=work / "alone", no_sessions=True) as vm:
            found.alone = found.boot(vm, "alone", vm.boot_seconds)
    except BuildError as error:
        found.alone = str(error)


def probed(vm: VM, token: str = "") -> ProbeFacts:
    """What ``probe`` finds in ``vm``; raises BuildError if it does not print facts."""
    return _told(ProbeFacts, vm, probe, token)


def probed_again(vm: VM) -> BootFacts:
    """What of it may differ from boot to boot."""
    return _told(BootFacts, vm, probe, probe.OF_A_BOOT)


def draw_boot(vm: VM, target: Path) -> None:
    """Write the chart of the boot, drawn anew of what systemd-analyze(1) draws, to ``target``.

    It is for people to look at and proves nothing: a VM that draws none costs a warning.
    """
    try:
        drawn = vm.ssh.run("systemd-analyze plot", timeout=_PROBE_DEADLINE).stdout
        if not (chart := boot_chart.redrawn(drawn)):
            raise BuildError("systemd-analyze drew no chart of the boot")
    except BuildError as error:
        console.warn(f"there will be no {target.name}: {error}")
    else:
        cache.write(target, chart)


def exercised(vm: VM) -> ExerciseFacts:
    """What ``exercise`` sees of sessions in ``vm``; raises BuildError if it fails."""
    return _told(ExerciseFacts, vm, exercise)


def _told(kind: type[_M], vm: VM, program: ModuleType, argument: str = "") -> _M:
    """The facts that one of our programs prints in the guest."""
    source = Path(str(program.__file__)).read_text()
    done = vm.ssh.run(f"python3 - {argument}", stdin=source, timeout=_PROBE_DEADLINE)
    try:
        return kind.model_validate_json(done.stdout)
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


def _foreign_disk(target: Path) -> str:
    """Make a small disk that holds somebody else's files; returns its SHA-256."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        (Path(folder) / "precious").write_text("do not touch\n")
        run(["mke2fs", "-q", "-t", "ext4", "-L", "other", "-d", folder, target, "64M"])
    return digest.of_file(target)


def digests(disk: Path, before: str) -> Digests | str:
    """The digest that SHA256SUMS beside ``disk`` promises, the one ``before``, and the present."""
    sums = disk.with_name(layout.SUMS)
    if not sums.is_file():
        return f"there is no {sums.name}"
    lines = [line.split(maxsplit=1) for line in sums.read_text().splitlines() if line.strip()]
    promised = {name.lstrip("*"): value for value, name in lines}.get(disk.name)
    if promised is None:
        return f"{sums.name} does not name {disk.name}"
    return Digests(promised=promised, before=before, after=digest.of_file(disk))
