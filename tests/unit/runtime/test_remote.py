"""VMs that are older, newer, silent or lost: each is one clear error, and no command runs twice."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import serai
from serai import connect
from serai.common import jsonrpc
from serai.common.errors import GONE, OTHER_VERSION, SeraiError
from serai.runtime import address, library
from serai.runtime.api.exec import output
from serai.runtime.remote import VmClient

VERSION = {
    "version": "9.9.9",
    "protocol": jsonrpc.PROTOCOL,
    "capabilities": ["version", jsonrpc.EARLY],
}
Answer = Callable[[dict[str, Any]], "bytes | None"]


@contextmanager
def answering(folder: Path, answer: Answer) -> Iterator[tuple[str, list[str]]]:
    """An address at which ``answer`` makes a line of each request; None hangs up."""
    asked: list[str] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "vm.sock"))
    listener.listen()

    def converse(client: socket.socket) -> None:
        with client, client.makefile("rb") as lines:
            for line in lines:
                request = json.loads(line)
                asked.append(request["method"])
                said = answer(request)
                if said is None:
                    break
                with contextlib.suppress(BrokenPipeError):  # it has heard enough
                    client.sendall(said)

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=converse, args=[client], daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"unix://{folder}/vm.sock", asked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def greeted(request: dict[str, Any]) -> bytes | None:
    return jsonrpc.result(request["id"], VERSION)


def test_an_older_vm_is_told_plainly(tmp_path: Path) -> None:
    def older(request: dict[str, Any]) -> bytes:
        return jsonrpc.error(request["id"], SeraiError("there is no method version", code=-32601))

    with (
        answering(tmp_path, older) as (where, _),
        pytest.raises(SeraiError, match=f"older than this one .{serai.__version__}.") as caught,
    ):
        VmClient(where)
    assert caught.value.code == OTHER_VERSION


def test_what_another_version_does_not_know_names_both(tmp_path: Path) -> None:
    def other(request: dict[str, Any]) -> bytes | None:
        if request["method"] == "version":
            return greeted(request)
        return jsonrpc.error(request["id"], SeraiError("there is no method fly", code=-32601))

    with (
        answering(tmp_path, other) as (where, _),
        VmClient(where) as client,
        pytest.raises(SeraiError, match=r"the VM has Serai 9\.9\.9, and this is"),
    ):
        client.call("fly")


@pytest.mark.parametrize("said", [b"Welcome to the VM!\n", b"[1]\n", b"\xff\xfe\n"])
def test_what_is_no_answer_is_told(tmp_path: Path, said: bytes) -> None:
    with (
        answering(tmp_path, lambda _: said) as (where, _),
        pytest.raises(SeraiError, match="which is no answer; a start-up file of its shell"),
    ):
        VmClient(where)


@pytest.mark.parametrize("capable", [True, False])
def test_output_comes_as_bytes_from_a_vm_that_can(tmp_path: Path, *, capable: bool) -> None:
    asked, data = [], bytes(range(256)) * 2000

    def vm(request: dict[str, Any]) -> bytes:
        if request["method"] == "version":
            found = [jsonrpc.BYTES] if capable else []
            return jsonrpc.result(request["id"], {**VERSION, "capabilities": found})
        if request["method"] != "exec":
            return b""
        asked.append(request["params"]["stdio"])
        news = {"request": request["id"], "exec": "1", "pid": 1}
        lines = [jsonrpc.notification("exec.started", news)]
        lines += [output("1", name, data, raw=capable) for name in ("stdout", "stderr", "stdout")]
        answer = {"status": 0, "signal": None, "timed_out": False}
        return b"".join([*lines, jsonrpc.result(request["id"], answer)])

    with answering(tmp_path, vm) as (where, _), VmClient(where) as client:
        done = client.exec("one", ["cat"])
    assert asked == ["bytes" if capable else "stream"]
    assert (done.stdout, done.stderr) == (data * 2, data)


@pytest.mark.parametrize("size", [-1, 1 << 40, "9", None])
def test_a_vm_that_announces_nonsense_is_left(tmp_path: Path, size: object) -> None:
    def vm(request: dict[str, Any]) -> bytes | None:
        if request["method"] == "version":
            return greeted(request)
        return jsonrpc.notification("exec.output", {"stream": "stdout", "size": size})

    with (
        answering(tmp_path, vm) as (where, _),
        VmClient(where) as client,
        pytest.raises(SeraiError, match="announces"),
    ):
        client.exec("one", ["cat"])


def test_why_ssh_ended_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ssh"
    for status, said in ((255, "what it wrote above says why"), (127, "is Serai .* installed")):
        program.write_text(f"#!/bin/sh\nexit {status}\n")
        program.chmod(0o755)
        monkeypatch.setenv("SERAI_SSH", str(program))
        with pytest.raises(SeraiError, match=f"ended with status {status}; .*{said}") as caught:
            VmClient("ssh://vm")
        assert caught.value.code == GONE


def test_a_vm_is_used_by_vsock_and_one_that_refuses_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unix(family: int, _place: object) -> socket.socket:
        assert family == socket.AF_VSOCK
        end = socket.socket(socket.AF_UNIX)
        end.connect(str(tmp_path / "vm.sock"))
        return end

    monkeypatch.setattr(address, "_connected", unix)
    with answering(tmp_path, greeted), VmClient("vsock://3:9777") as client:
        assert (client.version, client.peer) == ("9.9.9", "vsock://3:9777")
    (tmp_path / "vm.sock").unlink()
    said = r"^vsock://3:9777 hung up; .* serai-vsock\.socket listen in it"
    with answering(tmp_path, lambda _: None), pytest.raises(SeraiError, match=said) as caught:
        VmClient("vsock://3:9777")
    assert caught.value.code == GONE


def test_a_call_that_may_be_repeated_is_and_no_other(tmp_path: Path) -> None:
    ids = []

    def lost_once(request: dict[str, Any]) -> bytes | None:
        if request["method"] == "version":
            return greeted(request)
        ids.append(request["params"].get("request_id"))
        if len(ids) == 1 or request["method"] in ("exec", "remove"):
            return None
        return jsonrpc.result(request["id"], {"name": "one"})

    with answering(tmp_path, lost_once) as (where, asked), connect(where) as vm:
        session = vm.create()
        assert len(ids) == 2 and ids[0] == ids[1] is not None
        with pytest.raises(SeraiError, match="hung up"):
            session.run(["make"])
        assert asked.count("exec") == 1
        with pytest.raises(SeraiError, match="hung up"):
            session.remove()
        assert asked.count("remove") == 1
        assert session.show() == {"name": "one"}


def test_a_vm_that_is_away_for_a_while_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "RESTART", 0.3)

    def polite(request: dict[str, Any]) -> bytes | None:
        if request["method"] == "away":
            return None
        return greeted(request)

    with answering(tmp_path, polite) as (where, _), connect(where) as vm:
        with pytest.raises(SeraiError, match="hung up"):
            vm.call("away")
        place = tmp_path / "vm.sock"
        place.rename(tmp_path / "elsewhere")
        for _ in range(2):
            with pytest.raises(SeraiError, match="cannot reach sessiond"):
                vm.call("version")
        (tmp_path / "elsewhere").rename(place)
        assert vm.call("version") == VERSION
    with pytest.raises(SeraiError, match="was given up"):
        vm.call("version")


def test_the_name_that_the_package_has_and_no_other() -> None:
    assert callable(serai.connect)
    assert serai.SeraiError is SeraiError
    with pytest.raises(AttributeError, match="no attribute 'disconnect'"):
        serai.disconnect  # noqa: B018
