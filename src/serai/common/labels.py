"""Labels that Serai itself goes by."""

from __future__ import annotations

DOCTOR = "serai-doctor"
"""Sessions that ``serai doctor`` makes to look around. Root alone may give it: what they did is
marked in the audit log, and counted nowhere."""
