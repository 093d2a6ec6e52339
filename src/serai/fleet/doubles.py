"""Whose key two connections use at once: that of a VM is stolen then, or was copied with its disk.

The servers say who is connected. A thief can offer room, so that new sessions come to it, and
nothing tells its offers from the VM's; but it cannot do so without being connected.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from serai.fleet.connection import Connection

ASK = "$SYS.REQ.ACCOUNT.PING.CONNZ"
"""Each server answers with the connections to it of the account that asks."""
PAGE = 4096
"""Connections in an answer: servers hang up on who lets more than 8 MB wait."""
HALF_OPEN = 40.0
"""Seconds after which a server has ended a connection at whose other end is nobody any more."""
MARGIN = 5.0
"""Seconds in which a VM that comes again may be seen twice."""

_VM = re.compile(r"([a-z0-9-]+)(\.[0-9]+)?\.vm\.serai")
_TIME = re.compile(r"([0-9-]{10}T[0-9:]{8})(\.[0-9]+)?(Z|[+-][0-9:]{5})", re.ASCII)


async def doubled(connection: Connection) -> dict[str, list[str]]:
    """The VMs whose key is used twice, and the addresses that use it."""
    found: list[dict[str, Any]] = []
    for offset in itertools.count(0, PAGE):
        wish = json.dumps({"auth": True, "limit": PAGE, "offset": offset}).encode()
        answers = [json.loads(each)["data"] for each in await connection.all_servers(ASK, wish)]
        found += answers
        if all(each["total"] <= offset + PAGE for each in answers):
            break
    return together(found)


def together(answers: Iterable[dict[str, Any]]) -> dict[str, list[str]]:
    """The same of what servers have answered. Their clocks may differ: each is asked for ages.

    One of two connections may be half-open: it does nothing after the newer one began, and soon its
    server ends it.
    """
    found: dict[str, list[tuple[float, float, str]]] = {}
    for answer in answers:
        now = _seconds(answer["now"])
        for each in answer["connections"]:
            if who := _VM.fullmatch(each.get("authorized_user", "")):
                age, idle = (now - _seconds(each[key]) for key in ("start", "last_activity"))
                found.setdefault(who[1], []).append((age, idle, each["ip"]))
    return {
        vm: sorted({ip for _, _, ip in uses})
        for vm, uses in found.items()
        if any(
            newer[0] > min(older[1], HALF_OPEN) + MARGIN
            for newer, older in itertools.pairwise(sorted(uses))
        )
    }


def _seconds(text: str) -> float:
    """A time as servers write it, with more digits than Python 3.10 reads."""
    whole = _TIME.fullmatch(text)
    if whole is None:
        raise ValueError(text)
    zone = whole[3].replace("Z", "+00:00")
    return datetime.fromisoformat(whole[1] + zone).timestamp() + float(whole[2] or 0)
