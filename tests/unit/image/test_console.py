"""What people are shown: numbers, and nothing that types into their terminal."""

from __future__ import annotations

import errno
import os

import pytest

from serai.image import console
from serai.image.progress import Note, TaskTiming


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (18432, "18.0 KiB"),
        (774524928, "738.6 MiB"),
        (10 << 30, "10.0 GiB"),
    ],
)
def test_sizes_for_people(count: int, said: str) -> None:
    assert console.size(count) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.016, "0.02 s"),
        (0.96, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (757.2, "12 min 37 s"),
        (3600, "1 h 00 min"),
    ],
)
def test_durations_for_people(seconds: float, said: str) -> None:
    assert console.seconds(seconds) == said


HOSTILE = "\x1b]0;owned\x07\x1b[2Jclear\r\u202egnp.exe\udcff\x9b1m"


@pytest.mark.parametrize("fault", ["say", "warn", "fail"])
def test_what_a_guest_says_does_not_reach_the_terminal_as_it_is(
    fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    getattr(console, fault)(f"the guest said {HOSTILE}")
    said = "".join(capsys.readouterr())
    assert "clear" in said
    assert not set("\x1b\x07\r\u202e\udcff\x9b") & set(said)


def test_what_ansible_and_packer_say_does_not_either(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_event(Note(HOSTILE))
    console.show_event(TaskTiming(HOSTILE, HOSTILE, HOSTILE, 1.0))
    with console.step(HOSTILE):
        pass
    said = capsys.readouterr().out
    assert said.count("clear") == 6
    assert not set("\x1b\x07\r\u202e\udcff\x9b") & set(said)


def test_tabs_lines_and_letters_are_shown_as_they_are() -> None:
    assert console.clean("a\tb\nç 漢 ✓") == "a\tb\nç 漢 ✓"


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.EACCES, "; it may be root's since a run with sudo: chown it, or use sudo again"),
        (errno.ENOENT, "; make its directory, or name another one (SERAI_CACHE, SERAI_DIST)"),
        (errno.EIO, ""),
    ],
)
def test_what_the_system_refuses_is_one_line(
    number: int, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, console.reported():
        raise OSError(number, os.strerror(number), "/some/cache")
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"serai: /some/cache: {os.strerror(number)}{hint}\n"


def test_a_full_disk_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), console.reported():
        raise OSError(errno.ENOSPC, "No space left on device", "/d")
    assert "serai: /d: the disk is full; free some room" in capsys.readouterr().err
