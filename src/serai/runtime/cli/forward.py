"""``serai forward``: a port here that leads to a port of a session, until it is interrupted."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

from serai.common.errors import SeraiError
from serai.common.printing import say
from serai.runtime.client import Client


def add_to(add: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Add the command to the parser of ``serai``."""
    made = add("forward", "let a port here lead to a port of a session; print its URL")
    made.add_argument("port", metavar="PORT", type=int, help="the port in the session")
    made.add_argument(
        "--local", metavar="N", type=int, help="the port here, 0: any; default: the same"
    )
    made.add_argument(
        "--rewrite-host", action="store_true", help="say that HTTP requests are for localhost"
    )


def run(client: Client, options: argparse.Namespace) -> int:
    """Forward until the session ends, or this process does. Raises SeraiError."""
    import asyncio  # noqa: PLC0415  # 30 ms that no other command takes

    from serai.runtime.forward import Forwarder  # noqa: PLC0415  # it imports asyncio, too

    said = ""

    def told(problem: str) -> None:
        nonlocal said
        if problem and problem != said:
            say(f"serai: {problem}", sys.stderr)
        said = problem

    forwarder = Forwarder(
        client,
        options.name,
        options.port,
        local=options.port if options.local is None else options.local,
        rewrite_host=options.rewrite_host,
        told=told,
    )

    async def carried() -> str:
        # Here, where Ctrl-C ends the loop: whoever sees the URL may press it at once.
        told = {"url": forwarder.url, "local": forwarder.local}
        print(json.dumps(told) if options.json else forwarder.url, flush=True)
        return await forwarder.run()

    raise SeraiError(f"the forward has ended: {asyncio.run(carried())}")
