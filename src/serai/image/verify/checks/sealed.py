"""The shipped bytes: no trace of the build, no shared identity, and unchanged."""

from __future__ import annotations

from functools import partial

from serai.common.checks import Check, Finding, problem, the
from serai.image.verify.facts import Evidence


def _none(kind: str, evidence: Evidence) -> Finding:
    """No path must be left; three names are enough to start looking."""
    paths = sorted(getattr(the(evidence.shipped), kind))
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""  # noqa: PLR2004
    return problem(f"left: {', '.join(paths[:3])}{more}" if paths else "", "none")


def _shipped_id(evidence: Evidence) -> Finding:
    shipped = the(evidence.shipped)
    problems = []
    if shipped.machine_id not in ("", "uninitialized"):
        problems.append(f"/etc/machine-id is {shipped.machine_id}")
    if shipped.dbus_machine_id:
        problems.append(f"/var/lib/dbus/machine-id is {shipped.dbus_machine_id}")
    return Finding(problems, shipped.machine_id or "empty")


def _promised(evidence: Evidence) -> Finding:
    seen = the(evidence.digests)
    wrong = f"it is {seen.before}, not {seen.promised}"
    return problem("" if seen.promised == seen.before else wrong, f"{seen.before[:12]}…")


def _unchanged(evidence: Evidence) -> Finding:
    seen = the(evidence.digests)
    return problem("its bytes have changed" if seen.before != seen.after else "", "same bytes")


CHECKS: tuple[Check[Evidence], ...] = (
    Check("shipped", "no machine-id is shipped", _shipped_id),
    Check("shipped", "no ssh host key is shipped", partial(_none, "host_keys")),
    Check("shipped", "no random seed is shipped", partial(_none, "random_seeds")),
    Check("shipped", "no state of cloud-init is shipped", partial(_none, "cloud_init")),
    Check(
        "shipped",
        "no shell history, key or file of the build is in a home",
        partial(_none, "homes"),
    ),
    Check("shipped", "no apt lists or packages are shipped", partial(_none, "apt")),
    Check("shipped", "nobody from the build may become root", partial(_none, "sudoers")),
    Check("shipped", "no logs are shipped", partial(_none, "logs")),
    Check("shipped", "no temporary files are shipped", partial(_none, "temporary")),
    Check("digests", "the shipped file is what SHA256SUMS says", _promised),
    Check("digests", "booting it has not changed the shipped file", _unchanged),
)
