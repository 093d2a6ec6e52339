"""Waiting in the event loop for processes and descriptors, without threads."""

from __future__ import annotations

import asyncio
import os


async def exited(child: int) -> None:
    """Return once a child process has ended; it is left for the caller to reap."""
    pidfd = os.pidfd_open(child)
    try:
        await readable(pidfd)
    finally:
        os.close(pidfd)


async def readable(descriptor: int) -> None:
    """Return once there is something to read; a pidfd is readable when its process has ended."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.add_reader(descriptor, _resolve, future)
    try:
        await future
    finally:
        loop.remove_reader(descriptor)


async def writable(descriptor: int) -> None:
    """Return once something can be written."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.add_writer(descriptor, _resolve, future)
    try:
        await future
    finally:
        loop.remove_writer(descriptor)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
