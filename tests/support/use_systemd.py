"""Drive serai.runtime.sessions.systemd against a real systemd.

``use_systemd.py SOCKET UNITS`` prints what it saw.

A program of its own, because it takes the distribution's Python with python3-jeepney.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from serai.common.errors import SeraiError
from serai.runtime.sessions import systemd
from serai.runtime.settings import SessionSettings

MANY = 20
UNIT = "serai-session@.service"


async def serve(manager: systemd.Systemd, seen: dict[str, Any]) -> None:
    """What serves a folder is a unit, and ends with the session's."""
    program = ["/bin/sleep", "1000"]
    await manager.stop_folder("owl", "outputs")
    await manager.start("owl")
    first = await manager.start_folder("owl", "outputs", program)
    seen["served"] = Path(f"/proc/{first}/cmdline").read_text().split("\0")[:2] == program
    await manager.stop_folder("owl", "outputs")
    seen["unserved"] = not Path(f"/proc/{first}").exists()
    second = await manager.start_folder("owl", "outputs", program)
    seen["not a session"] = list(await manager.running()) == ["owl"]
    await manager.stop("owl")
    end = time.monotonic() + 20
    while Path(f"/proc/{second}").exists() and time.monotonic() < end:
        await asyncio.sleep(0.01)
    seen["bound"] = not Path(f"/proc/{second}").exists()
    await manager.stop_folder("owl", "outputs")


async def use(socket: Path, folder: Path) -> dict[str, Any]:
    """Everything a supervisor has to do, once."""
    manager = systemd.Systemd(socket, folder / f"{UNIT}.d/50-policy.conf")
    seen: dict[str, Any] = {"before": await manager.running()}
    try:
        await manager.start("unlimited")
    except SeraiError as error:
        seen["unlimited"] = str(error)
    await manager.apply(SessionSettings())
    first = await manager.start("brave-dry-owl")
    seen["same"] = await manager.start("brave-dry-owl") == first
    seen["running"] = await manager.running() == {"brave-dry-owl": first}
    names = [f"n{number}" for number in range(MANY)]
    seen["many"] = len(set(await asyncio.gather(*map(manager.start, names))))
    await asyncio.gather(*map(manager.stop, names))
    await manager.stop("brave-dry-owl")
    seen["alive"] = Path(f"/proc/{first}").exists()
    await manager.stop("brave-dry-owl")
    await manager.stop("never-was-there")
    seen["after"] = await manager.running()
    await serve(manager, seen)
    limited = await manager.start("limited")
    seen["limits"] = Path(f"/proc/{limited}/limits").read_text()
    if manager._writer is not None:
        manager._writer.close()  # as if systemd had been executed anew
    seen["again"] = await manager.running() == {"limited": limited}
    await manager.stop("limited")
    (folder / UNIT).write_text("[Service]\nType=exec\nExecStart=/nonesuch\n")
    await manager._call("Reload")
    try:
        await manager.start("broken")
    except SeraiError as error:
        seen["error"] = str(error)
    return seen


if __name__ == "__main__":
    done = asyncio.run(asyncio.wait_for(use(Path(sys.argv[1]), Path(sys.argv[2])), 100))
    print(json.dumps(done))
