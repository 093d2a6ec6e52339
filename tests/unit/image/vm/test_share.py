"""What `invoke boot --share` takes, and what it says about the rest."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from serai.image.errors import BuildError
from serai.image.run import started
from serai.image.vm import share
from serai.image.vm.qemu import Share


def test_a_tag_a_folder_and_how(tmp_path: Path) -> None:
    assert share.parse([f"work={tmp_path}", f"in={tmp_path}:ro"]) == (
        Share("work", tmp_path),
        Share("in", tmp_path, read_only=True),
    )


def test_a_folder_may_have_colons_and_commas_in_its_name(tmp_path: Path) -> None:
    odd = tmp_path / "a:b,c=d:ro"
    odd.mkdir()
    assert share.parse([f"x={odd}:rw"]) == (Share("x", odd),)
    assert share.parse([f"x={odd}:ro"]) == (Share("x", odd, read_only=True),)


def test_a_comma_would_end_virtiofsds_option(tmp_path: Path) -> None:
    (tmp_path / "a,b").mkdir()
    with pytest.raises(BuildError, match="virtiofsd takes no comma; share it by 9p"):
        share.parse([f"x={tmp_path}/a,b:virtiofs"])


def test_virtiofs_takes_its_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = tmp_path / "virtiofsd"
    monkeypatch.setattr(share, "VIRTIOFSD", (daemon,))
    with pytest.raises(BuildError, match=r"virtiofsd is not installed; install .*, or share by 9p"):
        share.parse([f"x={tmp_path}:virtiofs"])
    daemon.touch()
    assert share.parse([f"x={tmp_path}:virtiofs"]) == (Share("x", tmp_path, virtiofs=True),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("work", "names no tag or no directory; write TAG=DIR"),
        ("work=", "names no tag or no directory"),
        ("work=:ro", "names no tag or no directory"),
        ("=/tmp", "'' is no tag"),
        ("../x=/tmp", "'../x' is no tag"),
        ("a,readonly=/tmp", "'a,readonly' is no tag"),
        (f"{'x' * 32}=/tmp", "is no tag; up to 31 letters"),
        ("-x=/tmp", "'-x' is no tag"),
        ("work=/nowhere/at/all:ro", "there is no directory /nowhere/at/all$"),
        (f"work={__file__}", "there is no directory"),
    ],
)
def test_what_cannot_be_shared_is_one_clear_error(text: str, said: str) -> None:
    with pytest.raises(BuildError, match=said) as caught:
        share.parse([text])
    assert "\n" not in str(caught.value)


def test_a_tag_is_used_once(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="two shares have the tag x"):
        share.parse([f"x={tmp_path}", f"x={tmp_path}:ro"])


LISTEN = """
import socket, sys, time
with socket.socket(socket.AF_UNIX) as daemon:
    time.sleep(0.3)
    daemon.bind(sys.argv[1])
    time.sleep(0.3)
    daemon.listen()
    daemon.accept()
"""


def test_a_daemon_is_waited_for_until_it_listens(tmp_path: Path) -> None:
    """QEMU tries once, and a socket is there before anybody listens."""
    where, log = tmp_path / "socket", tmp_path / "log"
    with started([sys.executable, "-c", LISTEN, str(where)], log=log) as daemon:
        share._wait_until_served(where, daemon, log)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(where))


def test_a_daemon_that_ends_is_one_clear_error(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        started(["/bin/sh", "-c", "echo no such folder; exit 1"], log=log) as daemon,
        pytest.raises(BuildError, match="virtiofsd does not serve: no such folder"),
    ):
        share._wait_until_served(tmp_path / "socket", daemon, log)
