"""The steps of an operation, carried out: homes, published files, users, units and cgroups.

Each may be repeated without harm; which are needed is decided in states.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import time
from collections.abc import Callable, Iterator, Mapping

from serai.common.errors import SeraiError
from serai.common.paths import Paths
from serai.runtime.sandbox import cgroups, processes
from serai.runtime.sessions import own
from serai.runtime.sessions.registry import Record
from serai.runtime.sessions.states import STARTED, Step
from serai.runtime.sessions.steps import homes, publish, quota, staging, users
from serai.runtime.sessions.steps.folders import Folders
from serai.runtime.sessions.steps.gate_client import GateClient
from serai.runtime.sessions.supervising.supervisor import Running, Supervisor
from serai.runtime.settings import SessionSettings

log = logging.getLogger(__name__)
AT_ONCE = 2 * (os.cpu_count() or 1)
"""Sandboxes that start at the same time. With more, all of many would be ready at the end only."""
MOMENT = 0.2
"""Seconds from a change of who can write to the disk's division: see ``share_disk``."""
REST = 10
"""How many times as long as a division takes passes until the next one, at least."""
LONGEST_REST = 30.0
"""But no more seconds than that: one may only have waited, for a disk that a snapshot froze."""
KEPT_BACK = 8
"""With as many sessions one more part is kept for the next ones, while many come at once."""
PATIENCE = 12.0
"""Seconds that the end of a session waits for the gate: more than that takes to be started."""


