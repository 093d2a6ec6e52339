"""Lives in two throwaway sessions, made and removed as everybody's are, and collects what is seen.

The first one looks around; the second one, its neighbour, has a file that everybody may read. Both
are removed whatever happens; what a doctor that was killed left is removed by the next one.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.server
import json
import os
import secrets
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from serai.common import bridge
from serai.common.errors import NOT_FOUND, WRONG_STATE, SeraiError
from serai.common.labels import DOCTOR
from serai.common.paths import Paths
from serai.runtime.client import Client
from serai.runtime.doctor import request
from serai.runtime.doctor.lifetime import KEPT
from serai.runtime.sandbox import cgroups
from serai.runtime.sessions.steps import publish
from serai.runtime.sessions.supervising import supervisor
from serai.runtime.settings import SessionSettings

PREFIX = "doctor-"
POOLED = "from the pool"
PATIENCE = 60.0  # seconds for one answer
SETTLED = 20.0  # seconds in which processes and data must be gone
NAP = 0.05
IPC_CREAT, IPC_RMID = 0o1000, 0
PARTS = (
    *("wanted", "status", *request.PARTS),
    *("cgroup", "home", "egress", "payloads", "lifetime"),
)
# What the neighbour does: a file that everybody may read, and what it reads of it itself.
OPEN = 'echo "$1" >open; chmod 666 open; chmod 777 .; cat open; echo'
CONTROLS = ("memory.max", "pids.max", "cpu.weight", "io.weight")

Part = dict[str, Any]


def gather(paths: Paths, settings: SessionSettings, took: dict[str, float]) -> Part:
    """Everything that ``PARTS`` names; where a session cannot be made, the reason for each."""
    facts: Part = {}
    try:
        with Client(paths.control, timeout=PATIENCE) as client:
            sweep(client)
            with _sessions(paths, client, settings.sandboxes[0]) as both:
                visit = _Visit(paths, settings, client, both)
                visit.all()
                facts = visit.facts
                took |= visit.took
            if isinstance(facts["lifetime"], dict):
                facts["lifetime"] |= _removed(paths, both)
    except (SeraiError, OSError, ValueError) as error:
        for part in PARTS:
            facts.setdefault(part, str(error))
    return facts


def sweep(client: Client) -> None:
    """Remove what an earlier doctor left; only one runs at a time."""
    for session in client.call("list")["sessions"]:
        name, label = session["name"], session["labels"].get(DOCTOR)
        if (name.startswith(PREFIX) and label is not None) or label == POOLED:
            try:
                client.call("remove", name=name)
            except SeraiError as error:  # it was just being removed
                if error.code not in (NOT_FOUND, WRONG_STATE):
                    raise


@contextlib.contextmanager
def _sessions(paths: Paths, client: Client, sandbox: str) -> Iterator[tuple[Part, Part]]:
    token = secrets.token_hex(4)
    chosen: list[str | None] = [f"{PREFIX}{token}", f"{PREFIX}{token}-b"]
    # Where others get sessions out of the pool, those are what is to be examined.
    pooled = client.call("pool")["ready"] >= len(chosen)
    made: list[Part] = []
    try:
        asked = {"labels": {DOCTOR: POOLED if pooled else ""}, "sandbox": sandbox}
        for name in [None, None] if pooled else chosen:
            made.append(client.call("create", name=name, **asked))  # all that are
        one, two = made
        yield one, two
    finally:
        # Another connection: this one may be in the middle of an answer.
        with Client(paths.control, timeout=PATIENCE) as other:
            for each in made:
                with contextlib.suppress(SeraiError):
                    other.call("remove", name=each["name"])


class _Visit:
    """One stay in the session ``rogue``, beside ``neighbour``."""

    def __init__(
        self, paths: Paths, settings: SessionSettings, client: Client, both: tuple[Part, Part]
    ):
        self.paths = paths
        self.client = client
        self.settings = settings
        self.rogue, self.neighbour = both
        self.name, self.uid = str(self.rogue["name"]), int(self.rogue["uid"])
        self.facts: Part = {}
        self.took: dict[str, float] = {}

    def all(self) -> None:
        """Part after part; one that fails is the reason why."""
        description = publish.description(self.paths, self.name, self.uid)
        self.facts["wanted"] = request.wanted(self.settings, description)
        looks = self._part("looks", self._looks)
        for part in ("status", *request.PARTS):
            self.facts[part] = looks if isinstance(looks, str) else looks[part]
        for part, action in (
            ("cgroup", self._cgroup),
            ("home", self._home),
            ("egress", self._egress),
            ("payloads", self._payloads),
            ("lifetime", self._lifetime),
        ):
            self.facts[part] = self._part(part, action)

    def _part(self, part: str, action: Callable[[], Part]) -> Part | str:
        begin = time.monotonic()
        try:
            return action()
        except (SeraiError, OSError, ValueError, LookupError) as error:
            return f"{type(error).__name__}: {error}" if not str(error) else str(error)
        finally:
            self.took[part] = time.monotonic() - begin

    def _own(self) -> list[int]:
        return _processes(self.name, self.uid)

    def _run(self, *argv: str, name: str = "", **options: Any) -> tuple[int, str]:
        done = self.client.exec(name or self.name, list(argv), **{"timeout": PATIENCE, **options})
        if done.timed_out and "timeout" not in options:
            raise SeraiError(f"{argv[0]} did not end within {PATIENCE:g} s in the session")
        if not done.stdout and "timeout" not in options:
            why = done.stderr.decode(errors="replace").strip()[-300:]
            raise SeraiError(f"{argv[0]} said nothing in the session (status {done.status}) {why}")
        return done.status, done.stdout.decode(errors="replace")

    def _asked(self, port: int, key: int, mark: str, **more: Any) -> Part:
        secret = self.paths.home(str(self.neighbour["name"])) / "open"
        home = self.paths.home(self.name)
        return {**request.request(home, secret=secret, mark=mark, port=port, key=key), **more}

    def _probe(self, asked: Part) -> str:
        return self._run(*request.argv(asked))[1]

    def _looks(self) -> Part:
        mark = secrets.token_hex(16)
        _, own = self._run("sh", "-c", OPEN, "sh", mark, name=str(self.neighbour["name"]))
        with socket.create_server(("127.0.0.1", 0)) as server, _segment() as key:
            asked = self._asked(server.getsockname()[1], key, mark)
            _, status = self._run(*request.STATUS)
            told = self._probe(asked)
        for part, seconds in json.loads(told)["took"].items():
            self.took[part] = seconds
        found = request.found(status, told)
        # What is not there for anybody is out of this one's reach as well, and proves nothing.
        return found if mark in own else {**found, "others": "the neighbour cannot read its file"}

    def _cgroup(self) -> Part:
        """The limits of the session as a whole, which its unit has."""
        own = [place for place in _places(self._own()) if place is not None]
        folder = min(own, key=lambda path: len(path.parts))
        read = {name: folder / name for name in CONTROLS}
        found = {name: path.read_text().strip() for name, path in read.items() if path.exists()}
        controllers = folder / "cgroup.controllers"
        with Client(self.paths.control, timeout=PATIENCE) as other:
            other.call("exec", name=self.name, argv=["sleep", "1008"], stdio="null", detach=True)
        # Not whatever is new: the bridge has a process for a connection, and may start one now.
        extra = self._begun("1008")
        places = [str(place) for place in _places(extra)]
        for pid in extra:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        return {
            "limits": found,
            "unit": str(folder),
            "payload": places,
            "controllers": controllers.read_text().split() if controllers.exists() else [],
            "files": {name: (folder / name).exists() for name in ("cgroup.freeze", "cgroup.kill")},
        }

    def _home(self) -> Part:
        status = self.paths.home(self.name).stat()
        return {
            "mode": stat.S_IMODE(status.st_mode),
            "owner": [status.st_uid, status.st_gid],
            "uids": [self.uid, int(self.neighbour["uid"])],
        }

    def _egress(self) -> Part:
        """A server of the VM's own, asked for without a rule and with one."""
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Origin) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            origin = ["127.0.0.1", server.server_port]
            asked = {"parts": ["gate"], "origin": origin, "bridge": list(bridge.SOCKETS)}
            place = f"127.0.0.1:{server.server_port}"
            try:
                before = json.loads(self._probe(asked))["found"]["gate"]
                explained = self.client.call("policy.explain", name=self.name, target=place)
                self.client.call("policy.allow", name=self.name, rules=[place])
                after = json.loads(self._probe(asked))["found"]["gate"]
            finally:
                server.shutdown()
        entries = self.client.call("audit", session=self.name)["entries"]
        return {
            "denied": before,
            "allowed": after,
            "explained": bool(explained["allowed"]),
            "decisions": [each["allowed"] for each in entries if each["event"] == "decision"],
        }

    def _payloads(self) -> Part:
        """How payloads end, and what they leave; each is told by the seconds that it sleeps."""
        facts: Part = {"status": self._run("sh", "-c", "echo; exit 7")[0]}
        self._run("sh", "-c", "setsid sleep 1009 >/dev/null 2>&1 & echo")
        facts["left"] = self._left("1009")
        facts["timed_out"] = self._run("sleep", "1010", timeout=0.3)[0]
        facts["left_in_time"] = self._left("1010")
        with Client(self.paths.control, timeout=PATIENCE) as other:
            params = {"name": self.name, "argv": ["sleep", "1011"], "stdio": "stream"}
            other.ask("exec", params)
            while other.message().get("method") != "exec.started":
                pass
        facts["left_by_hang_up"] = self._left("1011")
        self.client.call("exec", name=self.name, argv=["sleep", "1012"], stdio="null", detach=True)
        facts["detached"] = len(self._begun("1012"))
        return facts

    def _begun(self, seconds: str) -> list[int]:
        """Those that were just started: sessiond knows before /proc has their words."""
        _settled(lambda: not _sleeping(self._own(), seconds))
        return _sleeping(self._own(), seconds)

    def _left(self, seconds: str) -> int:
        return _settled(lambda: len(_sleeping(self._own(), seconds)))

    def _lifetime(self) -> Part:
        """Stopped with something running in it, archived, reopened."""
        self._run("sh", "-c", f"echo '{KEPT}' >kept; echo")
        cgroup = self.facts["cgroup"]
        unit = None if isinstance(cgroup, str) else Path(cgroup["unit"])
        facts: Part = {"stopped": self.client.call("stop", name=self.name)["state"]}
        facts["processes"] = _settled(lambda: len(self._own()))
        facts["cgroup"] = _settled(lambda: unit is not None and unit.exists())
        places = [place(self.name) for place in _published(self.paths)]
        facts["published"] = [str(path) for path in places if path.exists()]
        facts["archived"] = self.client.call("archive", name=self.name)["state"]
        status = self.paths.home(self.name).stat()
        facts["locked"] = [stat.S_IMODE(status.st_mode), status.st_uid]
        facts["reopened"] = self.client.call("reopen", name=self.name)["state"]
        facts["kept"] = self._run("cat", "kept")[1].strip()
        return facts


