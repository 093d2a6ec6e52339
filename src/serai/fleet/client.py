"""A fleet as a client sees it: its VMs, whose a session is, and the links to VMs.

What a VM tells is read with care: whoever stole its certificate may be saying it. It can tell only
of itself, since the servers see to its subjects.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from nats import errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import DeliverPolicy
from nats.js.errors import (
    KeyDeletedError,
    KeyNotFoundError,
    NoStreamResponseError,
    NotFoundError,
)
from nats.js.kv import KeyValue

from serai.common.errors import GONE, SeraiError
from serai.fleet import subjects
from serai.fleet.connection import Connection
from serai.fleet.links import Link, Links
from serai.runtime.sessions import names

OPENING = 5.0  # seconds for one answer: of a VM to a new link, or of the servers
FAILING_OVER = 20.0
"""Seconds for servers to agree on a leader: on another one, or when they have just started."""
LISTING, LOOK = 10.0, 1.0
"""Seconds for the next of many rows, and between two looks whether there is one."""
MOST_TIMES, MOST_MORE = 2, 1000
"""Rows that are read at most, by how many there were at the beginning."""
MOST_ENDS, TIDIED, AT_ONCE = 200, 200, 16
"""Marks of sessions that have ended: with more of them a list removes some."""
OLD = 600.0
"""Seconds after which one is removed: its VM tells of it no more."""
NO_STREAM = 10059
"""The servers' number for: there is no such bucket."""
LARGEST = 1e11
"""Of numbers that VMs say. As a time of the clock it can be shown."""
T = TypeVar("T")


@dataclass(frozen=True)
class Claim:
    """Whose a key is. ``by`` is of who claimed it, and ``revision`` the servers' number of it."""

    vm: str
    by: str
    at: float
    turn: int = 0
    revision: int = 0


@dataclass(frozen=True)
class BucketEntry:
    """A key of a bucket, or with ``ended`` the mark that it was there; ``left`` more follow."""

    key: str
    value: dict[str, Any]
    ended: bool
    revision: int
    created: datetime
    left: int


