"""The control socket: good and bad clients against a real daemon with real sandboxes."""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serai.runtime import errors
from serai.runtime.errors import SeraiError
from serai.runtime.rpc import MAX_LINE
from tests.runtime.vm import PYTHON, Vm, opened
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def vm() -> Iterator[Vm]:
    with opened() as machine:
        machine.start()
        machine.call("create", name="one", labels={"task": "7"})
        yield machine


@pytest.fixture(autouse=True)
def unharmed(vm: Vm) -> Iterator[None]:
    """After each test the same daemon still answers, and nothing runs that did not before."""
    idle, descriptors = vm.processes(), count(vm)
    assert vm.daemon is not None
    yield
    assert vm.daemon.poll() is None, "the daemon fell"
    assert vm.sessions()["one"]["state"] == "ready"
    wait_for(lambda: vm.processes() == idle)
    wait_for(lambda: count(vm) <= descriptors)
    assert not list(vm.cgroup.glob("one/*-*")), "a payload's cgroup is left"


def count(vm: Vm) -> int:
    assert vm.daemon is not None
    return len(list(Path(f"/proc/{vm.daemon.pid}/fd").iterdir()))


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


@pytest.mark.parametrize("name", NAMES)
def test_bad_names_are_errors(vm: Vm, name: str) -> None:
    with vm.client() as client:
        for method in ("create", "show", "switch", "stop", "archive", "reopen", "remove", "exec"):
            more = {"argv": ["true"]} if method == "exec" else {}
            with pytest.raises(SeraiError) as caught:
                client.call(method, name=name, **more)
            assert caught.value.code in (errors.INVALID_PARAMS, errors.NOT_FOUND)
    assert len(list(vm.paths.sessions.iterdir())) == 2


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
            answer = client._message()
            assert answer["error"]["code"] == errors.INVALID_PARAMS, (params, answer)


def test_unknown_methods_and_no_json(vm: Vm) -> None:
    bad = [b"\n", b"{\n", b"\xff\xff\n", b"[]\n", line("nonesuch", {}), b"[" * 5000 + b"\n"]
    with vm.client() as client:
        client._socket.sendall(b"".join(bad))
        codes = [client._message()["error"]["code"] for _ in bad[1:]]
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
        assert client._message()["error"]["code"] == errors.NOT_FOUND


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
        assert "error" in client._message()
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


def test_input_output_and_status_are_streamed(vm: Vm) -> None:
    data = os.urandom(3 << 20)
    with vm.client() as client:
        done = client.exec("one", ["sh", "-c", "cat; echo end >&2; exit 7"], input=data)
        assert done.stdout == data
        assert (done.stderr, done.status, done.signal) == (b"end\n", 7, None)
        killed = client.exec("one", ["sh", "-c", "kill -9 $$"])
        assert (killed.status, killed.signal) == (137, 9)
        env = client.exec("one", ["sh", "-c", "echo $A; pwd"], env={"A": "b c"}, cwd="/tmp")
        assert env.stdout == b"b c\n/tmp\n"


def test_a_payload_that_takes_no_input_disturbs_no_later_call(vm: Vm) -> None:
    with vm.client() as client:
        for _ in range(20):
            assert client.exec("one", ["true"], input=b"x" * 300_000).status == 0
            assert client.call("show", name="one")["name"] == "one"


def test_timeout_ends_everything(vm: Vm) -> None:
    with vm.client() as client:
        begin = time.monotonic()
        script = "setsid sleep 999 & trap '' TERM; while :; do sleep 1; done"
        done = client.exec("one", ["sh", "-c", script], timeout=0.2)
        assert done.timed_out
        assert done.status == 124
        assert time.monotonic() - begin < 30


def test_what_a_payload_leaves_behind_ends_with_it(vm: Vm) -> None:
    with vm.client() as client:
        script = "(setsid sh -c 'sleep 999 & sleep 999' &) ; nohup sleep 999 & echo done"
        assert client.exec("one", ["sh", "-c", script]).stdout == b"done\n"


def test_a_detached_payload_stays_until_the_session_stops(vm: Vm) -> None:
    vm.call("create", name="two")
    with vm.client() as client:
        options = {"detach": True, "stdio": "null"}
        started = client.call("exec", name="two", argv=["sleep", "999"], **options)
    assert Path(f"/proc/{started['pid']}").exists()
    assert vm.call("exec", name="two", argv=["true"])["status"] == 0
    vm.call("stop", name="two")
    wait_for(lambda: not Path(f"/proc/{started['pid']}").exists())
    vm.call("remove", name="two")
    wait_for(lambda: "two" not in vm.sessions())


