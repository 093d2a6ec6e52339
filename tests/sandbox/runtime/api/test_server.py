"""The control socket: good and bad clients against a real daemon with real sandboxes."""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from serai.common import errors
from serai.common.errors import SeraiError
from serai.common.jsonrpc import MAX_LINE
from tests.support.fake_vm import PYTHON, Vm
from tests.support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("unharmed")


def raw(vm: Vm, data: bytes, *, hang_up: bool = False) -> list[dict[str, Any]]:
    """Send bytes, and read what comes until the daemon closes or says nothing for a moment."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(vm.paths.control))
        try:
            sock.sendall(data)
        except OSError:
            return []
        if hang_up:
            return []
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(20)
        received = b""
        while True:
            try:
                got = sock.recv(65536)
            except ConnectionResetError:
                break
            if not got:
                break
            received += got
    return [json.loads(line) for line in received.splitlines()]


def line(method: str, params: object, number: object = 1) -> bytes:
    message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    return json.dumps(message).encode() + b"\n"


NAMES = ["../x", "-rf", "x" * 300, "ünïcode", "a\nb", "", ".serai", "/etc", "one/../two", "%i"]
NAMES += ["a\udc80"]  # what bytes become that are no UTF-8


@pytest.mark.parametrize("name", NAMES)
def test_bad_names_are_errors(vm: Vm, name: str) -> None:
    with vm.client() as client:
        for method in ("create", "show", "switch", "stop", "archive", "reopen", "remove", "exec"):
            more = {"argv": ["true"]} if method == "exec" else {}
            with pytest.raises(SeraiError) as caught:
                client.call(method, name=name, **more)
            assert caught.value.code in (errors.INVALID_PARAMS, errors.NOT_FOUND)
    assert len(list(vm.paths.sessions.iterdir())) == 2


def test_a_request_id_is_unicode(vm: Vm) -> None:
    for method, more in (("create", {}), ("job.start", {"name": "one", "argv": ["true"]})):
        with pytest.raises(SeraiError, match="no UTF-8") as caught:
            vm.call(method, request_id="a\udc80", **more)
        assert caught.value.code == errors.INVALID_PARAMS


METHODS = (
    *("create", "list", "show", "switch", "stop", "archive", "reopen", "remove", "gc"),
    *("subscribe", "exec", "exec.signal", "exec.input", "exec.resize"),
    *("put", "get", "ls", "attach", "detach", "hints"),
)


@pytest.mark.parametrize("method", METHODS)
def test_wrong_parameters_are_errors(vm: Vm, method: str) -> None:
    keys = ("name", "labels", "request_id", "keep_running", "keep_days", "keep_free", "dry_run")
    more = ("argv", "env", "cwd", "timeout", "tty", "detach", "stdio", "rows", "exec", "signal")
    files = ("role", "path", "writable", "host_path", "kind", "format")
    wrong = [{key: {"x": [1]}} for key in (*keys, *more, *files)] + [
        {"unknown": 1},
        [1],
        "x",
        7,
        None,
    ]
    with vm.client() as client:
        for params in wrong:
            client._socket.sendall(line(method, params, 99))
            answer = client.message()
            assert answer["error"]["code"] == errors.INVALID_PARAMS, (params, answer)


def test_unknown_methods_and_no_json(vm: Vm) -> None:
    bad = [b"\n", b"{\n", b"\xff\xff\n", b"[]\n", line("nonesuch", {}), b"[" * 5000 + b"\n"]
    with vm.client() as client:
        client._socket.sendall(b"".join(bad))
        codes = [client.message()["error"]["code"] for _ in bad[1:]]
        # What can be refused at once is; answers come as they are ready.
        parse = [errors.PARSE] * 3
        assert sorted(codes) == [*parse, errors.UNKNOWN_METHOD, errors.INVALID_REQUEST]
        assert client.call("show", name="one")["labels"] == {"task": "7"}


def test_oversized_and_truncated_messages(vm: Vm) -> None:
    for data in (b"x" * (MAX_LINE + 10), b'{"a":"' + b"x" * (3 * MAX_LINE) + b'"}\n'):
        answers = raw(vm, data)
        assert [answer["error"]["code"] for answer in answers] in ([errors.TOO_LARGE], [])
    for cut in (1, 20, 60):
        assert raw(vm, line("remove", {"name": "one"})[:cut]) == []
    fits = line("show", {"name": "x" * (MAX_LINE - 100)})
    with vm.client() as client:
        client._socket.sendall(fits)
        assert client.message()["error"]["code"] == errors.NOT_FOUND


def test_clients_that_hang_up(vm: Vm) -> None:
    for data in (
        b"",
        line("list", {}),
        line("list", {}) * 50,
        line("exec", {"name": "one", "argv": ["sleep", "1000"]}),
        line("exec", {"name": "one", "argv": ["sh", "-c", "setsid sleep 999 & yes"]}),
        line("exec", {"name": "one", "argv": ["sh", "-c", "trap '' HUP TERM; yes >/dev/null"]}),
        line("exec", {"name": "one", "argv": ["cat"], "tty": True}),
        line("subscribe", {}),
    ):
        raw(vm, data, hang_up=True)


def test_nothing_is_started_for_clients_that_have_hung_up(vm: Vm) -> None:
    def started() -> int:
        with vm.client() as client:
            client.ask("exec", {"name": "one", "argv": ["true"], "stdio": "null"})
            return int(client.message()["params"]["exec"].partition("-")[2])

    before = started()
    assert vm.daemon is not None
    vm.daemon.send_signal(signal.SIGSTOP)
    try:
        for _ in range(20):
            with vm.client() as client:
                client.ask("exec", {"name": "one", "argv": ["true"], "stdio": "null"})
    finally:
        vm.daemon.send_signal(signal.SIGCONT)
    assert started() == before + 1


def test_a_client_that_does_not_read_slows_nobody_else_down(vm: Vm) -> None:
    with vm.client() as deaf:
        deaf._socket.sendall(line("exec", {"name": "one", "argv": ["yes"]}))
        for _ in range(20):
            assert vm.call("show", name="one")["name"] == "one"
        assert vm.daemon is not None
        status = Path(f"/proc/{vm.daemon.pid}/status").read_text()
        (resident,) = [row.split()[1] for row in status.splitlines() if row.startswith("VmRSS")]
        assert int(resident) < 200_000


def test_a_hundred_clients_at_once(vm: Vm) -> None:
    failed: list[object] = []

    def use(number: int) -> None:
        try:
            with vm.client() as client:
                done = client.exec("one", ["echo", str(number)])
                assert done.stdout == f"{number}\n".encode()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_descriptors_that_do_not_belong_are_closed_or_refused(vm: Vm) -> None:
    reading, writing = os.pipe()
    for method, params, number in (
        ("list", {}, 3),
        ("exec", {"name": "one", "argv": ["true"], "stdio": "fds"}, 1),
        ("exec", {"name": "one", "argv": ["true"], "stdio": "stream"}, 3),
        ("exec", {"name": "nope", "argv": ["true"], "stdio": "fds"}, 3),
        ("exec", {"bad": 1}, 3),
        ("list", {}, 9),
    ):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(vm.paths.control))
            rights = array.array("i", [writing] * number)
            data = [line(method, params)]
            sock.sendmsg(data, [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            sock.recv(65536)
    os.close(writing)
    assert os.read(reading, 1) == b"", "somebody still holds the other end"
    os.close(reading)


@pytest.mark.parametrize("kind", ["tty", "folder"])
def test_a_terminal_or_folder_is_refused_by_the_daemon_too(vm: Vm, kind: str) -> None:
    master, slave = os.openpty()
    folder = os.open("/", os.O_RDONLY)
    given = slave if kind == "tty" else folder
    with vm.client() as client:
        params = {"name": "one", "argv": ["true"], "stdio": "fds"}
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [given] * 3))]
        client._socket.sendmsg([line("exec", params)], rights)
        assert "error" in client.message()
    for descriptor in (master, slave, folder):
        os.close(descriptor)


def test_others_are_not_let_in(vm: Vm) -> None:
    assert vm.paths.control.stat().st_mode & 0o777 == 0o660
    vm.paths.control.chmod(0o666)
    code = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
        "print(s.recv(1000).decode())"
    )
    argv = ["setpriv", "--reuid=2000", "--regid=2000", "--clear-groups", PYTHON, "-c", code]
    done = subprocess.run(
        [*argv, vm.paths.control], capture_output=True, text=True, check=False, timeout=30
    )
    vm.paths.control.chmod(0o660)
    assert json.loads(done.stdout or done.stderr)["error"]["code"] == errors.NOT_PERMITTED


def test_the_same_request_twice_is_done_once(vm: Vm) -> None:
    made: list[Any] = []
    threads = [
        threading.Thread(target=lambda: made.append(vm.call("create", request_id="same")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({each["uid"] for each in made}) == 1
    assert len(made) == 8
    with pytest.raises(SeraiError) as caught:
        vm.call("create", request_id="same", labels={"other": "1"})
    assert caught.value.code == errors.CONFLICT
    vm.call("remove", name=made[0]["name"])
    wait_for(lambda: set(vm.sessions()) == {"one"})


def test_gc(vm: Vm) -> None:
    vm.call("create", name="old")
    vm.call("create", name="kept", labels={"keep": "yes"})
    vm.call("switch", name="one")
    dry = vm.call("gc", keep_days=0, dry_run=True)["actions"]
    assert [(each["name"], each["goal"]) for each in dry] == [("old", "archived")]
    assert vm.sessions()["old"]["state"] == "ready"
    vm.call("gc", keep_days=0)
    assert vm.sessions()["old"]["state"] == "archived"
    done = vm.call("gc", keep_days=None, keep_free=100)["actions"]
    assert [(each["name"], each["goal"]) for each in done] == [("old", "removing")]
    wait_for(lambda: "old" not in vm.sessions())
    vm.call("archive", name="one")
    vm.call("reopen", name="one")
    vm.call("remove", name="kept")
    wait_for(lambda: set(vm.sessions()) == {"one"})


def test_a_home_is_out_of_reach_once_archived(vm: Vm) -> None:
    vm.call("create", name="secret")
    vm.call("exec", name="secret", argv=["sh", "-c", "echo x > note"], stdio="null")
    uid = vm.sessions()["secret"]["uid"]
    vm.call("archive", name="secret")
    note = vm.paths.home("secret") / "note"
    argv = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "cat", str(note)]
    assert subprocess.run(argv, capture_output=True, check=False).returncode != 0
    vm.call("reopen", name="secret")
    with vm.client() as client:
        assert client.exec("secret", ["cat", "note"]).stdout == b"x\n"
    vm.call("remove", name="secret")
    wait_for(lambda: "secret" not in vm.sessions())


def test_every_command_has_json_and_errors_in_one_line(vm: Vm) -> None:
    assert json.loads(vm.serai("show", "one", "--json").stdout)["uid"] == 2000
    assert "one" in vm.serai("list").stdout
    for arguments in (
        ["show", "nope"],
        ["create", "../x"],
        ["stop", "-rf"],
        ["gc", "--keep-days", "x"],
    ):
        done = vm.serai(*arguments)
        assert done.returncode != 0
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