def _published(paths: Paths) -> list[Callable[[str], Path]]:
    return [paths.gate, paths.session, paths.certificates]


def _removed(paths: Paths, both: tuple[Part, Part]) -> Part:
    """Of sessions that have just been removed: what is still there."""
    users = {str(each["name"]): int(each["uid"]) for each in both}
    places = [paths.removing / str(uid) for uid in users.values()]
    for name in users:
        places += [place(name) for place in (paths.home, *_published(paths))]

    def left() -> list[str]:
        return [str(path) for path in places if path.exists()]

    def known(client: Client) -> list[str]:
        return [each["name"] for each in client.call("list")["sessions"] if each["name"] in users]

    def running() -> int:
        return sum(len(_processes(name, uid)) for name, uid in users.items())

    with Client(paths.control, timeout=PATIENCE) as client:
        _settled(lambda: len(known(client)) + len(left()) + running())
        lines = (paths.users / "passwd").read_text().splitlines()
        return {
            "removed": left(),
            "known": known(client),
            "users": [line for line in lines if line.split(":")[0] in users],
            "ended": running(),
        }


class _Origin(http.server.BaseHTTPRequestHandler):
    """Answers everything with one word."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"origin")

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


@contextlib.contextmanager
def _segment() -> Iterator[int]:
    """Shared memory of the VM's that everybody may read; its key. shmget(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    key = 0x5E000000 | secrets.randbits(24)
    number = libc.shmget(key, 4096, IPC_CREAT | 0o666)
    if number < 0:
        raise OSError(ctypes.get_errno(), "no shared memory")
    try:
        yield key
    finally:
        libc.shmctl(number, IPC_RMID, None)


def _processes(name: str, uid: int) -> list[int]:
    """The processes of a session as the VM sees them: of its user, and below its cgroup."""
    own = {name, supervisor.unit(name)}
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208  # names are enough
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}").stat().st_uid == uid:
                place = cgroups.of(int(pid))
                found += [int(pid)] if place is None or own & set(place.parts) else []
    return found


def _places(pids: list[int]) -> list[Path | None]:
    """The cgroups of those processes that have not ended meanwhile."""
    found = []
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.append(cgroups.of(pid))
    return found


def _sleeping(pids: list[int], seconds: str) -> list[int]:
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            found += [pid] if seconds.encode() in words else []
    return found


def _settled(count: Callable[[], int]) -> int:
    """What is left when nothing is left, or when it has been too long."""
    end = time.monotonic() + SETTLED
    while (left := count()) and time.monotonic() < end:
        time.sleep(NAP)
    return int(left)