def test_a_terminal_of_the_sandboxs_own(vm: Vm) -> None:
    with vm.client() as client:
        script = "tty; stty size; ps -o tty= -p $$"
        done = client.exec("one", ["sh", "-c", script], tty=True, rows=33, columns=99)
        assert b"/dev/pts/0\r\n33 99\r\n" in done.stdout


def test_a_frozen_session_cannot_be_entered_and_uses_no_cpu(vm: Vm) -> None:
    vm.call("create", name="cold")
    with vm.client() as client:
        options = {"detach": True, "stdio": "null"}
        busy = client.call("exec", name="cold", argv=["sh", "-c", "while :; do :; done"], **options)
    vm.call("switch", name="cold")
    vm.call("create", name="warm")
    vm.call("switch", name="warm")
    assert vm.sessions()["cold"]["state"] == "frozen"

    def used() -> int:
        fields = Path(f"/proc/{busy['pid']}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = used()
    with pytest.raises(SeraiError) as caught:
        vm.call("exec", name="cold", argv=["true"])
    assert caught.value.code == errors.WRONG_STATE
    time.sleep(0.3)  # as long as it could have used
    assert used() == before
    assert vm.call("switch", name="cold", keep_running=True)["state"] == "active"
    assert vm.sessions()["warm"]["state"] == "ready"
    wait_for(lambda: used() > before)
    for name in ("cold", "warm"):
        vm.call("remove", name=name)
    wait_for(lambda: set(vm.sessions()) == {"one"})


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


def test_signals_reach_the_payload_through_the_command(vm: Vm) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        name = number.name.removeprefix("SIG")
        script = f"trap 'echo got {name}; exit 9' {name}; echo ready; while :; do sleep 0.01; done"
        process = subprocess.Popen(
            vm.command("exec", "one", "--", "sh", "-c", script),
            env=vm.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, _ = process.communicate(timeout=30)
        assert out == f"got {name}\n"
        assert process.returncode == 9


def test_the_command_hands_over_its_own_files(vm: Vm, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(os.urandom(1 << 20))
    with (tmp_path / "in").open("rb") as given, (tmp_path / "out").open("wb") as taken:
        argv = vm.command("exec", "one", "--", "cat")
        done = subprocess.run(argv, env=vm.env, stdin=given, stdout=taken, check=False, timeout=30)
    assert done.returncode == 0
    assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "status", "out"),
    [
        (["--", "sh", "-c", "exit 3"], 3, ""),
        (["--", "sh", "-c", "kill -TERM $$"], 143, ""),
        (["--", "nonesuch"], 127, ""),
        (["--", "/etc/hostname"], 126, ""),
        (["--timeout", "0.2", "--", "sleep", "99"], 124, ""),
        (["--env", "A=1", "--cwd=/", "--", "sh", "-c", "echo $A $PWD"], 0, "1 /\n"),
        (["--", "printf", "%s", b"\xff\xfe"], 0, "\udcff\udcfe"),
        (["--json", "--", "echo", "hi"], 0, '"stdout": "hi\\n"'),
        (["--detach", "--", "true"], 0, ""),
    ],
)
def test_exec_ends_as_the_command_does(vm: Vm, arguments: list[Any], status: int, out: str) -> None:
    done = vm.serai("exec", "one", *arguments, errors="surrogateescape")
    assert done.returncode == status, done.stderr
    assert out in done.stdout
    assert bool(done.stderr) == (status in (126, 127))


def test_a_callers_terminal_is_relayed_not_handed_in(vm: Vm) -> None:
    master, slave = os.openpty()
    script = "test -t 0 || test -t 1 || test -t 2 || echo none; read line; echo got $line"
    process = subprocess.Popen(
        vm.command("exec", "one", "--", "sh", "-c", script),
        env=vm.env,
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    assert until(master, b"none")
    os.write(master, b"hello\n")
    assert until(master, b"got hello")
    assert process.wait(30) == 0
    os.close(master)


def test_a_shell_has_the_sandboxs_terminal(vm: Vm) -> None:
    master, slave = os.openpty()
    process = subprocess.Popen(
        vm.command("shell", "one"),
        env=vm.env,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    os.write(master, b"tty; stty -echo; echo $((6*7)); exit 5\n")
    seen = until(master, b"/dev/pts/0")
    assert b"42" in seen or until(master, b"42")
    assert process.wait(30) == 5
    os.close(master)


def until(descriptor: int, wanted: bytes) -> bytes:
    """Read a terminal until the text has come."""
    seen = b""
    while wanted not in seen:
        try:
            seen += os.read(descriptor, 4096)
        except OSError:
            raise AssertionError(f"the terminal ended after {seen!r}") from None
    return seen


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
