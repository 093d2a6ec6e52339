"""What Packer and Ansible say, as events: notes, tasks that start, tasks that have ended.

Packer's lines are those of ``-machine-readable`` (timestamp,target,kind,data…); Ansible's are
those of its default stdout callback without colour, which Packer passes on as messages.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Note:
    """A step between tasks, such as 'booting'."""

    text: str


@dataclass(frozen=True)
class TaskStarted:
    """Ansible begins a task; ``role`` is '' for a task of the play itself."""

    role: str
    name: str


@dataclass(frozen=True)
class TaskTiming:
    """A task has ended: ok, changed, skipped, ignored or failed, after ``seconds``."""

    role: str
    name: str
    status: str
    seconds: float


Event = Note | TaskStarted | TaskTiming


@dataclass(frozen=True)
class PackerLine:
    """One line of Packer.

    ``kind`` is say (a step), message (what a step's program says), error, or failure (why the
    whole build failed).
    """

    kind: str
    text: str


# What Packer says at the start of a step, and what a person is told.
_STEPS = {
    "Copying hard drive": "copying the disk",
    "Starting VM": "booting",
    "Waiting for SSH": "waiting for ssh",
    "Provisioning with shell script": "waiting for cloud-init",
    "Provisioning with Ansible": "running ansible",
    "Gracefully halting": "powering off",
}
_COMMA = "%!(PACKER_COMMA)"
_MACHINE_LINE = re.compile(r"^\d+,([^,]*),([a-z-]+),?(.*)$")
_TARGET = re.compile(r"^(==> )?\s*qemu\.[\w-]+: ?|^==> ")

_HEADER = re.compile(r"^(TASK|RUNNING HANDLER) \[(?:([\w.-]+) : )?(.*)\] \*+$")
_PLAY = re.compile(r"^PLAY (\[.*\]|RECAP) \*+$")
_RESULT = re.compile(r"^(ok|changed|skipping|failed|fatal): \[([^\]]+)\](.*)$")
_OUR_ERROR = re.compile(r"serai[\w.]*\.SeraiError: (.+)")
_IGNORED = "...ignoring"
_RANK = ("skipped", "ok", "changed", "ignored", "failed")


def packer_line(line: str) -> PackerLine | None:
    """One line of ``packer -machine-readable``; None for what is not for people.

    A line that is in no such form (a crash, a message of the loader) is a message.
    """
    match = _MACHINE_LINE.match(line)
    if match is None:
        return PackerLine("message", line) if line.strip() else None
    kind, data = match[2], match[3]
    if kind == "ui":
        kind, _, data = data.partition(",")
    elif kind == "error":
        kind = "failure"
    else:
        return None
    text = data.replace(_COMMA, ",")
    if kind != "message":
        # A message is always one line, and '\n' in it is the program's own, in JSON for example.
        text = text.replace("\\n", "\n").strip()
    return PackerLine(kind, _TARGET.sub("", text).rstrip())


def step(text: str) -> Note | None:
    """The note for what Packer says at the start of a step, if it is one people care for."""
    for beginning, note in _STEPS.items():
        if text.startswith(beginning):
            return Note(note)
    return None


class Tasks:
    """Reads Ansible's lines one by one and times its tasks.

    ``done`` lists the tasks that have ended; ``failure`` is why the play stopped, in words, once
    a task has failed and was not ignored.
    """

    def __init__(self) -> None:
        self.done: list[TaskTiming] = []
        self.failure = ""
        self._current: TaskStarted | None = None
        self._status = ""
        self._began = 0.0

    def feed(self, line: str, now: float) -> list[Event]:
        """The events that ``line``, said at ``now`` seconds, stands for."""
        if header := _HEADER.match(line):
            started = TaskStarted(header[2] or "", header[3])
            events = self.end(now)
            self._current, self._status, self._began = started, "", now
            return [*events, started]
        if _PLAY.match(line):
            return self.end(now)
        if self._current is not None:
            self._result(line, self._current)
        return []

    def end(self, now: float) -> list[Event]:
        """The end of the task under way, if there is one."""
        if self._current is None:
            return []
        took = round(now - self._began, 3)
        task = TaskTiming(self._current.role, self._current.name, self._status or "ok", took)
        self._current = None
        self.done.append(task)
        return [task]

    def _result(self, line: str, task: TaskStarted) -> None:
        if line.strip() == _IGNORED:
            self._status, self.failure = "ignored", ""
        elif match := _RESULT.match(line):
            status = {"skipping": "skipped", "fatal": "failed"}.get(match[1], match[1])
            # Of a loop's items the worst counts.
            if not self._status or _RANK.index(status) > _RANK.index(self._status):
                self._status = status
            if status == "failed":
                where = f"{task.role} : {task.name}" if task.role else task.name
                self.failure = f"the task '{where}' failed: {reason(match[3])}"


def reason(text: str) -> str:
    """Why a task failed, from the end of Ansible's line: its message and the program's last words.

    ``text`` is what follows the host: 'FAILED! => {json}', '(item=x) => {json}', 'UNREACHABLE!…'.
    """
    said, arrow, data = text.partition("=> ")
    try:
        result: dict[str, Any] = json.loads(data) if arrow else {}
    except json.JSONDecodeError:
        return data.strip()
    if result.get("censored"):
        return "its output is hidden (no_log)"
    parts = []
    if item := re.search(r"\(item=(.*)\)", said):
        parts.append(f"for {item[1]}")
    if command := result.get("cmd"):
        shown = " ".join(map(str, command)) if isinstance(command, list) else str(command)
        parts.append(f"'{shown}' ended with status {result.get('rc', '?')}")
    else:
        parts.append(_text(result.get("msg")))
    # Modules that run a program give its words apart from their own.
    parts.append(_text(result.get("stderr")) or _text(result.get("stdout")))
    parts.append(_text(result.get("module_stderr")) or _text(result.get("module_stdout")))
    unique = list(dict.fromkeys(part for part in parts if part))
    return ": ".join(unique) or said.strip() or "it gave no reason"


def _text(value: object, lines: int = 5) -> str:
    said = [line.strip() for line in str(value or "").splitlines() if line.strip()]
    for line in said:
        if found := _OUR_ERROR.match(line):  # of a traceback, the one line that is for people
            return found[1]
    return " | ".join(said[-lines:])
