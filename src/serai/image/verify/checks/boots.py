"""It boots, in each of the ways in which a VM may be put together."""

from __future__ import annotations

from collections.abc import Iterator

from serai.common.checks import Check, Finding, the
from serai.image.definition.arch import ARCHITECTURES
from serai.image.verify.facts import Evidence, ObservedBoot


def not_up(name: str, boot: ObservedBoot, tolerated: frozenset[str] = frozenset()) -> Iterator[str]:
    """What keeps a boot from being a good one; ``tolerated`` units may fail."""
    seen = boot.facts.boot
    if seen.multi_user != "active":
        yield f"{name}: multi-user.target is {seen.multi_user}"
    for unit in seen.failed:
        if unit not in tolerated:
            yield f"{name}: {unit} failed"
    if seen.state != "running" and not seen.failed:
        yield f"{name}: the system is {seen.state}"


def _boots(evidence: Evidence) -> Finding:
    first = the(evidence.first)
    return Finding([*not_up("first boot", first)], f"ssh after {first.seconds:.0f} s")


def _reboots(evidence: Evidence) -> Finding:
    second = the(evidence.second)
    return Finding([*not_up("second boot", second)], f"ssh after {second.seconds:.0f} s")


def _alone(evidence: Evidence) -> Finding:
    alone = the(evidence.alone)
    problems = [*not_up("without the disk", alone)]
    mount = alone.facts.sessions.mount
    if mount is not None:
        problems.append(f"/sessions is {mount.source} although there is no second disk")
    return Finding(problems, f"ssh after {alone.seconds:.0f} s, /sessions not mounted")


def _buses(evidence: Evidence) -> Finding:
    names = [each.facts.root.device for each in (the(evidence.first), the(evidence.foreign))]
    missing = [
        f"no root on {bus} ({' and '.join(names)})"
        for bus, prefix in (("NVMe", "nvme"), ("virtio-blk", "vd"))
        if not any(name.startswith(prefix) for name in names)
    ]
    return Finding(missing, f"root on {' and '.join(names)}")


def _release(evidence: Evidence) -> Finding:
    system, image = the(evidence.first).facts.system, evidence.image
    wanted = (image.distribution, image.release, ARCHITECTURES[image.arch].machine)
    found = (system.distribution, system.release, system.machine)
    return Finding(
        [f"it is {' '.join(found)}, not {' '.join(wanted)}"] if found != wanted else [],
        f"{' '.join(found)}, kernel {system.kernel}",
    )


CHECKS: tuple[Check[Evidence], ...] = (
    Check("first", "it reaches multi-user, no unit failed", _boots),
    Check("second", "it reboots, no unit failed", _reboots),
    Check("alone", "it boots without the sessions disk", _alone),
    Check("foreign", "it boots from NVMe and from virtio-blk", _buses),
    Check("system", "it is the distribution and architecture that its name says", _release),
)
