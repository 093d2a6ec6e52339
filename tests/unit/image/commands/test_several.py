"""Several images in one call: side by side as there is room, each with its own end."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from serai.image.commands import several
from serai.image.commands.several import Capacity, ImageRun
from serai.image.errors import BuildError
from serai.image.settings import Settings

WIDE = Capacity(64, 1 << 20)


def job(image: str, script: str, *, cpus: int = 1, memory: int = 100) -> ImageRun:
    return ImageRun(image, ("/bin/sh", "-c", script, "sh"), cpus, memory)


def test_each_has_a_line_of_its_own_and_one_that_fails_ends_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [job("bad", "echo begins; echo serai: broken >&2; exit 3"), job("good", "echo made it")]
    found = several.run(jobs, WIDE, logs=tmp_path, name="build-image")
    assert [(each.job.image, each.status, each.said) for each in found] == [
        ("bad", 3, "broken"),
        ("good", 0, "made it"),
    ]
    several.show(found)
    lines = capsys.readouterr().out.splitlines()
    assert {"bad: begins", "bad: serai: broken", "good: made it"} <= set(lines)
    assert [" ".join(line.split()[:2]) for line in lines[-2:]] == ["bad failed", "good ok"]
    assert (tmp_path / "bad-build-image.log").read_text() == "begins\nserai: broken\n"


def test_as_many_run_at_once_as_the_host_can_carry(tmp_path: Path) -> None:
    one, two = job("one", ""), job("two", "", cpus=2, memory=200)
    assert Capacity(3, 300).has([one], two)
    assert not Capacity(2, 300).has([one], two)
    assert not Capacity(3, 299).has([one], two)
    assert Capacity(1, 1).has([], two)  # alone, it is tried
    both = f"[ -e {tmp_path}/one ] && [ -e {tmp_path}/two ] && exit 0"
    meet = f"touch {tmp_path}/$0; for i in $(seq 600); do {both}; sleep 0.1; done; exit 1"
    together = [job("one", meet.replace("$0", "one")), job("two", meet.replace("$0", "two"))]
    assert [
        each.status for each in several.run(together, Capacity(2, 200), logs=tmp_path, name="x")
    ] == [0, 0]
    alone = f"mkdir {tmp_path}/lock && sleep 0.1 && rmdir {tmp_path}/lock"
    apart = [job("one", alone), job("two", alone)]
    found = several.run(apart, Capacity(1, 200), logs=tmp_path, name="x")
    assert [each.status for each in found] == [0, 0]


def test_ctrl_c_ends_all_and_lets_each_clean_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(name: str) -> str:
        mark = tmp_path / name
        wait = "for i in $(seq 2400); do sleep 0.05; done"
        return f"trap 'rm {mark}; exit 130' TERM; touch {mark}; {wait}"

    jobs = [job("one", script("one")), job("two", script("two")), job("three", "true", cpus=64)]
    pause = time.sleep

    def interrupted(seconds: float) -> None:
        """Where it waits: between a process's start and its being known, nothing would end it."""
        if (tmp_path / "one").exists() and (tmp_path / "two").exists():
            monkeypatch.undo()
            raise KeyboardInterrupt
        pause(seconds)

    monkeypatch.setattr("serai.image.commands.several.time.sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        several.run(jobs, WIDE, logs=tmp_path, name="x")
    assert not (tmp_path / "one").exists()
    assert not (tmp_path / "two").exists()
    assert not (tmp_path / "three-x.log").exists()  # it never began


def test_the_command_is_the_one_for_a_single_image(
    checkout: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = Settings.of({"SERAI_CACHE": str(checkout.cache)})
    asked: list[ImageRun] = []

    def ran(jobs: list[ImageRun], _most: Capacity, **_: object) -> list[several.Ending]:
        asked.extend(jobs)
        printed = ['{"image": "a"}', ""]
        return [several.Ending(j, bool(n), printed=printed[n]) for n, j in enumerate(jobs)]

    monkeypatch.setattr(several, "run", ran)
    images = ["debian-12-amd64", "debian-12-arm64"]
    options = ["--fresh", "--json"]
    assert several.command(there, "verify-image", images, options, vms=2) == 1
    words = ("verify-image", "--image", "debian-12-amd64", "--fresh", "--json")
    assert asked[0].argv[-len(words) :] == words
    assert asked[0].argv[1 : -len(words)] == ("-m", "serai.image.tasks.program")
    assert (asked[0].cpus, asked[0].memory) == (2, 2 * (2048 + 512))
    out = capsys.readouterr().out
    assert json.loads(out[out.index("[") :]) == [{"image": "a"}]  # a list, of what there is


def test_an_image_that_there_is_not_stops_all_before_they_begin(checkout: Settings) -> None:
    with pytest.raises(BuildError, match="there is no image 'nixos'"):
        several.command(checkout, "build-image", ["nixos", "debian-12-amd64"], [])


def test_an_image_is_taken_once() -> None:
    assert several.names(["a", "b", "a"]) == ["a", "b"]
    assert several.names(None) == ["ubuntu-22.04-arm64"]


def test_what_is_printed_for_programs_is_not_what_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ("/bin/sh", "-c", "echo '{}'; echo news >&2", "--json")
    found = several.run([ImageRun("one", argv, 1, 1)], WIDE, logs=tmp_path, name="x")
    assert found[0].printed == "{}\n"
    assert capsys.readouterr().out == "one: news\n"


def test_the_host_can_carry_something() -> None:
    found = several.capacity()
    assert found.cpus >= 1
    assert found.memory > 0
