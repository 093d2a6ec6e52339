"""Answers to the kernel's questions about refused calls."""

from __future__ import annotations

import fcntl
import os
import struct
import time
from errno import EINTR

import pytest

from serai.runtime.sandbox import refusals


def test_an_answer_that_a_signal_interrupted_is_given_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the call would wait for ever."""
    listener, other = os.pipe()
    os.write(other, b"x")
    answers = []

    def ioctl(_: int, request: int, argument: bytearray) -> int:
        if request == refusals._RECEIVE:
            struct.pack_into("=QI", argument, 0, 7, os.getpid())
            return 0
        answers.append(bytes(argument))
        if len(answers) == 1:
            raise OSError(EINTR, "Interrupted system call")
        return 0

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    try:
        assert refusals.refuse(listener)
    finally:
        os.close(listener)
        os.close(other)
    assert len(answers) == 2
    assert answers[0] == answers[1]


def test_a_vm_that_stood_still_does_not_hold_up_the_next_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    assert refusals.pause(40.0) <= 101
