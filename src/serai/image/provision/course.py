"""How a run goes on many VMs at once, read from the events that Ansible's callback writes.

The callback is callbacks/serai_events.py; each line is one event with the time of the monotonic
clock in seconds. Nothing here does I/O.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from serai.image.progress import reason

# How it went on a host. "not reached": an earlier batch failed, or somebody interrupted.
OK, FAILED, UNREACHABLE = "ok", "failed", "unreachable"
UNDER_WAY, INTERRUPTED, NOT_REACHED = "under way", "interrupted", "not reached"

# A task's results, the best one first: of several hosts the worst one counts.
_RANK = ("skipped", "ok", "changed", "ignored", "failed", "unreachable")

_OF_MITOGEN = re.compile(r"^error occurred on host \w+: ")
_NO_LOGIN = "Failed to connect to the host via ssh: "

_LOST = (
    _NO_LOGIN,
    "EOF on stream; ",
    "Mitogen was disconnected from the remote environment",
    "the respondent Context has disconnected",
    "Connection timed out.",
)
"""How Ansible and mitogen begin to say that a VM is not there any more."""

# What ssh(1) says, and what a person can do about it.
_LOGIN = (
    ("Host key verification failed", "its host key is not the one in known_hosts, or not in it; log"
     " in once with ssh and look at it, or trust new ones with --new-host-keys"),
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", "its host key is another one than in known_hosts"),
    ("Permission denied", "it does not accept this user with this key; name both (--host USER@…,"
     " --key FILE), and see that the key is in the user's authorized_keys"),
    ("bad permissions", "the key's file can be read by others; run chmod 600 on it"),
    ("Could not resolve hostname", "there is no host of that name"),
    ("Connection refused", "nothing listens on that port; is its sshd running?"),
    ("No route to host", "there is no way to it"),
    ("timed out", "it does not answer"),
    ("Connection reset", "it hung up"),
    ("closed by remote host", "it hung up"),
    ("Connection closed", "it hung up"),
    ("closed.", "it hung up"),
    ("Broken pipe", "it hung up"),
    ("disconnected", "it hung up"),
)  # fmt: skip


@dataclass
class Host:
    """One VM: how it went there, and how many tasks ended how; ``seconds`` it took.

    ``why`` is one line that says why it failed, ``task`` the task that it happened in. ``said`` is
    what the play said of it, ``tasks`` what it did: role, name, status, seconds.
    """

    name: str
    state: str = NOT_REACHED
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    task: str = ""
    why: str = ""
    began: float = 0.0
    said: list[str] = field(default_factory=list)
    tasks: list[dict[str, Any]] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """The same as data."""
        return {
            "host": self.name,
            "state": self.state,
            "ok": self.counts["ok"] + self.counts["changed"] + self.counts["ignored"],
            "changed": self.counts["changed"],
            "failed": self.counts["failed"],
            "unreachable": self.counts["unreachable"],
            "skipped": self.counts["skipped"],
            "seconds": round(self.seconds, 1),
            "task": self.task,
            "why": self.why,
            "said": self.said,
            "tasks": self.tasks,
        }


@dataclass
class Task:
    """A task that has ended on all hosts of a batch; ``counts`` is how many ended how."""

    name: str
    counts: Counter[str]
    seconds: float

    @property
    def status(self) -> str:
        """The worst result."""
        return max(self.counts, key=_RANK.index, default="ok")

    def told(self) -> str:
        """'changed', or where it ended in several ways 'changed 1, ok 2'."""
        if len(self.counts) <= 1:
            return self.status
        return ", ".join(f"{name} {self.counts[name]}" for name in _RANK if self.counts[name])


@dataclass
class Batch:
    """A batch begins; ``number`` counts from 1, ``last`` says that it is the whole of the rest."""

    number: int
    hosts: list[str]
    rest: int


@dataclass
class HostLost:
    """A host is lost, for the reason that it has by now."""

    host: Host


@dataclass
class Diff:
    """What a task changed, or would change, on a host: text as diff(1) prints it."""

    host: str
    text: str


@dataclass
class Said:
    """What the play says of a host: a line."""

    host: str
    text: str


News = Batch | Task | HostLost | Diff | Said


class Course:
    """Reads events one by one; ``hosts`` says how it stands with each VM."""

    def __init__(self) -> None:
        self.hosts: dict[str, Host] = {}
        self.batches = 0
        self._task = ""
        self._place = ("", "")
        self._results: Counter[str] = Counter()
        self._began = 0.0
        self._now = 0.0
        self._complete = False

    def feed(self, line: str) -> list[News]:
        """What ``line`` means for a person."""
        event: dict[str, Any] = json.loads(line)
        self._now = event["time"]
        kind = event["event"]
        if kind == "batch":
            return self._batch(event)
        if kind == "task":
            news = self._ended()
            role, name = event["role"], event["name"]
            self._task, self._began = f"{role} : {name}" if role else name, self._now
            self._place = (role, name)
            return news
        if kind == "end":
            self._complete = True
            return self._ended()
        if kind == "diff":
            return [Diff(event["host"], event["text"])]
        if kind == "said":
            self.hosts[event["host"]].said.append(event["text"])
            return [Said(event["host"], event["text"])]
        return self._result(event)

    def end(self) -> list[News]:
        """There are no more events. Whoever is under way is done, unless Ansible broke down."""
        if not self._complete:
            self.interrupt()
        for host in self._under_way():
            host.state = OK
        return self._ended()

    def interrupt(self) -> None:
        """Whoever is under way will not be done."""
        for host in self._under_way():
            host.state, host.task = INTERRUPTED, self._task

    @property
    def ok(self) -> bool:
        """Whether all went well on every VM there is."""
        return bool(self.hosts) and all(host.state == OK for host in self.hosts.values())

    @property
    def changed(self) -> int:
        """How many tasks changed something, or would have."""
        return sum(host.counts["changed"] for host in self.hosts.values())

    def report(self) -> dict[str, Any]:
        """All of it as data."""
        return {"ok": self.ok, "hosts": [host.row() for host in self.hosts.values()]}

    def _batch(self, event: dict[str, Any]) -> list[News]:
        news = self._ended()
        for name in event["all"]:
            self.hosts.setdefault(name, Host(name))
        for host in self._under_way():
            host.state = OK
        if self.failed:
            return news  # the playbook ends at the beginning of this batch
        for name in event["hosts"]:
            self.hosts[name].state, self.hosts[name].began = UNDER_WAY, self._now
        self.batches += 1
        rest = sum(host.state == NOT_REACHED for host in self.hosts.values())
        return [*news, Batch(self.batches, event["hosts"], rest)]

    @property
    def failed(self) -> list[Host]:
        """The VMs that are lost."""
        return [host for host in self.hosts.values() if host.state in (FAILED, UNREACHABLE)]

    def _result(self, event: dict[str, Any]) -> list[News]:
        host, status = self.hosts[event["host"]], event["status"]
        if host.state != UNDER_WAY:
            return []
        if status == FAILED and reason(event["why"]).startswith(_LOST):
            status = UNREACHABLE  # so Ansible calls it, but not while it copies a module there
        host.counts[status] += 1
        role, name = self._place
        took = round(self._now - self._began, 3)
        host.tasks.append({"role": role, "name": name, "status": status, "seconds": took})
        host.seconds = self._now - host.began
        self._results[status] += 1
        if status not in (FAILED, UNREACHABLE):
            return []
        host.state, host.task = status, self._task
        why = login(event["why"]) if status == UNREACHABLE else reason(event["why"])
        host.why = _OF_MITOGEN.sub("", why)
        return [HostLost(host)]

    def _ended(self) -> list[News]:
        if not self._results:
            return []
        task = Task(self._task, self._results, round(self._now - self._began, 3))
        self._results = Counter()
        return [task]

    def _under_way(self) -> list[Host]:
        return [host for host in self.hosts.values() if host.state == UNDER_WAY]


def login(why: str) -> str:
    """Why a login failed, in words; ``why`` is the result as the callback wrote it."""
    said = reason(why)
    said = said.removeprefix(_NO_LOGIN)
    for words, meaning in _LOGIN:
        if words.lower() in said.lower():
            return f"{meaning} ({said.split(' | ')[-1]})"
    return said
