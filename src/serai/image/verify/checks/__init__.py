"""What a finished image must be: rows of checks, which judge facts and do nothing else.

A check sees one thing only, so that a fault turns one check red.
"""

from __future__ import annotations

from serai.common.checks import Check
from serai.image.verify.checks import (
    boots,
    disks,
    live_sessions,
    sealed,
    sessions_disk,
    system,
    tools,
)
from serai.image.verify.facts import Evidence

CHECKS: tuple[Check[Evidence], ...] = (
    *boots.CHECKS,
    *disks.CHECKS,
    *sessions_disk.CHECKS,
    *system.CHECKS,
    *tools.CHECKS,
    *live_sessions.CHECKS,
    *sealed.CHECKS,
)