class Steps:
    """What is true of the VM now, and how it is changed.

    ``ended`` is called with a session's UID and its unit when that ends without being asked to.
    """

    def __init__(
        self,
        paths: Paths,
        settings: SessionSettings,
        supervisor: Supervisor,
        gate: GateClient,
        folders: Folders,
        *,
        ended: Callable[[int, Running], None],
    ) -> None:
        self._paths = paths
        self.settings = settings
        self._supervisor = supervisor
        self._gate = gate
        self._folders = folders
        self._ended = ended
        self._running: dict[int, Running] = {}
        self._frozen: set[int] = set()
        self._quotas: dict[int, str] = {}
        self._users: dict[int, str] = {}
        self._written: set[int] = set()  # whose lines are in the files
        self._part: quota.Grant | None = None
        self._left = 0  # parts that the last division left for the next sessions
        self._divided: set[int] = set()  # who has one
        self._dividing: asyncio.TimerHandle | None = None
        self._pause = MOMENT
        self._starting = asyncio.Semaphore(AT_ONCE)
        self.pooled: set[int] = set()  # they run, and nobody can write in them yet
        self._arriving: set[int] = set()  # they do not run, and are written

    def running(self, uid: int) -> Running | None:
        """The unit of a session, if it runs and can be entered."""
        return self._running.get(uid)

    def alive(self, uid: int) -> bool:
        """Whether a session's unit runs at this moment, also if its end is not noticed yet."""
        if (running := self._running.get(uid)) is None:
            return False
        ended = select.poll()  # select(2) knows no descriptors above 1023
        ended.register(running.pidfd, select.POLLIN)
        return not ended.poll(0)

    def set_users(self, names: Mapping[int, str]) -> None:
        """Make these (UID: name) the sessions' users, and no others."""
        self._users = dict(names)
        self._write_users()

    def expect_user(self, uid: int, name: str) -> None:
        """Have a user in the files by the time its session starts: one writing for many."""
        self._users[uid] = name

    def drop_user(self, uid: int) -> None:
        """Take a user away."""
        if self._users.pop(uid, None) is not None:
            self._write_users()

    def let_go(self) -> None:
        """Stop watching units; they go on."""
        for uid in list(self._running):
            self._let_go(uid)
        if self._dividing is not None:
            self._dividing.cancel()

    async def tell_gate(self, running: list[Record]) -> None:
        """These sessions run, by these policies, and no others."""
        try:
            await self._gate.call("keep", names=[record.name for record in running])
            for record in running:
                try:
                    publish.gate_folder(self._paths, record.name, record.uid, record.own.sandbox)
                except SeraiError as error:  # there is no group for its bridge
                    log.error("session %s has no way out: %s", record.name, error)
                    continue
                await self._gate.open(record)
        except SeraiError as error:
            # It keeps what it was told last; what runs goes on without a way out at worst.
            log.error("%s", error)

    async def take_over(self, record: Record, main: int) -> None:
        """Adopt a running unit. Payloads whose client went with the daemon before are ended."""
        cgroup = cgroups.of(main)
        if cgroup is not None:
            for orphan in cgroups.payloads(cgroup):
                await cgroups.destroy(orphan)
        await self._watch(record, main, fresh=False)
        for step in STARTED:
            await self.do(step, record)

    async def do(self, step: Step, record: Record) -> None:  # noqa: PLR0912  # a step each
        """Carry out one step. Raises SeraiError or OSError."""
        name, uid = record.name, record.uid
        if step is Step.MAKE_HOME:
            homes.make(self._paths, name, uid)
        elif step is Step.UNLOCK_HOME:
            homes.unlock(self._paths, name, uid)
        elif step is Step.LOCK_HOME:
            homes.lock(self._paths, name, uid)
        elif step is Step.MOVE_HOME_AWAY:
            homes.move_away(self._paths, name, uid)
        elif step is Step.PLACE_HOME:
            await staging.place(self._paths, name, uid)
        elif step is Step.START:
            await self._start_unit(record)
        elif step is Step.LIMIT_UNIT:
            await self._limit_unit(record)
        elif step is Step.LIMIT_DISK:
            self._quotas[uid] = record.own.limits.get("quota", "")
            self._limit_disk(uid)
        elif step is Step.MOUNT_FOLDERS:
            await self._folders.bring_back(record, self._running[uid])
        elif step is Step.STOP:
            await self._stop_unit(record)
        elif step is Step.FIT_SANDBOX:
            self._fit_sandbox(record)
        elif step is Step.OPEN_GATE:
            await self._gate.open(record)
        else:
            await self._set_frozen(record, step is Step.FREEZE)

    async def _start_unit(self, record: Record) -> None:
        cgroups.expect_move()
        self.expect_user(record.uid, record.name)
        if record.uid not in self._written:
            self._write_users()
        homes.mend(self._paths, record.name, record.uid)
        rules = own.effective(self.settings, record.own)
        room = publish.session(self._paths, rules, record.name, record.uid, record.own.sandbox)
        # Its sockets are there before the bridge is: a session never runs without its way out.
        await self._gate.open(record)
        async with self._starting:
            main = await self._supervisor.start(record.name)
            await self._watch(record, main, fresh=True)
        # The unit may have been there: of one that was taken out of the pool, in a create that was
        # cut off.
        self._limit_memory_files(record, room)

    def _fit_sandbox(self, record: Record) -> None:
        """Give one that was started without limits of its own what a start gives by them."""
        if "memory" in record.own.limits:
            rules = own.effective(self.settings, record.own)
            room = publish.sandbox_arguments(self._paths, rules, record.name, record.uid)
            self._limit_memory_files(record, room)

    def _limit_memory_files(self, record: Record, room: int | None) -> None:
        if room is not None and "memory" in record.own.limits:
            processes.limit_memory_files(self._running[record.uid].init, room)

    async def _limit_unit(self, record: Record) -> None:
        limits = own.properties(self.settings, record.own)
        await self._supervisor.limit(record.name, limits, own=bool(record.own.limits))

    @contextlib.contextmanager
    def arriving(self, uid: int) -> Iterator[None]:
        """A session that does not run yet is written meanwhile, within what each may have."""
        self._arriving.add(uid)
        try:
            self._limit_disk(uid)
            yield
        finally:
            self._arriving.discard(uid)
            self.share_disk()

    def share_disk(self) -> None:
        """Divide the disk anew among the sessions that can write, in a moment.

        That takes a while for hundreds of them, so many changes make one division, and however many
        there are, most of the time is others'.
        """
        if self._dividing is None:
            later = asyncio.get_running_loop().call_later
            self._dividing = later(self._pause, self._moment_is_over)

    def _moment_is_over(self) -> None:
        self._dividing = None
        begin = time.monotonic()
        self._divide_disk(1)
        self._pause = min(max(MOMENT, REST * (time.monotonic() - begin)), LONGEST_REST)

    def _divide_disk(self, left: int) -> None:
        """Leave so many parts for the next ones. Without a quota sessions run all the same."""
        writing = (self._running.keys() - self._frozen - self.pooled) | self._arriving
        self._divided, self._left = writing, left
        try:
            self._part = quota.share(
                self._paths.sessions, writing, self.settings.disk, self._quotas, left=left
            )
        except OSError as error:
            log.error("quotas are not set: %s", error)

    def _limit_disk(self, uid: int) -> None:
        """Before a session can write: a part that the last division left for the next ones.

        Where none is left the disk is divided at once, and not in a moment. A single call allocates
        whatever a session may have, so two that start together never have the same part.
        """
        comes = uid not in self._divided and uid not in self.pooled
        try:
            if self._part is None or (comes and not self._left):
                self._divide_disk(1 + len(self._running) // KEPT_BACK)
            else:
                quota.limit(self._paths.sessions, uid, self._part, self._quotas.get(uid, ""))
                if comes:
                    self._divided.add(uid)
                    self._left -= 1
        except OSError as error:
            log.error("the quota of UID %d is not set: %s", uid, error)
        self.share_disk()

    async def _stop_unit(self, record: Record) -> None:
        running = self._let_go(record.uid)
        if running is not None and running.cgroup is not None:
            with contextlib.suppress(OSError):
                cgroups.thaw(running.cgroup)
        await self._supervisor.stop(record.name)
        self.share_disk()
        try:
            await asyncio.wait_for(self._gate.call("close", name=record.name), PATIENCE)
        except (SeraiError, asyncio.TimeoutError) as error:
            # Without the folder it drops the session when it comes back.
            log.error("%s", str(error) or "the gate does not answer")
        publish.withdraw(self._paths, record.name)

    async def _set_frozen(self, record: Record, frozen: bool) -> None:
        running = self._running.get(record.uid)
        if running is None or running.cgroup is None:
            raise SeraiError(f"session {record.name} has no cgroup to freeze")
        if frozen:
            await cgroups.freeze(running.cgroup)
            self._frozen.add(record.uid)
            self.share_disk()
        else:
            self._frozen.discard(record.uid)
            self._limit_disk(record.uid)
            cgroups.thaw(running.cgroup)

    async def _watch(self, record: Record, main: int, *, fresh: bool) -> None:
        """Wait for the sandbox to be ready, and be told when its main process ends."""
        self._let_go(record.uid)
        try:
            pidfd = os.pidfd_open(main)
            try:
                init = await processes.ready(main, bridge=fresh)
                processes.limit_terminals(init)
            except BaseException:
                os.close(pidfd)
                raise
        except ProcessLookupError:
            raise SeraiError(f"the sandbox of {record.name} ended while it was starting") from None
        running = Running(main, init, cgroups.of(main), pidfd)
        self._running[record.uid] = running
        asyncio.get_running_loop().add_reader(pidfd, self._main_ended, record.uid, running)

    def _main_ended(self, uid: int, running: Running) -> None:
        asyncio.get_running_loop().remove_reader(running.pidfd)
        self._ended(uid, running)

    def _let_go(self, uid: int) -> Running | None:
        running = self._running.pop(uid, None)
        self._frozen.discard(uid)
        self._quotas.pop(uid, None)
        if running is not None:
            asyncio.get_running_loop().remove_reader(running.pidfd)
            os.close(running.pidfd)
        return running

    def _write_users(self) -> None:
        self._written = set(self._users)
        users.write(self._paths.users, ((name, uid) for uid, name in self._users.items()))
