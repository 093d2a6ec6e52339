"""What subjects and keys are called: docs/decisions/0058 has who may use which.

``serai.down.VM.…`` is for the VM alone, ``serai.up.VM.…`` from it alone.
"""

from __future__ import annotations

import re

QUEUE = "serai"
"""The queue group of the members that have room."""
VMS, ALIVE, SESSIONS, CLAIMS, REQUESTS = (
    *("serai_vms", "serai_alive", "serai_sessions", "serai_claims"),
    "serai_requests",
)
"""The buckets: what each VM is, which are alive, which sessions they have, whose a name is, and
which VM a request went to."""
BUCKETS = (VMS, ALIVE, SESSIONS, CLAIMS, REQUESTS)
BY_VMS = (VMS, ALIVE, SESSIONS)
"""What VMs write. A server's answer goes to whatever subject the writer names, with the server's
own rights, and a VM's certificate may be stolen. So these buckets answer nobody, and tell at a
subject of the VM's own what they have kept."""
KEPT = "serai.kept"
"""``serai.kept.BUCKET.KEY`` has what was kept."""
KEPT_REQUESTS = 86400.0
"""Seconds: each create leaves one."""
BEAT = 5.0
DEAD = 30.0
"""Seconds between two signs of life, and after which a VM is gone. When the server that leads a
bucket dies, no other takes a sign for up to 9 s."""
OFFERS = 3
"""VMs that are asked for a new session: the least loaded of them makes it."""
ANY = "any"

_VM = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_LINK = re.compile(r"[0-9a-f]{32}\.[0-9]{1,9}")


def is_vm(name: object) -> bool:
    """Whether a VM may be called so: a host name of small letters, without dots."""
    return isinstance(name, str) and _VM.fullmatch(name) is not None


def is_link(key: str) -> bool:
    """Whether a link may be called so: by its client, and which of its links it is."""
    return _LINK.fullmatch(key) is not None


def token(text: str) -> str:
    """Any text as one token of a subject or a key; none that is not empty becomes ``any``."""
    if not text:
        return ANY
    plain = "".join(
        each if (each.isascii() and each.isalnum()) or each in "-_" else f"={ord(each):x}="
        for each in text
    )
    return "=any" if plain == ANY else plain


def place(zone: str, architecture: str, image: str) -> str:
    """Who answers this has room, and these labels; an empty one: any."""
    return ".".join(("serai.place", token(zone), token(architecture), token(image)))


def places(zone: str, architecture: str, image: str) -> list[str]:
    """All that a member of these labels answers, each once: twice would be asked twice as often."""
    words = (zone, architecture, image)
    chosen = (
        [word if bits >> at & 1 else "" for at, word in enumerate(words)] for bits in range(8)
    )
    return sorted({place(*each) for each in chosen})
