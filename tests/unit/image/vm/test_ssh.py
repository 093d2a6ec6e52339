"""How ssh is called, as ssh itself understands it, and how a guest that is not up is told."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serai.image.errors import BuildError
from serai.image.run import run
from serai.image.vm.ssh import Ssh, answers
from tests.support.waiting import DEADLINE


@contextmanager
def _server(greeting: bytes, *, hang_up: bool = True) -> Iterator[int]:
    """A server that greets each caller so, and hangs up or stays silent from then on."""
    listener = socket.create_server(("127.0.0.1", 0))
    callers = []

    def serve() -> None:
        while True:
            try:
                caller, _ = listener.accept()
            except OSError:
                return
            caller.sendall(greeting)
            if hang_up:
                caller.close()
            callers.append(caller)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for caller in callers:
            caller.close()


def _understood(login: Ssh) -> dict[str, str]:
    """The configuration that ssh(1) makes of the command line."""
    argv = login.argv("true")
    said = run([argv[0], "-G", *argv[1:]]).stdout
    return dict(line.split(" ", 1) for line in said.splitlines() if " " in line)


def test_ssh_reads_what_was_meant(tmp_path: Path) -> None:
    key = tmp_path / "100% of a folder" / "id"
    seen = _understood(Ssh(2222, "root", key, str(tmp_path / "control")))
    assert (seen["hostname"], seen["port"], seen["user"]) == ("127.0.0.1", "2222", "root")
    assert seen["identityfile"] == str(key).replace("%", "%%")
    assert seen["userknownhostsfile"] == str(key.with_name("known_hosts"))
    assert seen["stricthostkeychecking"] == "accept-new"
    assert seen["controlpath"] == str(tmp_path / "control")
    assert seen["batchmode"] == "yes"


def test_without_a_control_socket_nothing_is_shared(tmp_path: Path) -> None:
    assert _understood(Ssh(22, "root", tmp_path / "id"))["controlmaster"] == "false"


def test_a_greeting_is_an_answer() -> None:
    with _server(b"SSH-2.0-OpenSSH_9.2\r\n") as port:
        assert answers(port, DEADLINE)


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400\r\n"])
def test_a_connection_alone_is_none(greeting: bytes) -> None:
    with _server(greeting, hang_up=False) as port:
        assert not answers(port, 0.2)


def test_a_closed_port_is_none() -> None:
    with _server(b"SSH-") as port:
        pass
    assert not answers(port, 0.2)


def test_a_refused_login_tells_why_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serai.image.vm.ssh.answers", lambda _port: True)  # however late it is
    with (
        _server(b"SSH-2.0-nothing\r\n") as port,
        pytest.raises(BuildError, match=r"did not let root in by ssh in time: .*127.0.0.1 port"),
    ):
        Ssh(port, "root", tmp_path / "id").wait_until_up(time.monotonic() + 1)


def test_waiting_ends_when_the_guest_is_gone(tmp_path: Path) -> None:
    def gone() -> None:
        raise BuildError("QEMU is gone")

    with _server(b"") as port, pytest.raises(BuildError, match="QEMU is gone"):
        Ssh(port, "root", tmp_path / "id").wait_until_up(time.monotonic() + 600, gone)


def test_a_login_that_hangs_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serai.image.vm.ssh._LOGIN", 0.2)
    monkeypatch.setattr("serai.image.vm.ssh.answers", lambda _port: True)
    tries = 0

    def enough() -> None:
        nonlocal tries
        tries += 1
        if tries > 2:
            raise BuildError("tried twice")

    with _server(b"SSH-2.0-silent\r\n", hang_up=False) as port:
        ssh = Ssh(port, "root", tmp_path / "id")
        with pytest.raises(BuildError, match="tried twice"):
            ssh.wait_until_up(time.monotonic() + 600, enough)
        with pytest.raises(BuildError, match="in time: ssh did not end within"):
            ssh.wait_until_up(time.monotonic() + 1)


def test_no_connection_is_not_the_commands_failure(tmp_path: Path) -> None:
    with (
        _server(b"SSH-2.0-nothing\r\n") as port,
        pytest.raises(BuildError, match=f"no ssh into the guest on port {port}"),
    ):
        Ssh(port, "root", tmp_path / "id").run("true")


def test_a_missing_file_is_not_copied(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=f"there is no {tmp_path / 'none'} to copy"):
        Ssh(1, "root", tmp_path / "id").copy(tmp_path / "none", "/root")
