"""Changes what a session has of its own: labels, limits and variables.

The registry is the journal: it has the new limits before the running session does. Adopting a
session after a crash, and starting one, limit it as the registry says.

A change ends no process and deletes no file. So memory that is in use cannot be taken away: the
kernel would kill for it. A lower limit of tasks or of the disk only lets no more come.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace

from serai.common import sizes
from serai.common.errors import WRONG_STATE, SeraiError
from serai.runtime.sandbox import usage
from serai.runtime.sessions import own
from serai.runtime.sessions.own import Own
from serai.runtime.sessions.registry import Record
from serai.runtime.sessions.sessions import Sessions
from serai.runtime.sessions.states import State
from serai.runtime.sessions.steps import quota

log = logging.getLogger(__name__)


def new(
    sessions: Sessions,
    labels: Mapping[str, str],
    limits: Mapping[str, str],
    env: Mapping[str, str],
    sandbox: str | None,
) -> Own:
    """What a session is to have that is made. Raises SeraiError if it may not."""
    chosen = sessions.settings.sandboxes[0] if sandbox is None else sandbox
    own.check_sandbox(chosen, sessions.settings)
    own.check_labels(labels)
    own.check_env(env)
    own.check_limits(limits, sessions.settings, quota.disk_size(sessions.paths.sessions))
    return Own(limits, env, chosen)


async def change(
    sessions: Sessions,
    name: str,
    labels: Mapping[str, str | None],
    limits: Mapping[str, str | None],
    env: Mapping[str, str | None],
) -> Record:
    """Change a session; what is None it has of its own no longer. Raises SeraiError."""
    async with sessions.alone(name) as record:
        if record.state in (State.REMOVING, State.ARRIVING, State.MOVING):
            raise SeraiError(f"session {name} is {record.state.value}", code=WRONG_STATE)
        own.check_limits(limits, sessions.settings, quota.disk_size(sessions.paths.sessions))
        _check_memory(sessions, record, limits.get("memory"))
        wanted = replace(
            record.own,
            limits=own.merged(record.own.limits, limits),
            env=own.merged(record.own.env, env),
        )
        own.check_env(wanted.env)
        own.check_labels(all_labels := own.merged(record.labels, labels))
        lives_from = time.time() if limits.get("ttl") else record.lives_from
        sessions.fault("set:journal")
        sessions.registry.set_own(record.uid, all_labels, wanted, lives_from)
        changed = sessions.registry.get(name)
        try:
            await sessions.limit(changed)
            if changed.labels != record.labels:
                await sessions.label(changed)
        except (SeraiError, OSError):
            sessions.registry.set_own(record.uid, record.labels, record.own, record.lives_from)
            raise
        sessions.changed("session.changed", changed)
        return changed


async def limit_again(sessions: Sessions) -> None:
    """Limit running sessions as the settings say that were just read."""
    for each in sessions.registry.all():
        try:
            async with sessions.alone(each.name) as record:
                await sessions.limit(record)
        except (SeraiError, OSError) as error:
            log.error("session %s is not limited anew: %s", each.name, error)


def _check_memory(sessions: Sessions, record: Record, text: str | None) -> None:
    running = sessions.running(record)
    if text is None or running is None or running.cgroup is None:
        return
    held = usage.held(running.cgroup)
    limit = sizes.limit(text, own.memory_of_vm())
    if limit is not None and held > limit:
        raise SeraiError(
            f"memory: {text} is less than the {held >> 20} MiB that session {record.name} holds",
            f"'serai stop {record.name}' frees them",
            WRONG_STATE,
        )
