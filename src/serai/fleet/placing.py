"""Where a new session goes, and that none is made twice.

Three VMs that have room are asked, and the least loaded one takes it. Before a VM is told to make a
session, the request's ID is claimed for it: whoever asks again is sent there.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from serai.common.errors import (
    EXISTS,
    GONE,
    INVALID_PARAMS,
    NO_ROOM,
    NOT_FOUND,
    TIMEOUT,
    SeraiError,
)
from serai.fleet.client import Claim, FleetClient, number
from serai.fleet.subjects import CLAIMS, REQUESTS
from serai.runtime.sessions import names

Call = Callable[[str, str, dict[str, Any]], Awaitable[Any]]
"""Calls a method of a VM."""
Reach = Callable[[str], Awaitable[object]]
YOUNG = 60.0
"""Seconds for which a claim without a session may be of one that is being made."""
ANSWER = 5.0
"""Seconds for a VM that tells of a session to say whether it has it."""
TRIES = 5
LABELS = ("fleet.zone", "fleet.architecture", "fleet.image")


class Placing:
    """Makes sessions in a fleet; ``call`` asks its VMs, to which ``reach`` opens the way."""

    def __init__(self, fleet: FleetClient, call: Call, reach: Reach) -> None:
        self._fleet, self._call, self._reach = fleet, call, reach

    async def create(self, params: dict[str, Any]) -> dict[str, Any]:
        """Make a session somewhere, or find the one that the same request made. Raises SeraiError.

        If the VM that it was given to is gone, the claims stay, and nothing is made elsewhere.
        """
        name, labels = _checked(params)
        asked = params.get("request_id")
        request = hashlib.sha256((asked or uuid.uuid4().hex).encode()).hexdigest()
        for _ in range(TRIES):
            claim, fresh = await self._request(request, labels)
            turned = f"{request}.{claim.turn}" if claim.turn else asked or request
            of_name = await self._name(name, claim.vm, request) if name else None
            try:
                made = await self._call(claim.vm, "create", {**params, "request_id": turned})
            except SeraiError as error:
                if error.code in (GONE, TIMEOUT):
                    raise _lost(error, claim.vm) from None
                if of_name is not None and error.code != EXISTS:  # else it is another request's
                    await self._fleet.give_back(CLAIMS, name, of_name)
                if fresh:
                    await self._fleet.give_back(REQUESTS, request, claim)
                raise
            made = _of_a_session(made, name, claim.vm)
            try:
                if not name:
                    await self._name(made["name"], claim.vm, request)
                return {**made, "vm": claim.vm}
            except SeraiError as error:
                if error.code != EXISTS:
                    raise
            # Another VM has one of this name, which was made up: this one is made again.
            await self._call(claim.vm, "remove", {"name": made["name"]})
            await self._fleet.reclaim(REQUESTS, request, claim, replace(claim, turn=claim.turn + 1))
        raise SeraiError("no unused session name was found", "give the session a name")

    async def _request(self, request: str, labels: tuple[str, str, str]) -> tuple[Claim, bool]:
        """Which VM a request is given to, and whether it is by this call."""
        if (claim := await self._fleet.claimed(REQUESTS, request)) is not None:
            return claim, False
        by = uuid.uuid4().hex
        claim = await self._fleet.claim(REQUESTS, request, await self._reached(labels), by)
        return claim, claim.by == by

    async def _reached(self, labels: tuple[str, str, str]) -> str:
        """A VM to which there is a way: nothing was given to it yet, so another will do as well."""
        left = TRIES
        while True:
            vm, left = await found(self._fleet, labels), left - 1
            try:
                await self._reach(vm)
            except SeraiError:
                if not left:
                    raise
            else:
                return vm

    async def _name(self, name: str, vm: str, request: str) -> Claim | None:
        """Claim a name for a VM; returns what may be given back.

        Raises SeraiError if another VM has a session of that name, be it one that nobody has
        claimed: what is for it would go to this VM.
        """
        claim = await self._fleet.claimed(CLAIMS, name)
        if claim is None or claim.vm != vm:
            told = {str(each["vm"]) for each in await self._fleet.sessions(name)}
            for other in sorted(told - {vm}):
                await self._is_free(name, other)
        if claim is None:
            claim = await self._fleet.claim(CLAIMS, name, vm, request)
        if claim.vm == vm:
            # If it is another's, whether there is one of that name is the VM's to say.
            young = time.time() - claim.at < YOUNG
            return claim if claim.by == request and young else None
        if time.time() - claim.at >= YOUNG:
            await self._is_free(name, claim.vm)
            fresh = Claim(vm, request, time.time())
            if await self._fleet.reclaim(CLAIMS, name, claim, fresh):
                return None
        raise SeraiError(f"the session {name} exists, on {claim.vm}", code=EXISTS)

    async def _is_free(self, name: str, vm: str) -> None:
        """Raise SeraiError if a VM has a session of a name, or nobody knows: it may be gone."""
        why, hint = "", ""
        try:
            await asyncio.wait_for(self._call(vm, "show", {"name": name}), ANSWER)
        except asyncio.TimeoutError:
            why = f", and {vm} does not answer"
        except SeraiError as error:
            if error.code == NOT_FOUND:
                return
            why = f", and {error.message}"
            hint = f"take another name; if {vm} is no more: 'serai fleet forget {vm}'"
        raise SeraiError(f"the session {name} exists, on {vm}{why}", hint, EXISTS)


async def found(fleet: FleetClient, wanted: tuple[str, str, str]) -> str:
    """A VM that has room, and what is wanted. Raises SeraiError."""
    for turn in range(TRIES):
        offers = await fleet.offers(*wanted)
        if (vm := chosen(offers)) is not None:
            return vm
        if not offers and turn:
            break
        await asyncio.sleep(0.1 * turn)
    which = ", ".join(f"{key}={word}" for key, word in zip(LABELS, wanted, strict=True) if word)
    hint = "'serai fleet' shows which VMs there are, and how full"
    raise SeraiError(f"no VM{' with ' + which if which else ''} has room", hint, NO_ROOM)


async def follow(fleet: FleetClient, name: str, before: str, vm: str) -> None:
    """Have the claim of a session's name say where it has moved. Raises SeraiError.

    Only if it was the one of the VM ``before``, which can name a session as it likes.
    """
    await may_leave(fleet, name, before, vm)
    claim = await fleet.claim(CLAIMS, name, vm, uuid.uuid4().hex)
    if claim.vm == before:
        await fleet.reclaim(CLAIMS, name, claim, replace(claim, vm=vm))


async def may_leave(fleet: FleetClient, name: object, before: str, vm: str) -> None:
    """Raise SeraiError if another VM than these two has the session of that name."""
    if not isinstance(name, str) or not names.PATTERN.fullmatch(name):
        raise SeraiError(f"{ascii(name)[:80]} is no session name")
    claim = await fleet.claimed(CLAIMS, name)
    told = {claim.vm} if claim else {each["vm"] for each in await fleet.sessions(name)}
    if others := sorted(told - {before, vm}):
        hint = "'serai move NAME --name OTHER' gives one another name"
        raise SeraiError(f"the session {name} is on {others[0]}, too", hint, EXISTS)


def chosen(offers: list[dict[str, Any]]) -> str | None:
    """The VM of the best offer; of those that are equally loaded, one that has some ready."""
    good = [each for each in offers if each.get("full") is False and _number(each.get("load")) >= 0]
    if not good:
        return None
    best = min(good, key=lambda each: (_number(each["load"]), -_number(each.get("ready"))))
    return str(best["vm"])


def _number(said: object) -> float:
    found = number(said)
    return -1.0 if found is None else float(found)


def _of_a_session(made: object, name: str, vm: str) -> dict[str, Any]:
    """What a VM says that it has made. Raises SeraiError: it may say anything."""
    if isinstance(made, dict) and isinstance(called := made.get("name"), str):
        with contextlib.suppress(SeraiError):
            if names.check(called) == (name or called):
                return made
    raise SeraiError(f"{vm} says what makes no sense")


def _lost(error: SeraiError, vm: str) -> SeraiError:
    hint = f"ask again with the same request ID when {vm} is back: it is made there or nowhere"
    return SeraiError(error.message, hint, error.code)


def _checked(params: dict[str, Any]) -> tuple[str, tuple[str, str, str]]:
    """The name that is asked for, and the labels of VMs. Raises SeraiError."""
    name, labels, asked = params.get("name"), params.get("labels") or {}, params.get("request_id")
    if not isinstance(labels, dict) or not isinstance(asked, (str, type(None))):
        raise SeraiError("labels must be a table, and request_id a text", code=INVALID_PARAMS)
    if name is not None:
        names.check(name if isinstance(name, str) else "")
    return name or "", wanted(labels)


def wanted(labels: dict[str, Any]) -> tuple[str, str, str]:
    """What a session's labels say of its VM: zone, architecture and image; "": any."""
    zone, architecture, image = (str(labels.get(key, "")) for key in LABELS)
    return zone, architecture, image
