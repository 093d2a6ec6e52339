"""What a dialogue says of the messages about one call, among others on its connection."""

from __future__ import annotations

import pytest

from serai.common.errors import BUSY, SeraiError
from serai.runtime.dialogue import AHEAD, Dialogue, parts, whole


def test_output_is_taken_in_its_order_and_the_answer_ends_it() -> None:
    dialogue = Dialogue(1)
    assert dialogue.take({"method": "exec.started", "params": {"request": 1, "exec": "9-1"}})
    for name, data in (("stdout", b"one"), ("stderr", b"two")):
        assert dialogue.take({"method": "exec.output", "params": {"stream": name, "data": data}})
    assert dialogue.kept == 6
    assert not dialogue.over
    assert dialogue.take({"id": 1, "result": {"status": 0}})
    assert [dialogue.piece() for _ in range(3)] == [("stdout", b"one"), ("stderr", b"two"), None]
    assert dialogue.over
    assert dialogue.result() == {"status": 0}


def test_only_the_answer_to_an_input_of_its_own_makes_room_for_the_next() -> None:
    dialogue = Dialogue(1)
    for number in range(2, 2 + AHEAD):
        dialogue.sent(number)
    assert dialogue.full
    assert not dialogue.take({"id": 99, "result": {}})
    assert not dialogue.take({"method": "session.changed", "params": {"name": "one"}})
    assert dialogue.full
    assert dialogue.take({"id": 2, "result": {}})
    assert not dialogue.full


def test_a_refusal_that_names_no_request_is_its_answer() -> None:
    dialogue = Dialogue(1)
    refusal = {"code": BUSY, "message": "there are 512 clients", "data": {"hint": "later"}}
    assert dialogue.take({"id": None, "error": refusal})
    with pytest.raises(SeraiError, match="there are 512 clients; later"):
        dialogue.result()


@pytest.mark.parametrize(("size", "most"), [(0, 0), (1, 1), (65536, 1), (65537, 2)])
def test_an_input_is_sent_in_parts_and_its_end_is_empty(size: int, most: int) -> None:
    data = bytes(size)
    assert len(list(parts(data))) == most
    assert b"".join(parts(data)) == data
    assert list(whole(data)) == [*parts(data), b""]
