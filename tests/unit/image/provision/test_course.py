"""What is made of what Ansible says while it runs."""

from __future__ import annotations

import json

import pytest

from serai.image.provision import course, provision


def event(kind: str, **data: object) -> str:
    return json.dumps({"event": kind, "time": 1.0, **data})


@pytest.mark.parametrize("status", ["failed", "unreachable"])
def test_a_machine_that_goes_away_is_unreachable_whatever_ansible_calls_it(status: str) -> None:
    said = "Failed to connect to the host via ssh: Connection to a port 22 timed out"
    found = course.Course()
    found.feed(event("batch", all=["a"], hosts=["a"]))
    found.feed(event("task", role="", name="One"))
    found.feed(event("result", host="a", status=status, why="=> " + json.dumps({"msg": said})))
    (row,) = found.report()["hosts"]
    assert (row["state"], row["unreachable"], row["failed"]) == ("unreachable", 1, 0)
    assert row["why"] == "it does not answer (Connection to a port 22 timed out)"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "EOF on stream; last 100 lines received:\nssh: connect to host a port 22: Connection"
            " refused\r",
            "nothing listens on that port; is its sshd running? (ssh: connect to host",
        ),
        (
            "Mitogen was disconnected from the remote environment while a call was in-progress. "
            "Original error was: the respondent Context has disconnected",
            "it hung up (",
        ),
    ],
)
def test_nor_does_it_matter_what_mitogen_calls_it(said: str, words: str) -> None:
    found = course.Course()
    found.feed(event("batch", all=["a"], hosts=["a"]))
    found.feed(event("task", role="", name="One"))
    found.feed(event("result", host="a", status="failed", why="=> " + json.dumps({"msg": said})))
    (row,) = found.report()["hosts"]
    assert (row["state"], row["unreachable"], row["failed"]) == ("unreachable", 1, 0)
    assert row["why"].startswith(words)


def test_a_machine_is_done_only_if_ansible_came_to_its_end() -> None:
    batch = event("batch", all=["[::1]"], hosts=["[::1]"])
    result = event("result", host="[::1]", status="ok", why="")
    for last, state in ([], "interrupted"), ([event("end")], "ok"):
        found = course.Course()
        for line in (batch, event("task", role="", name="One"), result, *last):
            found.feed(line)
        found.end()
        assert found.hosts["[::1]"].state == state
        assert found.ok == (state == "ok")
        table = provision.summary(found)
        assert table.row_count == 1
