"""The sandboxes that there are; apart from the settings, since every command of ``serai`` has them.

To read settings takes a parser of TOML, which costs a command a tenth of its start.
"""

from __future__ import annotations

STRICT, SOCKETS = SANDBOXES = ("strict", "sockets")
"""What a session's sandbox may be: without Unix sockets, or with those that the session makes."""
