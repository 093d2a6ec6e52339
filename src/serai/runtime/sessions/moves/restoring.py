"""Puts a backup's registry and audit log on a blank sessions disk, while no daemon runs.

Every session is ``arriving`` then, with the UID and the name that it had, and awaits its export.
What is done twice does no harm: the registry is put in place last, and knows by then which backup
it comes from.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import IO

from serai.common import files
from serai.common.errors import CONFLICT, SeraiError
from serai.common.paths import Paths
from serai.runtime.folders.exports import own_part
from serai.runtime.sessions import names, transits
from serai.runtime.sessions.registry import UID_RANGES, Record, Registry
from serai.runtime.sessions.states import State
from serai.runtime.sessions.steps import homes
from serai.runtime.sessions.transits import Transit, Transits

_FOREIGN = "SELECT 1 FROM sqlite_master WHERE type NOT IN ('table', 'index')"
KEPT = (State.READY, State.ACTIVE, State.FROZEN, State.STOPPED, State.ARCHIVED)
"""The states of sessions that are in a backup; all others are half-way to somewhere."""


def put(paths: Paths, source: IO[bytes], audit: Path) -> int:
    """Do it; returns how many sessions are awaited. Raises SeraiError or OSError."""
    homes.prepare(paths)
    stage = paths.state / "restoring"
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(mode=0o700)
    try:
        first = own_part.read(source, stage)
        if (left := _left(paths, str(first.get("id")))) is not None:
            return left
        count = _prepare(stage / own_part.REGISTRY, str(first.get("id")))
        _place_audit(stage / own_part.AUDIT, audit)
        for end in ("-wal", "-shm"):
            Path(f"{paths.registry}{end}").unlink(missing_ok=True)
        (stage / own_part.REGISTRY).replace(paths.registry)
        files.fsync(paths.state)
        return count
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _left(paths: Paths, backup: str) -> int | None:
    """How many sessions of that backup are still awaited here, if its registry is here."""
    with closing(Registry(paths.registry)) as registry:
        come = registry.change(
            lambda db: db.execute("SELECT 1 FROM transits WHERE peer = ?", (backup,)).fetchone()
        )
        if come is not None:
            return sum(each.peer == backup for each in Transits(registry).awaited())
        there = [each.name for each in registry.all() if each.state is not State.REMOVING]
    if there:
        raise in_use(there)
    return None


def in_use(names: Sequence[str]) -> SeraiError:
    """The error for a disk with sessions of these names."""
    what = f"this disk has sessions already, {len(names)} in all, such as {names[0]}"
    hint = "a backup is restored on a blank one; 'serai import' takes one session"
    return SeraiError(what, hint, CONFLICT)


def _prepare(path: Path, backup: str) -> int:
    """Have every session of a registry await its export."""
    try:
        with closing(sqlite3.connect(path)) as database:
            (found,) = database.execute("PRAGMA integrity_check").fetchone()
            if found == "ok" and database.execute(_FOREIGN).fetchone():  # it would run, here
                found = "it has more than tables"
    except sqlite3.Error as error:
        found = str(error)
    if found != "ok":
        raise SeraiError(f"the registry of the backup is damaged: {found[:100]}")
    with closing(Registry(path)) as registry:
        records = _records(registry)

        def does(db: sqlite3.Connection) -> int:
            db.execute("DELETE FROM sessions")
            count = 0
            for each in records:
                if each.pooled or each.state not in KEPT:
                    continue
                registry.restore(each)
                awaited = (each.name, transits.AWAITED, backup, each.state.value)
                transits.write(db, Transit(token(each.uid), transits.IN, each.uid, *awaited))
                count += 1
            # Known also if there were no sessions at all.
            end = ("", transits.COMMITTED, backup)
            transits.write(db, Transit(f"backup-{backup[:64]}", transits.IN, 0, *end))
            return count

        counted: int = registry.change(does)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = DELETE")  # one file, which is renamed
    return counted


def _records(registry: Registry) -> list[Record]:
    """Its sessions, whose names and UIDs sessions may have. Raises SeraiError."""
    taken = names.system_names()
    try:
        found = registry.all(pooled=True)
        for each in found:
            names.check(each.name, taken)
            if not any(first <= each.uid < end for first, end in UID_RANGES):
                raise ValueError(f"{each.name} has the UID {each.uid}")
    except (ValueError, TypeError, AttributeError, SeraiError) as error:
        text = f"the registry of the backup is damaged, or not for this VM: {str(error)[:200]}"
        raise SeraiError(text) from None
    return found


def token(uid: int) -> str:
    """With which token the export of an awaited session comes."""
    return f"restore-{uid}"


def _place_audit(source: Path, audit: Path) -> None:
    """Its log in the place of the one that a blank VM has, which is kept beside it."""
    audit.mkdir(mode=0o700, exist_ok=True)
    owner, aside = audit.stat(), audit.with_name("audit-before-restore")
    aside.mkdir(mode=0o700, exist_ok=True)
    for each in sorted(audit.iterdir()):
        if own_part.FILE.fullmatch(each.name) and not (aside / each.name).exists():
            each.replace(aside / each.name)
        else:
            each.unlink()
    for each in sorted(source.iterdir()):
        os.chown(each, owner.st_uid, owner.st_gid)
        each.replace(audit / each.name)
    files.fsync(aside)
    files.fsync(audit)
