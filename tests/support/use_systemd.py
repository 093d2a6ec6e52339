"""Drive serai.runtime.sessions.supervising.systemd against a real systemd.

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

from jeepney import DBusAddress

from serai.common.errors import SeraiError
from serai.runtime.sessions import own
from serai.runtime.sessions.own import Own
from serai.runtime.sessions.supervising import systemd
from serai.runtime.sessions.supervising.supervisor import DROP_IN
from serai.runtime.settings import SessionSettings

MANY = 20
OWN = Own({"memory": "64M", "tasks": "99", "cpus": "0.5"})
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


async def limit(manager: systemd.Systemd, folder: Path, seen: dict[str, Any]) -> None:
    """A session's own limits hold, whoever reloads, and not for the next one of its name."""
    kept = folder.with_name(f"{folder.name}.control") / "serai-session@owl.service.d"
    mine, others = (own.properties(SessionSettings(), each) for each in (OWN, Own()))
    await manager.start("owl")
    await manager.limit("owl", others, own=False)
    seen["spared"] = not kept.exists()
    await manager.limit("owl", mine, own=True)
    seen["own"] = [await found(manager)]
    await manager._call("Reload")  # as apt does
    seen["own"].append(await found(manager))
    await manager.stop("owl")
    await manager.start("owl")
    await manager.limit("owl", others, own=False)
    seen["others"] = [await found(manager)]
    await manager._call("Reload")
    seen["others"].append(await found(manager))
    await manager.stop("owl")


async def found(manager: systemd.Systemd) -> list[int]:
    """The limits of ``owl``."""
    (path,) = await manager._call("GetUnit", "s", ("serai-session@owl.service",))
    address = DBusAddress(path, systemd.MANAGER.bus_name, "org.freedesktop.DBus.Properties")
    values = []
    for name in ("MemoryMax", "TasksMax", "CPUQuotaPerSecUSec"):
        asked = ("org.freedesktop.systemd1.Service", name)
        ((_, value),) = await manager._call("Get", "ss", asked, address)
        values.append(value)
    return values


async def use(socket: Path, folder: Path) -> dict[str, Any]:
    """Everything a supervisor has to do, once."""
    drop_in = folder / f"{UNIT}.d" / DROP_IN.name
    former = drop_in.with_name(systemd.FORMER)
    former.parent.mkdir()
    former.write_text("[Service]\nMemoryMax=1G\n")
    manager = systemd.Systemd(socket, drop_in)
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
    await limit(manager, folder, seen)
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
