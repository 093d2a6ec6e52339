"""The command ``serai health``: what sessiond says, or that it says nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from serai.common.errors import GONE, SeraiError
from serai.common.printing import say
from serai.runtime.cli.connect import connected
from serai.runtime.cli.exec_core import control

PATIENCE = 3.0
"""Seconds for sessiond, which waits one for the gate."""
FAR_PATIENCE = 15.0
"""Seconds for a VM elsewhere, where ssh has to come in first."""
UNHEALTHY = "unhealthy"


def main(vm: str, *, as_json: bool) -> int:
    """Show it; returns the exit status. Raises SeraiError if that cannot be asked at all."""
    answer = asked(vm)
    if as_json:
        print(json.dumps(answer))
    else:
        _show(answer)
    return int(answer["status"] == UNHEALTHY)


def asked(vm: str = "", patience: float = 0.0) -> dict[str, Any]:
    """How a VM is. That sessiond does not answer in time is an answer too."""
    try:
        with connected(vm, patience or (FAR_PATIENCE if vm else PATIENCE)) as client:
            answer: dict[str, Any] = client.call("health")
            return answer
    except SeraiError as error:
        place = Path(control())
        if error.code != GONE or (not vm and place.exists() and not os.access(place, os.W_OK)):
            raise
        name = "connection" if vm else "sessiond"
        hint = error.hint or ("" if vm else "a restart of serai-sessiond ends no session")
        found = {"name": name, "status": UNHEALTHY, "detail": error.message, "hint": hint}
        return {"status": UNHEALTHY, "version": None, "image": None, "checks": [found]}


def _show(answer: dict[str, Any]) -> None:
    made_of = answer["image"]
    image = f", image {made_of['id']} {made_of['version']}" if made_of else ""
    say(answer["status"] + (f", Serai {answer['version']}{image}" if answer["version"] else ""))
    for each in answer["checks"]:
        hint = f"; {each['hint']}" if each["hint"] else ""
        say(f"  {each['status']:9}  {each['name']:8}  {each['detail']}{hint}")
