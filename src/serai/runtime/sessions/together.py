"""Changes of the registry that many ask for at once: one write to the disk for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from serai.runtime.sessions.registry import Registry

T = TypeVar("T")


class Together:
    """Each is as durable when ``do`` returns as if it had been the only one."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._asked: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []

    async def do(self, change: Callable[[], T]) -> T:
        """What ``change`` returns, or raises. It is carried out even if its caller is cancelled."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        if not self._asked:
            loop.call_soon(self._carry_out)
        self._asked.append((change, done))
        return await done

    def _carry_out(self) -> None:
        asked, self._asked = self._asked, []
        try:
            results = self._registry.together([change for change, _ in asked])
        except Exception as error:
            results = [error] * len(asked)  # told to all who wait
        for (_, done), result in zip(asked, results, strict=True):
            if done.done():
                continue
            if isinstance(result, Exception):
                done.set_exception(result)
            else:
                done.set_result(result)
