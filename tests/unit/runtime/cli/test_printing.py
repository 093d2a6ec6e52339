"""What a session or a member of the group chose comes to a terminal as text, never as control."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from serai.common.errors import SeraiError
from serai.runtime.cli import connect, egress, folders, jobs, main

EVIL = "\x1b]0;owned\x07\x9b2J\r\n\u202e"
FOLDER = {"role": "outputs", "path": EVIL, "writable": True, "problem": EVIL, "mount": None}
SESSION = {
    "name": "one",
    "uid": 2000,
    "state": "ready",
    "labels": {EVIL: EVIL},
    "created_at": 0.0,
    "home": EVIL,
    "folders": [FOLDER],
    "quota": None,
}
ENTRY = {
    "time": "2026-01-01T00:00:00",
    "session": EVIL,
    "protocol": "http",
    "event": "decision",
    "host": EVIL,
    "port": 80,
    "address": EVIL,
    "allowed": True,
    "rule": EVIL,
    "error": EVIL,
}
BINDINGS = [
    {"secret": EVIL, "hosts": [EVIL], place: EVIL, "variable": EVIL}
    for place in ("header", "basic", "query")
]
POLICY = {"profile": EVIL, "allow": [EVIL], "deny": [EVIL], "bind": BINDINGS}
VERDICT = {"address": EVIL, "allowed": True, "rule": EVIL, "reason": EVIL}
SEEN = {"request": EVIL, "tls": "ended", "secrets": [EVIL]}
EXPLAINED = {"target": EVIL, "allowed": True, "problem": EVIL, "verdicts": [VERDICT], **SEEN}
OPERATION = {
    "time": "2026-01-01T00:00:00",
    "event": "operation",
    "operation": EVIL,
    "session": EVIL,
    "command": EVIL,
    "labels": {EVIL: EVIL},
    "by": {"uid": 0, "pid": 1, "via": EVIL, "from": EVIL, "login": 1000},
    "error": EVIL,
}
REQUEST = {**ENTRY, "method": EVIL, "path": EVIL, "secret": EVIL}
ENTRIES = {
    "entries": [ENTRY, OPERATION, REQUEST, {"event": EVIL, "time": "", "problem": EVIL}],
    "last": 1,
}
ACTION = {"goal": "removed", "name": EVIL, "reason": EVIL}
JOB: dict[str, Any] = {
    "job": EVIL,
    "state": EVIL,
    "argv": [EVIL],
    "started_at": 0.0,
    "written": 1,
    "status": 0,
    "reason": EVIL,
}

FILE = {"name": EVIL, "type": EVIL, "size": 1, "modified_at": 0.0}
ANSWERS: dict[str, Any] = {
    "create": {"name": EVIL},
    "list": {"sessions": [SESSION]},
    "show": SESSION,
    "gc": {"actions": [ACTION]},
    "pool": {
        **{"size": 2, "wanted": 1, "ready": 0, "making": 1, "removing": 1},
        **{"taken": 1, "missed": 1, "problem": EVIL},
    },
    "hints": {"prompt": EVIL},
    "policy.show": POLICY,
    "policy.explain": EXPLAINED,
    "secret.list": {"secrets": [{"name": EVIL, "set": EVIL, "used": None, "problem": EVIL}]},
    "audit": ENTRIES,
    "version": {"version": EVIL, "protocol": EVIL},
    "job.list": {"jobs": [JOB, {**JOB, "status": None}]},
    "job.start": JOB,
    "job.wait": {**JOB, "reason": "lost"},
}
LINES = [
    ["create"],
    ["list"],
    ["show", "one"],
    ["gc"],
    ["pool"],
    ["hints", "one", "--format", "prompt"],
    ["hints", "one"],
    ["policy", "show", "one"],
    ["policy", "explain", "one", "x"],
    ["secret", "list"],
    ["audit"],
    ["ls", "one", "tmp"],
    ["version"],
    ["jobs"],
    ["start", "one", "true"],
    ["wait", EVIL],
]


class Client:
    """Answers as a sessiond whose sessions are hostile; with an error to those it does not know."""

    def __init__(self, *_: object) -> None:
        self.answers = ANSWERS

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def call(self, method: str, /, **_: Any) -> Any:
        if method not in self.answers:
            raise SeraiError(EVIL, EVIL)
        return self.answers[method]

    def send(self, *_: object, **__: object) -> None:
        """The bytes of a list in JSON go past this process."""
        print(json.dumps(FILE))

    def ls(self, **_: Any) -> list[dict[str, Any]]:
        return [FILE]


@pytest.mark.parametrize("json_too", [[], ["--json"]])
@pytest.mark.parametrize("line", [*LINES, ["stop", "one"]], ids=" ".join)
def test_nothing_that_is_printed_controls_a_terminal(
    line: list[str],
    json_too: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(connect, "Client", Client)
    main.main(
        [line[0], *line[1:2], *json_too, *line[2:]] if line[0] == "policy" else line + json_too
    )
    said = capsys.readouterr()
    assert said.out + said.err
    assert all(each.isprintable() for each in (said.out + said.err).replace("\n", ""))
    for printed in said.out.splitlines() if json_too else []:
        json.loads(printed)


def test_a_name_without_an_address_is_not_called_denied(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = {"target": "x:443", "allowed": False, "problem": "x: no such name", "verdicts": []}
    answer |= {"request": None, "tls": "tunnel", "secrets": []}
    monkeypatch.setitem(ANSWERS, "policy.explain", answer)
    monkeypatch.setattr(connect, "Client", Client)
    main.main(["policy", "explain", "one", "x"])
    assert capsys.readouterr().out == "x:443: cannot be reached: x: no such name\n"


@pytest.mark.parametrize("module", [main, egress, folders, jobs])
def test_only_json_is_printed_as_it_is(module: Any) -> None:
    tree = ast.parse(Path(module.__file__).read_text())
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "print":
            assert ast.unparse(call.args[0]).startswith("json.dumps("), ast.unparse(call)
