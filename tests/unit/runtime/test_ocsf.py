"""Every entry that the log can have becomes an event that the schema of OCSF 1.8.0 takes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serai.gate.audit import chain
from serai.runtime import entries, ocsf
from tests.support.audit_logs import opened
from tests.support.ocsf import problems

OWN = {"seq": 7, "time": "2026-11-29T17:00:00.123Z", "prev": "0" * 64}
WHO = {
    "session": "red", "uid": 2001, "protocol": "http",
    "host": "a.example", "port": 443, "address": "192.0.2.7",
}  # fmt: skip
ALLOWED = {**OWN, "event": "decision", **WHO, "allowed": True, "rule": "a.example"}
DENIED = {**ALLOWED, "allowed": False, "address": None, "rule": "default deny"}
REQUEST = {"method": "GET", "path": "/v1", "secret": "anthropic", "tls": "ended"}
CLOSED = {**OWN, "event": "closed", **WHO, "sent": 5, "received": 7, "seconds": 0.25}
BY = {"uid": 0, "pid": 12, "via": "ssh", "from": "192.0.2.1", "login": 1000}
OPERATION = {**OWN, "event": "operation", "operation": "exec", "session": "red", "uid": 2001}
OPERATION |= {"command": "sh", "by": BY}
LOG = [
    {**OWN, "event": "pruned", "through": 5},
    {**OWN, "event": "missing", "after": 1, "through": None},
    {**OWN, "event": "recovered", "lost_bytes": 5},
    {"seq": 7, "event": "unreadable"},
]
ENTRIES = [
    ALLOWED,
    DENIED,
    {**ALLOWED, "error": "a.example has no address"},
    {**ALLOWED, "host": "192.0.2.7", "address": None},
    {**ALLOWED, **REQUEST},
    {**ALLOWED, **REQUEST, "method": "BREW"},
    CLOSED,
    {**CLOSED, "host": None, "port": None, "address": None, "error": "it broke"},
    {**CLOSED, "status": 200},
    OPERATION,
    {**OPERATION, "operation": "create", "error": "no room"},
    {**OPERATION, "operation": "policy.bind", "secret": "anthropic"},
    {**OPERATION, "operation": "attach", "role": "skills", "path": "/srv/x", "writable": True},
    {**OWN, "event": "operation", "operation": "secret.set", "secret": "a", "by": BY},
    {**OWN, "event": "operation", "operation": "dropped", "count": 4, "by": {**BY, "from": "x"}},
    *LOG,
]


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_schema_takes_it_and_nothing_is_lost(entry: dict[str, Any]) -> None:
    event = ocsf.event(entry)
    assert problems(event) == []
    assert json.loads(ocsf.line(entry)) == event
    text = json.dumps(event)
    for key, value in entry.items():
        if key not in ("time", "tls", "allowed", "seconds") and value is not None:
            shown = value if isinstance(value, dict) else {"x": value}
            assert all(json.dumps(each).strip('"') in text for each in shown.values()), key


def test_the_check_can_fail() -> None:
    event = ocsf.event(ALLOWED)
    assert problems({**event, "colour": "red"}) == ["colour is not known"]
    assert problems({**event, "activity_id": 77})
    assert problems({key: event[key] for key in event if key != "severity_id"})
    assert problems({**event, "dst_endpoint": {"ip": "nowhere"}})
    assert problems({**event, "metadata": {"version": "1.8.0"}})


def test_what_was_refused_and_what_failed_can_be_told() -> None:
    keys = ("class_uid", "activity_id", "status_id", "action_id")
    told = [tuple(ocsf.event(entry).get(key) for key in keys) for entry in ENTRIES[:7]]
    assert told == [
        (4001, 1, 1, 1), (4001, 5, 2, 2), (4001, 4, 2, 1), (4001, 1, 1, 1),
        (4002, 3, 1, 1), (4002, 99, 1, 1), (4001, 2, 1, None),
    ]  # fmt: skip
    assert ocsf.event(ALLOWED)["time"] == 1795971600123
    url = ocsf.event(ENTRIES[4])["http_request"]["url"]
    assert url == {"scheme": "https", "hostname": "a.example", "port": 443, "path": "/v1"}
    assert ocsf.event(ENTRIES[8])["http_response"] == {"code": 200}


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | NUMBERS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
KEYS = st.text(min_size=1).filter(lambda key: key not in ("seq", "time", "prev"))


@given(st.lists(st.dictionaries(KEYS, VALUES, max_size=5), min_size=1, max_size=5))
def test_an_entry_has_the_line_and_the_hash_that_the_log_has(
    tmp_path_factory: pytest.TempPathFactory, written: list[dict[str, Any]]
) -> None:
    folder: Path = tmp_path_factory.mktemp("log")
    with opened(folder) as log:
        for entry in written:
            log.append({**entry, "event": "operation"})
    # As a client gets them: by JSON.
    found = json.loads(json.dumps(chain.read(folder, 0, 100)))
    (path,) = folder.glob("audit-*")
    assert [entries.line(each) for each in found] == path.read_text().splitlines()
    for entry, following in itertools.pairwise(found):
        assert entries.digest(entry) == following["prev"]
    assert chain.read_head(folder) == chain.Mark(len(written), entries.digest(found[-1]))