class FleetClient:
    """The fleet behind a connection, while in ``async with``."""

    def __init__(self, servers: Sequence[str], credentials: Path, client: str = "a client") -> None:
        """Raises SeraiError if the credentials cannot be read."""
        self._client = client
        self.connection = Connection(servers, credentials, client, "_INBOX")
        self._links = Links(self.connection.publish)
        self._token, self._numbers = secrets.token_hex(16), itertools.count(1)
        self.connection.again, self.connection.lost = self._links.again, self._links.cut
        self._sending: asyncio.Task[None] | None = None

    async def __aenter__(self) -> FleetClient:
        await self.connection.open()
        await self.connection.subscribe(f"serai.up.*.link.{self._token}.*", self._heard)
        self._sending = asyncio.create_task(self._links.run())
        self.jetstream = JetStreamContext(self.connection.nats, timeout=OPENING)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._sending is not None:
            self._sending.cancel()
        await self.connection.close()

    async def link(self, vm: str) -> Link:
        """A new link to a VM. Raises SeraiError."""
        key = f"{self._token}.{next(self._numbers)}"
        up, down = (f"serai.{way}.{vm}.link.{key}" for way in ("up", "down"))
        link = self._links.made(up, down, vm, known=False)
        try:
            said = await self.asked(vm, "open", {"link": key, "client": self._client})
        except BaseException:
            self._links.forget(link)
            raise
        if said.get("link") != key:
            self._links.forget(link)
            raise SeraiError(f"{vm} takes no connection: {short(said.get('error'))}", code=GONE)
        link.known = True
        return link

    async def asked(self, vm: str, what: str, wish: dict[str, Any]) -> dict[str, Any]:
        """What a VM's member answers. Raises SeraiError if it is not there."""
        until = asyncio.get_running_loop().time() + FAILING_OVER
        subject, text = f"serai.down.{vm}.{what}", json.dumps(wish).encode()
        while (answer := await self.connection.request(subject, text, OPENING)) is None:
            if self.connection.closed.is_set():
                raise SeraiError(self.connection.said, code=GONE)
            late = asyncio.get_running_loop().time() > until
            if late or vm not in await self.alive():
                hint = "'serai fleet' shows which VMs there are; its sessions are there when it is"
                raise SeraiError(f"the VM {vm} is gone", hint, GONE)
            await asyncio.sleep(0.2)
        return _object(answer)

    async def _heard(self, message: Msg) -> None:
        # By the whole subject, which only that VM may use.
        self._links.hear(message.subject, message.data)

    async def offers(self, zone: str, architecture: str, image: str) -> list[dict[str, Any]]:
        """What some VMs that have room say, of all that have these labels; maybe it is one."""
        subject = subjects.place(zone, architecture, image)
        asked = (self.connection.request(subject, b"", 2) for _ in range(subjects.OFFERS))
        found = [_object(each) for each in await asyncio.gather(*asked) if each is not None]
        return [each for each in found if subjects.is_vm(each.get("vm"))]

    async def alive(self) -> dict[str, dict[str, Any]]:
        """The VMs that are alive, and what they say."""
        return dict(await self._all(subjects.ALIVE, ">"))

    async def vms(self) -> dict[str, dict[str, Any]]:
        """What each VM is."""
        return dict(await self._all(subjects.VMS, ">"))

    async def sessions(self, name: str = "") -> list[dict[str, Any]]:
        """The sessions that VMs have told of, each with its ``vm``; of one ``name`` or all."""
        found, ends = [], []
        for each in await self._entries(subjects.SESSIONS, f"*.{name}" if name else ">"):
            vm, _, called = each.key.partition(".")
            if each.ended:
                ends.append(each)
            elif subjects.is_vm(vm) and names.PATTERN.fullmatch(called):
                found.append({**_session(each.value), "name": called, "vm": vm})
        if len(ends) > MOST_ENDS:
            await self.tidy(ends)
        return found

    async def tidy(self, ends: Sequence[BucketEntry]) -> None:
        """Remove some marks of sessions that have ended, and claims that they have left.

        The servers keep them for ever, and each list would read them all. VMs cannot do it.
        """
        long_ago = datetime.now(timezone.utc) - timedelta(seconds=OLD)
        limit = asyncio.Semaphore(AT_ONCE)

        async def remove(end: BucketEntry) -> None:
            vm, _, name = end.key.partition(".")
            async with limit:
                known = names.PATTERN.fullmatch(name) is not None  # not whatever a VM may write
                claim = await self.claimed(subjects.CLAIMS, name) if known else None
                if claim is not None and claim.vm == vm and claim.at < end.created.timestamp():
                    await self.give_back(subjects.CLAIMS, name, claim)
                await self._remove(subjects.SESSIONS, end.key, end.revision)

        old = [each for each in ends if each.created < long_ago]
        await asyncio.gather(*map(remove, old[:TIDIED]))

    async def claim(self, bucket: str, key: str, vm: str, by: str) -> Claim:
        """Claim a key for a VM; what is returned is by somebody else if it was claimed before.

        Raises SeraiError.
        """
        kv = self._bucket(bucket)

        async def attempt() -> Claim:
            fresh = Claim(vm, by, round(time.time(), 3))
            try:
                return replace(fresh, revision=await kv.create(key, _packed(fresh)))
            except (errors.Error, asyncio.TimeoutError):
                # Also if it was our own claim, whose answer was lost.
                if (found := await self.claimed(bucket, key)) is not None:
                    return found
                raise

        return await self.patiently(attempt)

    async def claimed(self, bucket: str, key: str) -> Claim | None:
        """Whose a key is; None: nobody's. Raises SeraiError."""
        kv = self._bucket(bucket)
        try:
            entry = await self.patiently(lambda: kv.get(key))
        except (KeyNotFoundError, KeyDeletedError):
            return None
        found = _object(entry.value or b"")
        if not subjects.is_vm(found.get("vm")):
            raise SeraiError(f"the fleet has a wrong claim of {key}: remove it from {bucket}")
        at, turn = float(found.get("at", 0)), int(found.get("turn", 0))
        return Claim(found["vm"], str(found.get("by")), at, turn, entry.revision or 0)

    async def reclaim(self, bucket: str, key: str, old: Claim, new: Claim) -> bool:
        """Claim a key that ``old`` has; False if somebody was faster."""
        kv = self._bucket(bucket)
        try:
            await kv.update(key, _packed(new), old.revision)
        except (errors.Error, asyncio.TimeoutError):
            return False
        return True

    async def give_back(self, bucket: str, key: str, claim: Claim) -> None:
        """Let others have a key, unless somebody has claimed it since."""
        headers = {
            "KV-Operation": "DEL",
            "Nats-Expected-Last-Subject-Sequence": str(claim.revision),
        }
        with contextlib.suppress(errors.Error, asyncio.TimeoutError):
            mark = await self.jetstream.publish(f"$KV.{bucket}.{key}", headers=headers)
            await self._remove(bucket, key, mark.seq)

    async def _remove(self, bucket: str, key: str, revision: int) -> None:
        """Remove a key as it was then: what has come since stays."""
        subject = f"$KV.{bucket}.{key}"
        with contextlib.suppress(errors.Error, asyncio.TimeoutError):
            await self.jetstream.purge_stream(f"KV_{bucket}", seq=revision + 1, subject=subject)

    async def forget(self, vm: str) -> int:
        """Remove what is told of a VM, and the claims for it; returns how many keys. Raises
        SeraiError.
        """
        done = 0
        for bucket in (subjects.CLAIMS, subjects.REQUESTS):
            kv = self._bucket(bucket)
            for key, value in await self._all(bucket, ">"):
                if value.get("vm") == vm:
                    await self.patiently(partial(kv.delete, key))
                    done += 1
        for bucket in subjects.BY_VMS:
            keys = f"{vm}.>" if bucket == subjects.SESSIONS else vm
            done += len(await self._all(bucket, keys))
            purge = partial(self.jetstream.purge_stream, subject=f"$KV.{bucket}.{keys}")
            await self.patiently(partial(purge, f"KV_{bucket}"))
        return done

    async def patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do it again while the servers have no leader. Raises SeraiError."""
        until = asyncio.get_running_loop().time() + FAILING_OVER
        while True:
            try:
                return await work()
            except (KeyNotFoundError, KeyDeletedError):
                raise
            except (errors.Error, asyncio.TimeoutError) as error:
                self.connection.check()
                late = asyncio.get_running_loop().time() > until
                closed = self.connection.closed.is_set()
                if late or closed or getattr(error, "err_code", 0) == NO_STREAM:
                    raise _unwell(error) from None
            await asyncio.sleep(0.2)

    def _bucket(self, name: str) -> KeyValue:
        return KeyValue(name, f"KV_{name}", f"$KV.{name}.", self.jetstream, direct=False)

    async def _all(self, bucket: str, keys: str) -> list[tuple[str, dict[str, Any]]]:
        """What a bucket has. Raises SeraiError."""
        found = await self._entries(bucket, keys)
        return [(each.key, each.value) for each in found if not each.ended]

    async def _entries(self, bucket: str, keys: str) -> list[BucketEntry]:
        """The same with marks of what was there. Raises SeraiError."""
        read = partial(self._read, f"KV_{bucket}", f"$KV.{bucket}.", keys)
        return list({each.key: each for each in await self.patiently(read)}.values())

    async def _read(self, stream: str, head: str, keys: str) -> list[BucketEntry]:
        if keys != ">" and not await self._has(stream, head + keys):
            return []  # which is a fifth of the work
        found: list[BucketEntry] = []
        over, most, seen, quiet = asyncio.Event(), math.inf, 0, 0.0

        async def heard(message: Msg) -> None:
            nonlocal seen
            found.append(_entry(message, len(head)))
            seen = message.metadata.sequence.consumer
            if not found[-1].left or len(found) > most:
                over.set()

        subscription = await self.jetstream.subscribe(
            head + keys,
            cb=heard,
            stream=stream,
            ordered_consumer=True,
            deliver_policy=DeliverPolicy.LAST_PER_SUBJECT,
            inactive_threshold=5,
        )
        try:
            while quiet < LISTING:
                # A row says how many follow, and one that is just replaced is none: so ask.
                over.clear()
                before = len(found)
                info = await subscription.consumer_info()
                sent = info.delivered.consumer_seq if info.delivered else 0
                left = info.num_pending or 0
                if most == math.inf:  # who writes all the time is not read all the time
                    most = MOST_TIMES * (sent + left) + MOST_MORE
                if (not left and seen >= sent) or len(found) > most:
                    break
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(over.wait(), LOOK)
                quiet = quiet + LOOK if len(found) == before else 0.0
            else:
                raise errors.TimeoutError
        finally:
            await subscription.unsubscribe()
        if not found and await self._has(stream, head + keys):
            raise errors.Error("the servers were not ready to read")
        return found

    async def _has(self, stream: str, keys: str) -> bool:
        """Whether there is anything. A new reader may be told for a moment that there is not."""
        try:
            await self.jetstream.get_last_msg(stream, keys)
        except NotFoundError as error:
            if error.err_code == NO_STREAM:
                raise
            return False
        return True


def _entry(message: Msg, head: int) -> BucketEntry:
    ended = (message.headers or {}).get("KV-Operation") is not None
    meta = message.metadata
    revision, left = meta.sequence.stream, meta.num_pending
    value = _object(message.data)
    return BucketEntry(message.subject[head:], value, ended, revision, meta.timestamp, left)


def _unwell(error: Exception) -> SeraiError:
    if getattr(error, "err_code", 0) == NO_STREAM:
        return SeraiError("this fleet has no buckets yet", "'serai fleet init' makes them")
    if isinstance(error, NoStreamResponseError):  # they do not say why
        hint = "their logs say why; if the fleet is new, 'serai fleet init' makes its buckets"
        return SeraiError("the fleet's servers take nothing now", hint, GONE)
    said = str(error) or "no answer"
    return SeraiError(f"the fleet's servers are not well: {said}", "try again", GONE)


def _packed(claim: Claim) -> bytes:
    keys = ("vm", "by", "at", "turn")
    return json.dumps({key: getattr(claim, key) for key in keys}).encode()


def _object(text: bytes) -> dict[str, Any]:
    """What somebody says, if it is an object, else an empty one."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _session(row: dict[str, Any]) -> dict[str, Any]:
    """A row with all that a session in a list has, each of its type."""
    labels = row.get("labels")
    plain = labels if isinstance(labels, dict) else {}
    return {
        "uid": int(number(row.get("uid")) or 0),
        "state": short(row.get("state")),
        "goal": short(row.get("goal")) or None,
        "labels": {key: value for key, value in plain.items() if isinstance(value, str)},
        **{key: number(row.get(key)) or 0 for key in ("created_at", "changed_at")},
    }


def number(said: object) -> int | float | None:
    """A number that somebody says, if it is one that can be calculated with and shown."""
    return said if isinstance(said, (int, float)) and 0 <= said <= LARGEST else None


def short(said: object) -> str:
    """A text that somebody says, and no long one; else an empty one."""
    return said[:200] if isinstance(said, str) else ""
