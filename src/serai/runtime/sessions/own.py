"""What one session has of its own: labels, limits below the VM's, variables, and its sandbox.

A limit is a text, as people write it. The settings of the VM are the most that a session may have.
More is refused when it is asked for. What is more because the settings were lowered since does not
count: ``effective`` takes the less of the two each time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from serai.common import sizes
from serai.common.errors import INVALID_PARAMS, SeraiError
from serai.common.sandboxes import STRICT
from serai.runtime.sessions.supervising.supervisor import Property
from serai.runtime.settings import VARIABLE, SessionSettings

LIMITS = ("memory", "cpus", "tasks", "quota", "idle_freeze", "ttl")
MAX_LABELS = 64
MAX_LABEL = 1024
MAX_VARIABLES = 64
MAX_VARIABLE = 32 << 10
LEAST_MEMORY = 32 << 20  # a sandbox, the holder of its jobs and a small program
LEAST_QUOTA = 1 << 20
LEAST_TASKS = 16
LEAST_TIME = 10.0  # seconds: watches.idle looks no more often
_NO_LIMIT = 2**64 - 1  # systemd's "infinity"
_PAGE = os.sysconf("SC_PAGE_SIZE")
_SECOND = 1_000_000  # microseconds
_CPUS = re.compile(r"[0-9]{1,4}(\.[0-9]{1,2})?")
_COUNT = re.compile(r"[1-9][0-9]{0,8}")
_TIME = re.compile(r"[1-9][0-9]{0,4}[smhd]")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Own:
    """Limits by their names, and variables that override those of the settings.

    ``sandbox`` is chosen when the session is made, and stays.
    """

    limits: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    sandbox: str = STRICT

    def stored(self) -> dict[str, Any]:
        """As JSON; empty if it has nothing of its own."""
        pairs = {"limits": dict(self.limits), "env": dict(self.env)}
        chosen = {} if self.sandbox == STRICT else {"sandbox": self.sandbox}
        return {key: value for key, value in pairs.items() if value} | chosen


def merged(before: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """Pairs with others added; what is None goes away."""
    return {key: value for key, value in {**before, **changes}.items() if value is not None}


def check_labels(labels: Mapping[str, str]) -> None:
    """Raise SeraiError unless a session can have these."""
    short = all(len(key) + len(value) <= MAX_LABEL for key, value in labels.items())
    if len(labels) > MAX_LABELS or not short or "" in labels:
        limits = f"at most {MAX_LABELS} labels of {MAX_LABEL} characters, none without a name"
        raise SeraiError(f"a session has {limits}", code=INVALID_PARAMS)


def check_env(env: Mapping[str, str]) -> None:
    """Raise SeraiError unless a session can have these variables."""
    if len(env) > MAX_VARIABLES:
        raise _wrong(f"a session has at most {MAX_VARIABLES} variables of its own")
    for name, value in env.items():
        if not VARIABLE.fullmatch(name):
            raise _wrong(f"{name!a} is not a variable's name")
        if len(name) + len(value.encode(errors="surrogateescape")) > MAX_VARIABLE:
            raise _wrong(f"the variable {name[:100]} is longer than {MAX_VARIABLE >> 10} KiB")


def check_sandbox(sandbox: str, settings: SessionSettings) -> None:
    """Raise SeraiError unless a session may be made with this one."""
    if sandbox not in settings.sandboxes:
        there = ", ".join(settings.sandboxes)
        raise _wrong(f"there is no sandbox {sandbox[:100]!a}; this VM's settings have {there}")


def check_limits(limits: Mapping[str, str | None], settings: SessionSettings, disk: int) -> None:
    """Raise SeraiError unless a session may have these; ``disk`` is the size of the disk."""
    for name, text in limits.items():
        if name not in LIMITS:
            raise _wrong(f"there is no limit {name!a}; there are {', '.join(LIMITS)}")
        if text is None:
            continue
        if name == "memory":
            _check_amount(name, text, LEAST_MEMORY, settings.resources.memory_max, memory_of_vm())
        elif name == "quota":
            _check_amount(name, text, LEAST_QUOTA, settings.disk.quota, disk)
        elif name == "cpus":
            _check_cpus(text)
        elif name in ("idle_freeze", "ttl"):
            _check_time(name, text)
        else:
            _check_tasks(text, settings.resources.tasks_max)


def _check_amount(name: str, text: str, least: int, most: str, whole: int) -> None:
    try:
        amount = sizes.limit(text, whole)
    except ValueError as error:
        raise _wrong(f"{name}: {error}") from None
    highest = min(sizes.limit(most, whole) or whole, whole)
    if amount is None or amount > highest:
        raise _wrong(f"{name}: {text} is more than the {_words(highest)} that a session may have")
    if amount < least:
        raise _wrong(f"{name}: {text} is less than the {_words(least)} that a session needs")


def _check_cpus(text: str) -> None:
    most = os.cpu_count() or 1
    if not _CPUS.fullmatch(text) or not 0 < float(text) <= most:
        raise _wrong(f"cpus: {text!a} is not a number such as 0.5, up to the VM's {most}")


def _check_tasks(text: str, most: int) -> None:
    if not _COUNT.fullmatch(text) or not LEAST_TASKS <= int(text) <= most:
        raise _wrong(f"tasks: {text!a} is not a number from {LEAST_TASKS} to {most}")


def _check_time(name: str, text: str) -> None:
    if not _TIME.fullmatch(text) or seconds(text) < LEAST_TIME:
        raise _wrong(f"{name}: {text!a} is not a time such as 90s, 10m, 8h or 2d, from 10s on")


def seconds(text: str) -> float:
    """How long a time such as 10m is."""
    return float(int(text[:-1]) * _SECONDS[text[-1]])


def _words(amount: int) -> str:
    return f"{amount >> 20} MiB"


def _wrong(message: str) -> SeraiError:
    return SeraiError(message, code=INVALID_PARAMS)


def memory_of_vm() -> int:
    """Bytes of the VM's memory."""
    return _PAGE * os.sysconf("SC_PHYS_PAGES")


def effective(settings: SessionSettings, own: Own) -> SessionSettings:
    """The settings as they count for a session."""
    resources = settings.resources
    if memory := own.limits.get("memory"):
        both = (sizes.limit(each, memory_of_vm()) for each in (memory, resources.memory_max))
        resources = replace(resources, memory_max=str(min(each for each in both if each)))
    if tasks := own.limits.get("tasks"):
        resources = replace(resources, tasks_max=min(int(tasks), resources.tasks_max))
    environment = {**settings.environment, **own.env}
    return replace(settings, resources=resources, environment=environment)


def properties(settings: SessionSettings, own: Own) -> list[Property]:
    """What the limits are on D-Bus: org.freedesktop.systemd1(5)."""
    resources = effective(settings, own).resources
    memory = sizes.limit(resources.memory_max, memory_of_vm())
    cpus = own.limits.get("cpus")
    return [
        # Whole pages, as systemd and the kernel have it.
        ("MemoryMax", ("t", _NO_LIMIT if memory is None else memory // _PAGE * _PAGE)),
        ("TasksMax", ("t", resources.tasks_max)),
        ("CPUQuotaPerSecUSec", ("t", round(float(cpus) * _SECOND) if cpus else _NO_LIMIT)),
    ]
