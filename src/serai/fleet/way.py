"""The way of one client to one VM of a fleet: what goes there, and what comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, Protocol

from serai.common import jsonrpc
from serai.common.errors import FAILED, GONE, NOT_FOUND, SeraiError
from serai.common.jsonrpc import LONGEST_ANSWER, Id, Request
from serai.fleet.links import Link

MOST_OUTPUT = 1 << 20
"""Bytes of one output that a VM may announce."""
KEPT = 64 << 10
STUCK = 30.0
"""Seconds for a VM to take a line. So long it holds up what the client says to others."""


class Routes(Protocol):
    """Whose way it is: the router, for its one client."""

    async def say(self, text: bytes) -> None:
        """Send to the client, when it reads."""

    def lost(self, way: WayToVm) -> None:
        """The way is over."""

    def leads(self, stream: object, vm: str) -> bool:
        """Whether a stream of a forward is one to that VM."""

    def ended(self, stream: object) -> None:
        """A stream of a forward is over."""

    def later(self, work: Awaitable[None]) -> None:
        """Have something done beside all else."""

    async def removed(self, name: str, vm: str) -> None:
        """A session is gone for good."""

    async def strayed(self, name: str, vm: str) -> str | None:
        """Where a session is that a VM says it has not."""

    async def resend(self, vm: str, line: dict[str, Any], name: str) -> None:
        """Send a request to another VM than it was sent to."""


@dataclass
class Unanswered:
    """A request that has no answer yet. ``line`` is sent elsewhere if the session is not here."""

    method: str
    name: str
    line: dict[str, Any] | None = None
    forward: str = ""
    started: bool = False
    result: asyncio.Future[Any] | None = field(default=None, repr=False)


class WayToVm:
    """To one VM."""

    def __init__(self, routes: Routes, vm: str, link: Link) -> None:
        self._routes, self.vm, self._link = routes, vm, link
        self._lock = asyncio.Lock()
        self._asked: dict[Id, Unanswered] = {}
        self._forwards: set[str] = set()
        self._running: dict[str, Id] = {}  # requests by the IDs that were made up for them
        self._buffer = bytearray()
        self._seen = 0  # bytes of the buffer in which there is no end of a line

    async def send(
        self, request: Request, params: dict[str, Any], name: str, *, last: bool = False
    ) -> None:
        """Send a request of the client's. Raises SeraiError."""
        line: dict[str, Any] = {"jsonrpc": "2.0", "method": request.method, "params": params}
        if request.reply:
            line["id"] = request.id
            asked = self._asked[request.id] = Unanswered(request.method, name)
            if request.method == "forward.close":
                asked.forward = str(params.get("forward"))
        text = jsonrpc.line(line)
        if request.reply and name and not last and len(text) < KEPT:
            asked.line = line
        try:
            await self._write(text)
        except SeraiError:
            if self._asked.pop(request.id, None) is not None:  # else it was answered by run()
                raise

    async def call(self, number: str, method: str, params: dict[str, Any]) -> Any:
        """The result of a request of the router's own. Raises SeraiError."""
        result = asyncio.get_running_loop().create_future()
        self._asked[number] = Unanswered(method, "", result=result)
        try:
            await self._write(jsonrpc.call(number, method, params))
            return jsonrpc.answered(await result)
        except (KeyError, TypeError, AttributeError):
            raise SeraiError(f"{self.vm} says what makes no sense", code=FAILED) from None
        finally:
            self._asked.pop(number, None)

    async def run(self) -> None:
        """Pass on what comes, until the VM hangs up; then nothing is left unanswered."""
        why = SeraiError(f"{self.vm} hung up", code=GONE)
        try:
            while data := await self._link.read():
                self._buffer += data
                await self._split()
                self._link.passed(len(data))
        except SeraiError as error:
            why = error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            why = SeraiError(f"{self.vm} says what makes no sense", code=GONE)
        self._routes.lost(self)
        asked, self._asked = self._asked, {}
        for number, each in asked.items():
            if each.result is None:
                await self._routes.say(jsonrpc.error(number, why))
            elif not each.result.done():
                each.result.set_exception(why)
        for forward in self._forwards:
            news = {"forward": self._named(forward), "reason": str(why)}
            await self._routes.say(jsonrpc.notification("forward.closed", news))
        await self.close()

    async def close(self) -> None:
        """Hang up."""
        await self._link.close()

    async def _write(self, text: bytes) -> None:
        async with self._lock:
            try:
                await asyncio.wait_for(self._link.write(text), STUCK)
            except asyncio.TimeoutError:
                self._link.cut("it takes nothing")  # it has half a line
                raise SeraiError(f"{self.vm} takes nothing", code=GONE) from None

    async def _split(self) -> None:
        """Raises one of many errors if this is no JSON-RPC."""
        while (end := self._buffer.find(b"\n", self._seen)) >= 0:
            message = json.loads(bytes(self._buffer[:end]))
            size = 0
            if message.get("method") == "exec.output" and "size" in message["params"]:
                size = message["params"]["size"]
                # Until all of it has come, its line is read again and again.
                if not isinstance(size, int) or not 0 <= size <= MOST_OUTPUT or end > KEPT:
                    raise ValueError
            if len(self._buffer) < end + 1 + size:
                self._seen = 0
                return
            data = bytes(self._buffer[end + 1 : end + 1 + size])
            del self._buffer[: end + 1 + size]
            self._seen = 0
            await self._pass(message, data)
        self._seen = len(self._buffer)
        if len(self._buffer) > LONGEST_ANSWER:
            raise ValueError

    async def _pass(self, message: dict[str, Any], data: bytes) -> None:
        if "method" in message:
            event, news = message["method"], message["params"]
            if self._is_its(event, news):
                await self._routes.say(self._told(event, news) + data)
            return
        number = message.get("id")
        if (asked := self._asked.get(number)) is None or isinstance(number, (bool, float)):
            if number is None and "error" in message:  # sessiond refused the connection
                raise _error(message)
            return
        failed = "error" in message and message["error"]["code"]
        if not failed and asked.result is None:
            self._answer(message["result"], asked)
        what = "error" if failed else "result"
        line = jsonrpc.line({"jsonrpc": "2.0", "id": number, what: message[what]})
        del self._asked[number]  # what made no sense is not answered by it
        if asked.started:
            self._running = {key: of for key, of in self._running.items() if of != number}
        if asked.result is not None:
            if not asked.result.done():
                asked.result.set_result(message)
        elif failed == NOT_FOUND and asked.line is not None:
            self._routes.later(self._elsewhere(asked.line, asked.name, line))
        elif asked.method == "remove" and not failed:
            self._routes.later(self._removed(asked.name, line))
        else:
            await self._routes.say(line)

    def _is_its(self, event: object, news: dict[str, Any]) -> bool:
        """Whether it is for the VM to tell: of one's requests, or streams, to another VM it is not.

        It would get what one sends there.
        """
        if event == "exec.started":
            if (asked := self._asked.get(news["request"])) is None or asked.started:
                return False
            asked.started = True
            self._running[news["exec"]] = news["request"]
            return True
        if event == "exec.output":  # clients take any for what they wait for
            return news["exec"] in self._running
        if event == "forward.closed":
            return news["forward"] in self._forwards
        streams = ("forward.data", "forward.taken", "forward.ended")
        return event in streams and self._routes.leads(news["stream"], self.vm)

    def _told(self, event: str, news: dict[str, Any]) -> bytes:
        """A notification as the client gets it, and nothing else: not an answer to boot."""
        for key in {"exec", "forward"} & news.keys():
            if event == "forward.closed":
                self._forwards.discard(news[key])
            news[key] = self._named(news[key])
        if event == "forward.ended":
            self._routes.ended(news["stream"])
        return jsonrpc.notification(event, news)

    def _answer(self, result: dict[str, Any], asked: Unanswered) -> None:
        """Make a result what the client gets."""
        if asked.method in ("exec", "forward.open"):
            for key in {"exec", "forward"} & result.keys():
                if key == "forward":
                    self._forwards.add(result[key])
                result[key] = self._named(result[key])
        elif asked.method == "forward.close":
            self._forwards.discard(asked.forward)
        elif asked.method in ("show", "set"):
            result["vm"] = self.vm

    async def _removed(self, name: str, line: bytes) -> None:
        """Free the name before it is said: the client may hang up, or take it again, at once."""
        with contextlib.suppress(SeraiError):  # then it is free a minute later
            await self._routes.removed(name, self.vm)
        await self._routes.say(line)

    async def _elsewhere(self, request: dict[str, Any], name: str, answer: bytes) -> None:
        """Send a request to where its session is, if that is not here; else pass on the answer."""
        other = None
        with contextlib.suppress(SeraiError):
            other = await self._routes.strayed(name, self.vm)
        if other is None:
            await self._routes.say(answer)
        else:
            await self._routes.resend(other, request, name)

    def _named(self, made_up: object) -> str:
        return f"{self.vm}:{made_up}"


def _error(message: dict[str, Any]) -> SeraiError:
    try:
        jsonrpc.answered(message)
    except SeraiError as error:
        return SeraiError(error.message, error.hint, GONE)
    return SeraiError("no answer", code=GONE)
