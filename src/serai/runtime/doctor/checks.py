"""All checks of the doctor, in the order in which they are told: the VM first, then sessions."""

from __future__ import annotations

from serai.common.checks import Check, Facts
from serai.runtime.doctor import (
    egress,
    inside,
    installation,
    lifetime,
    limits,
    reach,
    refused_calls,
    system,
)

CHECKS: tuple[Check[Facts], ...] = (
    *installation.CHECKS,
    *system.CHECKS,
    *egress.CHECKS,
    *inside.CHECKS,
    *refused_calls.CHECKS,
    *reach.CHECKS,
    *limits.CHECKS,
    *lifetime.CHECKS,
)
