"""The command line: tasks follow one another, and errors are one line and a status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from invoke.collection import Collection

import tasks
from serai.image.commands import options
from tests.conftest import ROOT

INVOKE = Path(sys.executable).with_name("invoke")


COLLECTION = Collection.from_module(tasks)


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


@pytest.mark.parametrize("name", sorted(COLLECTION.tasks))
def test_every_option_of_every_task_has_words(name: str) -> None:
    task = COLLECTION.tasks[name]
    assert (task.__doc__ or "").strip()
    assert [each.name for each in task.get_arguments() if not each.help] == []


def test_words_are_for_options_that_there_are() -> None:
    found = {
        name: {each.name for each in task.get_arguments()}
        for name, task in COLLECTION.tasks.items()
    }
    assert {
        name for name, own in options.OWN.items() if not set(own) <= found.get(name, set())
    } == set()


def test_make_runs_every_task_and_setup_first() -> None:
    names = sorted(set(COLLECTION.tasks) - {"test"})  # make test has the linters too
    argv = ["make", "--dry-run", "--no-print-directory", *names, "IMAGE=x", "ARGS=--more"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "./scripts/setup",
        *(f".venv/bin/invoke {name} --image x --more" for name in names),
    ]


def test_with_json_stdout_is_json_and_an_error_is_on_stderr() -> None:
    done = invoke("images", "--json")
    assert {each["image"] for each in json.loads(done.stdout)} >= {"debian-12-amd64"}
    refused = invoke("plan", "--json", "--image", "nixos")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("serai: there is no image 'nixos'")
