"""The command line: tasks follow one another, and errors are one line and a status."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

INVOKE = Path(sys.executable).with_name("invoke")


def invoke(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    argv, env = [str(INVOKE), *arguments], {**os.environ, **variables}
    return subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_a_task_that_succeeds_lets_the_next_one_run() -> None:
    one, two = invoke("images"), invoke("images", "plan", "--image", "debian-12-amd64")
    assert one.returncode == two.returncode == 0
    assert one.stdout
    assert two.stdout.startswith(one.stdout + "debian-12-amd64 ")


def test_an_error_is_one_line_and_ends_the_run() -> None:
    done = invoke("plan", "--image", "nixos", "images")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("serai: there is no image 'nixos'; the images are: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_directory_that_cannot_be_made_is_one_line() -> None:
    done = invoke("clean", "--cache", SERAI_DIST="/proc/version/dist", SERAI_CACHE="/proc/version")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("serai: /proc/version")


def test_the_old_name_of_a_command_works_and_says_so() -> None:
    done = invoke("machine", "--copy", "/nowhere")
    assert done.returncode == 1
    warning, error = done.stderr.splitlines()
    assert "'invoke machine' is called 'invoke container' now" in warning
    assert error == "serai: there is no /nowhere to copy into the container"
