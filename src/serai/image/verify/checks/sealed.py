"""The shipped bytes: no trace of the build, no shared identity, and unchanged."""

from __future__ import annotations

from collections.abc import Iterable

from serai.image.verify.checks.core import Finding, check, the
from serai.image.verify.facts import Evidence


def _empty(paths: Iterable[str], found: str) -> Finding:
    """Nothing must be there; three names are enough to start looking."""
    paths = sorted(paths)
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""  # noqa: PLR2004
    return Finding([f"left: {', '.join(paths[:3])}{more}"] if paths else [], found)


@check("no machine-id is shipped", "shipped")
def _shipped_id(evidence: Evidence) -> Finding:
    shipped = the(evidence.shipped)
    problems = []
    if shipped.machine_id not in ("", "uninitialized"):
        problems.append(f"/etc/machine-id is {shipped.machine_id}")
    if shipped.dbus_machine_id:
        problems.append(f"/var/lib/dbus/machine-id is {shipped.dbus_machine_id}")
    return Finding(problems, shipped.machine_id or "empty")


@check("no ssh host key is shipped", "shipped")
def _shipped_host_keys(evidence: Evidence) -> Finding:
    return _empty(the(evidence.shipped).host_keys, "none")


@check("no random seed is shipped", "shipped")
def _random_seed(evidence: Evidence) -> Finding:
    return _empty(the(evidence.shipped).random_seeds, "none")


@check("no state of cloud-init is shipped", "shipped")
def _cloud_init(evidence: Evidence) -> Finding:
    return _empty(the(evidence.shipped).cloud_init, "none")


@check("no shell history, key or file of the build is in a home", "shipped")
def _homes(evidence: Evidence) -> Finding:
    return _empty(the(evidence.shipped).homes, "none")


@check("no apt lists or packages are shipped", "shipped")
def _apt(evidence: Evidence) -> Finding:
    return _empty(the(evidence.shipped).apt, "none")


@check("nobody from the build may become root", "shipped")
def _sudoers(evidence: Evidence) -> Finding:
    return _empty(the(evidence.shipped).sudoers, "no rule left")


@check("no logs are shipped", "shipped")
def _logs(evidence: Evidence) -> Finding:
    return _empty(the(evidence.shipped).logs, "none")


@check("no temporary files are shipped", "shipped")
def _temporary(evidence: Evidence) -> Finding:
    return _empty(the(evidence.shipped).temporary, "none")


@check("the shipped file is what SHA256SUMS says", "digests")
def _promised(evidence: Evidence) -> Finding:
    seen = the(evidence.digests)
    problems = [] if seen.promised == seen.before else [f"it is {seen.before}, not {seen.promised}"]
    return Finding(problems, f"{seen.before[:12]}…")


@check("booting it has not changed the shipped file", "digests")
def _unchanged(evidence: Evidence) -> Finding:
    seen = the(evidence.digests)
    wrong = seen.before != seen.after
    return Finding(["its bytes have changed"] if wrong else [], "same bytes")
