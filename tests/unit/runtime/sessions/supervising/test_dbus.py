from __future__ import annotations

import struct

import pytest

from serai.runtime.sessions.supervising import dbus

ANSWER, SIGNAL = 2, 4


def message(kind: int, member: str, body: bytes, order: str = "<") -> bytes:
    """A message as the D-Bus specification has it, with one field: its member (code 3)."""
    text = member.encode()
    field = struct.pack(f"{order}B3sI", 3, b"\x01s\0", len(text)) + text + b"\0"
    padding = b"\0" * (-len(field) % 8)
    mark = b"l" if order == "<" else b"B"
    fixed = mark + struct.pack(f"{order}BBBIII", kind, 0, 1, len(body), 1, len(field))
    return fixed + field + padding + body


@pytest.mark.parametrize("order", "<>")
def test_answers_and_ends_of_jobs_are_taken_and_nothing_else_is(order: str) -> None:
    answer = message(ANSWER, "Whatever", b"12345", order)
    removed = message(SIGNAL, "JobRemoved", b"done", order)
    others = [
        message(SIGNAL, "PropertiesChanged", bytes(5000), order),
        # Only its content says so: that is no reason to take it for the end of a job.
        message(SIGNAL, "UnitNew", b"JobRemoved.service", order),
    ]
    buffer = bytearray(b"".join([*others, answer, removed, *others, answer]))
    assert list(dbus.taken(buffer)) == [answer, removed, answer]
    assert not buffer


def test_a_message_may_come_in_pieces() -> None:
    removed, answer = message(SIGNAL, "JobRemoved", b"x"), message(ANSWER, "A", b"")
    buffer, found = bytearray(), list[bytes]()
    for byte in message(SIGNAL, "UnitNew", b"abc") + removed + answer:
        buffer.append(byte)
        found += dbus.taken(buffer)
    assert found == [removed, answer]


def test_a_units_object_is_named_as_systemd_names_it() -> None:
    assert dbus.unit_path("serai-session@a1-b.service") == (
        "/org/freedesktop/systemd1/unit/serai_2dsession_40a1_2db_2eservice"
    )
