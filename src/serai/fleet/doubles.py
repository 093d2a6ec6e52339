"""Whose key two connections use at once: that of a VM is stolen then, or was copied with its disk.

The servers say who is connected. A thief can offer room, so that new sessions come to it, and
nothing tells its offers from the VM's; but it cannot do so without being connected.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

from serai.fleet.connection import Connection

ASK = "$SYS.REQ.ACCOUNT.PING.CONNZ"
"""Each server answers with the connections to it of the account that asks."""
PAGE = 4096
"""Connections in an answer: servers hang up on who lets more than 8 MB wait."""
HALF_OPEN = 40.0
"""Seconds after which a server has ended a connection at whose other end is nobody any more."""
MARGIN = 5.0
"""Seconds in which a VM that comes again may be seen twice."""
CLOSED = 1
"""The servers' number for connections that have ended: the last ones, the latest first."""
REMEMBERED = 600.0
"""Seconds for which one that has ended counts."""

_VM = re.compile(r"([a-z0-9-]+)(\.[0-9]+)?\.vm\.serai")
_TIME = re.compile(r"([0-9-]{10}T[0-9:]{8})(\.[0-9]+)?(Z|[+-][0-9:]{5})", re.ASCII)


async def doubled(connection: Connection) -> dict[str, list[str]]:
    """The VMs whose key is used twice, or was a while ago, and the addresses that use it."""
    found = []
    for offset in itertools.count(0, PAGE):
        answers = await _asked(connection, offset)
        found += answers
        if all(each["total"] <= offset + PAGE for each in answers):
            break
    # Who comes for a few seconds each time is in nobody's list of those who are there. Asked last:
    # who goes meanwhile is in both lists then, which does no harm, and not in none.
    found += await _asked(connection, 0, state=CLOSED, sort="stop")
    return together(found)


async def _asked(connection: Connection, offset: int, **more: Any) -> list[dict[str, Any]]:
    wish = json.dumps({"auth": True, "limit": PAGE, "offset": offset, **more}).encode()
    return [json.loads(each)["data"] for each in await connection.all_servers(ASK, wish)]


class _Use(NamedTuple):
    """A connection: seconds since it began, since it was last used, and from where it is.

    One that has ended was maybe half-open at last, and what was sent to it counts as its use: it
    only tells that there was another one beside an older one that is still there.
    """

    age: float
    idle: float
    ip: str


def together(answers: Iterable[dict[str, Any]]) -> dict[str, list[str]]:
    """The same of what servers have answered. Their clocks may differ: each is asked for ages.

    One of two connections may be half-open: it does nothing after the newer one began, and soon its
    server ends it.
    """
    found: dict[str, list[_Use]] = {}
    for answer in answers:
        now = _seconds(answer["now"])
        for each in answer["connections"]:
            who = _VM.fullmatch(each.get("authorized_user", ""))
            ended = now - _seconds(each["stop"]) if "stop" in each else None
            if who and (ended is None or ended <= REMEMBERED):
                age, idle = (now - _seconds(each[key]) for key in ("start", "last_activity"))
                idle = min(idle, HALF_OPEN) if ended is None else math.inf
                found.setdefault(who[1], []).append(_Use(age, idle, each["ip"]))
    return {vm: sorted({use.ip for use in uses}) for vm, uses in found.items() if _at_once(uses)}


def _at_once(uses: Iterable[_Use]) -> bool:
    """Whether one was used, or was there, for a while after a newer one had begun."""
    idle = math.inf
    for use in sorted(uses, reverse=True):
        if use.age > idle + MARGIN:
            return True
        idle = min(idle, use.idle)
    return False


def _seconds(text: str) -> float:
    """A time as servers write it, with more digits than Python 3.10 reads."""
    whole = _TIME.fullmatch(text)
    if whole is None:
        raise ValueError(text)
    zone = whole[3].replace("Z", "+00:00")
    return datetime.fromisoformat(whole[1] + zone).timestamp() + float(whole[2] or 0)
