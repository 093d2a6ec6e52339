"""Finished stages and image folders: there whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from serai.image import cache
from serai.image.errors import BuildError


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "result"
    with cache.whole(target) as folder:
        (folder / "disk").write_text("bytes")
        assert not target.exists()
    assert (target / "disk").read_text() == "bytes"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), cache.whole(tmp_path / "result") as folder:
        (folder / "disk").write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_result_that_is_there_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "first").touch()
    with cache.whole(tmp_path / "result") as folder:
        (folder / "second").touch()
    assert [path.name for path in (tmp_path / "result").iterdir()] == ["first"]


def test_what_a_killed_build_left_is_swept(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from serai.image import cache\n"
        "with cache.whole(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'disk').touch(); print('in', flush=True); sys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "result")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"in\n"
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert len(list(tmp_path.iterdir())) == 1
    cache.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_the_newest_results_are_kept(tmp_path: Path) -> None:
    for age, name in enumerate(["new", "middle", "old"]):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    cache.prune(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["middle", "new"]


def test_what_several_share_is_kept_for_each_of_them(tmp_path: Path) -> None:
    marks = {"a": ["one"], "b": ["one", "two"], "c": ["one"], "d": ["two"], "e": []}
    for age, (name, users) in enumerate(marks.items()):
        (tmp_path / name).mkdir()
        for user in users:
            cache.use(tmp_path / name, user)
            os.utime(tmp_path / name / "users" / user, (1000 - age, 1000 - age))
    assert [mark.parents[1].name for mark in cache.uses(tmp_path, "one")] == ["c", "b", "a"]
    with cache.making(tmp_path / "e"):  # somebody is about to use it
        cache.prune(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["a", "b", "d", "e"]
    cache.prune(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["a", "b", "d"]


def test_what_has_a_maker_is_not_swept(tmp_path: Path) -> None:
    with cache.making(tmp_path / "result"), cache.whole(tmp_path / "result"):
        cache.sweep(tmp_path)
        assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1


def test_who_comes_while_a_result_is_made_waits_and_finds_it(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from serai.image import cache\n"
        "with cache.making(Path(sys.argv[1])):\n"
        "    print(Path(sys.argv[1]).exists(), flush=True)\n"
    )
    with cache.making(tmp_path / "result"):
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "result")],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        assert child.stdout.readline().startswith("waiting for another build")
        with cache.whole(tmp_path / "result"):
            pass
    assert child.communicate()[0] == "True\n"


def test_two_builds_do_not_write_the_same_stage(tmp_path: Path) -> None:
    with (
        cache.locked(tmp_path / ".lock"),
        pytest.raises(BuildError, match="another build"),
        cache.locked(tmp_path / ".lock"),
    ):
        pass
    with cache.locked(tmp_path / ".lock"):
        pass


def test_a_result_that_is_made_anew_takes_the_place_and_the_marks_of_the_old_one(
    tmp_path: Path,
) -> None:
    target = tmp_path / "result"
    with cache.whole(target) as folder:
        (folder / "old").touch()
    cache.use(target, "somebody")
    with cache.whole(target, replace=True) as folder:
        (folder / "new").touch()
        assert (target / "old").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["result"]
    assert sorted(path.name for path in target.iterdir()) == ["new", "users"]
    assert [mark.name for mark in cache.uses(tmp_path, "somebody")] == ["somebody"]


def test_what_fails_to_be_made_anew_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "result"
    target.mkdir()
    with pytest.raises(RuntimeError), cache.whole(target, replace=True):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == [target]
