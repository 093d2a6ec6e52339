"""Folders of the VM in sessions: attached while a session runs, and there again when it starts.

The table of attachments is the truth. It is written before a folder is mounted and after it is
unmounted, so what was cut off is finished by mounting what is missing.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from serai.common import proc
from serai.common.errors import CONFLICT, INVALID_PARAMS, NOT_FOUND, NOT_PERMITTED, SeraiError
from serai.common.paths import Paths
from serai.common.sandboxes import STRICT
from serai.runtime.folders import bindfs, hints, mounts, path_roles
from serai.runtime.folders.attachments import Attachment, Attachments
from serai.runtime.sessions.registry import Record
from serai.runtime.sessions.steps import publish
from serai.runtime.sessions.supervising.supervisor import Running, Supervisor
from serai.runtime.settings import SessionSettings

log = logging.getLogger(__name__)
KINDS = ("auto", "idmap", "bindfs")


def parents(mount: proc.Mount) -> Sequence[PurePosixPath]:
    """The directories above a place where something is mounted."""
    return PurePosixPath(mount.place).parents


class Folders:
    """What is attached to every session. The caller lets one operation on a session at a time."""

    def __init__(
        self,
        paths: Paths,
        settings: SessionSettings,
        supervisor: Supervisor,
        fault: Callable[[str], None],
    ) -> None:
        self._paths = paths
        self.settings = settings
        self._supervisor = supervisor
        self._fault = fault
        self._book = Attachments(paths.registry)
        self._problems: dict[tuple[int, str], str] = {}

    def close(self) -> None:
        self._book.close()

    def keep(self, uids: set[int]) -> None:
        """Forget what belonged to sessions that are gone."""
        self._book.keep(uids)

    def path_of(self, uid: int, role: str) -> str:
        """The folder that is attached to a role; '' if none is."""
        found = self._book.of(uid).get(role)
        return found.path if found is not None and found.attached else ""

    async def attach(self, record: Record, running: Running | None, new: Attachment) -> None:
        """Attach a folder, in the place of the role's one before. Raises SeraiError."""
        role = path_roles.attachable(new.role)
        if new.kind not in KINDS:
            raise SeraiError(f"kind is one of {', '.join(KINDS)}", code=INVALID_PARAMS)
        _kind(record, new)
        self._allow(new.path, writable=new.writable)
        before = self._book.of(record.uid).get(new.role)
        if before is not None and before.path != new.path and not role.changeable:
            raise SeraiError(
                f"session {record.name} has the {new.role} {before.path} already, for good",
                "make another session for another one",
                CONFLICT,
            )
        there = running is not None and role.folder in self._seen(record, running)
        if there and new == before:
            return
        if running is None or there:
            await mounts.in_child(partial(mounts.probe, new.path))
        if running is not None and there:
            await self._take_out(record, running, new.role)
        self._fault("attach:journal")
        self._book.put(record.uid, new)
        self._fault("attach:mount")
        try:
            if running is not None:
                await self._mount(record, running, new)
        except SeraiError:
            # As it was before; the role is empty if what was there can't be mounted again.
            self._restore(record, new.role, before)
            if running is not None and before is not None and before.attached:
                with contextlib.suppress(SeraiError):
                    await self._mount(record, running, before)
            raise
        finally:
            self._fault("attach:tell")
            self.tell(record, running)

    async def detach(self, record: Record, running: Running | None, role: str) -> None:
        """Take a folder away. Raises SeraiError with BUSY while the session uses it."""
        folder = path_roles.attachable(role).folder
        found = self._book.of(record.uid).get(role)
        if found is None or not found.attached:
            message = f"nothing is attached to session {record.name} as {role}"
            raise SeraiError(message, code=NOT_FOUND)
        if running is not None and folder in self._seen(record, running):
            await self._take_out(record, running, role)
        elif running is not None and (record.uid, role) not in self._problems:
            raise SeraiError(
                f"{folder} is not where it was mounted: the session has moved it",
                f"'serai stop {record.name}', then detach",
            )
        self._fault("detach:forget")
        self._problems.pop((record.uid, role), None)
        if path_roles.find(role).changeable:
            self._book.drop(record.uid, role)
        else:
            self._book.put(record.uid, Attachment(**{**vars(found), "attached": False}))
        self.tell(record, running)

    async def bring_back(self, record: Record, running: Running) -> None:
        """Mount what is attached and not there: the sandbox is new, or an attach was cut off.

        A folder that can't be mounted does not keep the session from running: it is told of.
        """
        wanted = [each for each in self._book.of(record.uid).values() if each.attached]
        there = self._seen(record, running) if wanted else {}
        for each in wanted:
            self._problems.pop((record.uid, each.role), None)
            if path_roles.find(each.role).folder in there:
                continue
            try:
                await self._mount(record, running, each)
            except (SeraiError, OSError) as error:
                log.warning("session %s is without its %s: %s", record.name, each.role, error)
                self._problems[record.uid, each.role] = str(error)
        self.tell(record, running)

    def tell(self, record: Record, running: Running | None) -> None:
        """Write what the session is told about its folders."""
        if running is not None:
            told = hints.encode(self.hints(record, running))
            publish.hints(self._paths, record.name, record.uid, told)

    def hints(self, record: Record, running: Running | None) -> dict[str, Any]:
        """Where every role's folder is, inside and outside."""
        attached = {role: it for role, it in self._book.of(record.uid).items() if it.attached}
        there = self._seen(record, running) if running is not None and attached else None
        problems = {role: text for (uid, role), text in self._problems.items() if uid == record.uid}
        home, sandbox = self._paths.home(record.name), record.own.sandbox
        return hints.make(record.name, home, attached, there, problems, sandbox=sandbox)

    def shown(self, record: Record, running: Running | None) -> list[dict[str, Any]]:
        """The attachments of a session as clients see them."""
        mine = [it for it in self._book.of(record.uid).values() if it.attached]
        # A session's mounts are many and take long to read; most sessions have no attachments.
        there = self._seen(record, running) if mine and running is not None else {}
        rows = []
        for it in mine:
            mount = there.get(path_roles.find(it.role).folder)
            kind = mount.kind if mount else None
            problem = self._problems.get((record.uid, it.role))
            keys = {"role": it.role, "path": it.path, "writable": it.writable}
            rows.append({**keys, "host_path": it.host_path, "mount": kind, "problem": problem})
        return rows

    async def _mount(self, record: Record, running: Running, it: Attachment) -> None:
        folder = path_roles.find(it.role).folder
        sandbox = self._sandbox(record, running)
        self._allow(it.path, writable=it.writable)
        kind = _kind(record, it)
        if kind != "bindfs":
            try:
                work = partial(mounts.by_idmap, it.path, sandbox, folder, writable=it.writable)
                await mounts.in_child(work)
                return
            except mounts.NoIdmapError:
                if kind == "idmap":
                    raise
        empty = self._paths.run / "empty"
        empty.mkdir(mode=0o700, exist_ok=True)
        program = bindfs.program(it.path, record.uid, str(empty), writable=it.writable)
        await self._supervisor.stop_folder(record.name, it.role)
        self._fault("mount:serve")
        server = await self._supervisor.start_folder(record.name, it.role, program)
        self._fault("mount:served")
        try:
            work = partial(
                mounts.by_bindfs, server, bindfs.TARGET, sandbox, folder, writable=it.writable
            )
            await mounts.in_child(work)
        except SeraiError:
            await self._supervisor.stop_folder(record.name, it.role)
            raise

    async def _take_out(self, record: Record, running: Running, role: str) -> None:
        folder = path_roles.find(role).folder
        kind = self._seen(record, running)[folder].kind
        self._fault("unmount:take-out")
        await mounts.in_child(partial(mounts.take_out, self._sandbox(record, running), folder))
        if kind == "bindfs":
            self._fault("unmount:unserve")
            await self._supervisor.stop_folder(record.name, role)

    def _restore(self, record: Record, role: str, before: Attachment | None) -> None:
        if before is None:
            self._book.drop(record.uid, role)
        else:
            self._book.put(record.uid, before)

    def _allow(self, path: str, *, writable: bool) -> None:
        """Only folders that the settings name may be attached, and what is below them."""
        inside = PurePosixPath(path)
        tops = [top for top in self.settings.attachable if PurePosixPath(top) in inside.parents]
        if ".." in inside.parts or not (tops or path in self.settings.attachable):
            raise SeraiError(
                f"{path[:200]!a} may not be attached",
                f"'attachable' in {self._paths.settings} names "
                f"{', '.join(self.settings.attachable)}",
                NOT_PERMITTED,
            )
        if writable and PurePosixPath("/usr") in inside.parents:
            raise SeraiError(
                f"{path[:200]!a} is the VM's own", "attach it read-only", NOT_PERMITTED
            )
        if writable and (below := [it.place for it in proc.mounts_of() if inside in parents(it)]):
            raise SeraiError(
                f"{path[:200]!a} has mounts below it, such as {below[0][:200]!a}",
                "attach one of them, or this one read-only: a session could remove their places",
                NOT_PERMITTED,
            )

    def _sandbox(self, record: Record, running: Running) -> mounts.Sandbox:
        return mounts.Sandbox(running.init, str(self._paths.home(record.name)), record.uid)

    def _seen(self, record: Record, running: Running) -> dict[str, mounts.Seen]:
        try:
            text = Path(f"/proc/{running.init}/mountinfo").read_text(errors="surrogateescape")
        except OSError:
            return {}
        return mounts.seen(text, os.fspath(self._paths.home(record.name)))


def _kind(record: Record, it: Attachment) -> str:
    """How to mount it. Raises SeraiError if the session's sandbox has no such mount.

    By a mount of the directory itself a session could speak to the sockets in it, whoever listens
    outside. In bindfs' file system they are files of its own, at which nobody listens.
    """
    if record.own.sandbox == STRICT:
        return it.kind
    if it.kind == "idmap":
        raise SeraiError(
            f"a session with the sandbox {record.own.sandbox} has no mounts of the kind idmap",
            "leave the kind out, or say bindfs",
            INVALID_PARAMS,
        )
    return "bindfs"
