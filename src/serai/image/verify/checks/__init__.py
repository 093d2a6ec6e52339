"""What a finished image must be: one function a promise, which judges facts and does nothing else.

A check sees one thing only, so that a fault turns one check red. ``judge`` runs them all.
"""

# Importing a module adds its checks.
from serai.image.verify.checks import (
    boots,
    containment,
    disks,
    sealed,
    sessions,
    system,
    tools,
)
from serai.image.verify.checks.core import CHECKS, Result, judge

__all__ = [
    "CHECKS",
    "Result",
    "boots",
    "containment",
    "disks",
    "judge",
    "sealed",
    "sessions",
    "system",
    "tools",
]
