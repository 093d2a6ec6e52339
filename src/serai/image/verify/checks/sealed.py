"""The shipped bytes: no trace of the build, no shared identity, and unchanged."""

from __future__ import annotations

from collections.abc import Iterable

from serai.common.checks import Check, Finding, the
from serai.image.verify.facts import Evidence


def _empty(paths: Iterable[str], found: str) -> Finding:
    """Nothing must be there; three names are enough to start looking."""
    paths = sorted(paths)
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""  # noqa: PLR2004
    return Finding([f"left: {', '.join(paths[:3])}{more}"] if paths else [], found)


def _shipped_id(evidence: Evidence) -> Finding:
    shipped = the(evidence.shipped)
    problems = []
    if shipped.machine_id not in ("", "uninitialized"):
        problems.append(f"/etc/machine-id is {shipped.machine_id}")
    if shipped.dbus_machine_id:
        problems.append(f"/var/lib/dbus/machine-id is {shipped.dbus_machine_id}")
    return Finding(problems, shipped.machine_id or "empty")


def _shipped_host_keys(evidence: Evidence) -> Finding:
    return _empty(the(evidence.shipped).host_keys, "none")


def _random_seed(evidence: Evidence) -> Finding:
    return _empty(the(evidence.shipped).random_seeds, "none")


def _cloud_init(evidence: Evidence) -> Finding:
    return _empty(the(evidence.shipped).cloud_init, "none")


def _homes(evidence: Evidence) -> Finding:
    return _empty(the(evidence.shipped).homes, "none")


def _apt(evidence: Evidence) -> Finding:
    return _empty(the(evidence.shipped).apt, "none")


def _sudoers(evidence: Evidence) -> Finding:
    return _empty(the(evidence.shipped).sudoers, "no rule left")


def _logs(evidence: Evidence) -> Finding:
    return _empty(the(evidence.shipped).logs, "none")


def _temporary(evidence: Evidence) -> Finding:
    return _empty(the(evidence.shipped).temporary, "none")


def _promised(evidence: Evidence) -> Finding:
    seen = the(evidence.digests)
    problems = [] if seen.promised == seen.before else [f"it is {seen.before}, not {seen.promised}"]
    return Finding(problems, f"{seen.before[:12]}…")


def _unchanged(evidence: Evidence) -> Finding:
    seen = the(evidence.digests)
    wrong = seen.before != seen.after
    return Finding(["its bytes have changed"] if wrong else [], "same bytes")


AREA = "shipped bytes"
CHECKS: tuple[Check[Evidence], ...] = (
    Check(AREA, "shipped", "no machine-id is shipped", _shipped_id),
    Check(AREA, "shipped", "no ssh host key is shipped", _shipped_host_keys),
    Check(AREA, "shipped", "no random seed is shipped", _random_seed),
    Check(AREA, "shipped", "no state of cloud-init is shipped", _cloud_init),
    Check(AREA, "shipped", "no shell history, key or file of the build is in a home", _homes),
    Check(AREA, "shipped", "no apt lists or packages are shipped", _apt),
    Check(AREA, "shipped", "nobody from the build may become root", _sudoers),
    Check(AREA, "shipped", "no logs are shipped", _logs),
    Check(AREA, "shipped", "no temporary files are shipped", _temporary),
    Check(AREA, "digests", "the shipped file is what SHA256SUMS says", _promised),
    Check(AREA, "digests", "booting it has not changed the shipped file", _unchanged),
)
