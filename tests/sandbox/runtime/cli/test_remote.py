"""From a host: every command through a stream that carries no descriptors, as over ssh.

The stand-in for ssh starts what the real one has the VM start: ``serai stdio``.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from serai import connect
from serai.common.errors import OTHER_VERSION, SeraiError
from tests.conftest import ROOT
from tests.support.fake_vm import CHECKOUT, DEADLINE, Vm
from tests.support.waiting import wait_for

SSH = """#!/bin/sh
# As ssh: options and a host, then the command.
while [ "$1" != "--" ]; do shift; done
test "$2 $3 $4" = "vm serai stdio" || exit 255
unset SERAI_VM
exec {command} stdio
"""
ADDRESS = "ssh://root@vm"
PICKY = """
import http.server
class Picky(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_GET(self):
        names = [self.headers["Host"], self.headers.get("Origin", "http://localhost:3000")]
        if names != ["localhost:3000", "http://localhost:3000"]:
            return self.send_error(403)
        if self.headers.get("Upgrade") == "websocket":
            self.send_response(101)
            self.end_headers()
            self.wfile.flush()
            while data := self.connection.recv(100): self.wfile.write(data)
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.path)))
        self.end_headers()
        self.wfile.write(self.path.encode())
server = http.server.ThreadingHTTPServer(("127.0.0.1", 3000), Picky)
print("up")
server.serve_forever()
"""


@pytest.fixture(scope="module")
def host(vm: Vm) -> dict[str, str]:
    """The environment of a program on a host that reaches ``vm``."""
    program = vm.root / "ssh"
    program.write_text(SSH.format(command=" ".join(vm.command())))
    program.chmod(0o755)
    return {**vm.env, "SERAI_SSH": str(program), "SERAI_VM": ADDRESS}


def serai(
    host: dict[str, str], *arguments: str, **options: Any
) -> subprocess.CompletedProcess[Any]:
    """The command as pip installs it."""
    return subprocess.run(
        command(*arguments),
        env=host,
        cwd=CHECKOUT,
        check=False,
        capture_output=True,
        timeout=DEADLINE,
        **{"stdin": subprocess.DEVNULL, **options},
    )


def command(*arguments: str) -> list[str]:
    code = "import sys; from serai.runtime.cli.main import script; sys.exit(script())"
    return [sys.executable, "-c", code, *arguments]


def test_a_session_from_its_making_to_its_end(vm: Vm, host: dict[str, str]) -> None:
    without = {key: value for key, value in host.items() if key != "SERAI_VM"}
    made = serai(without, "--vm", ADDRESS, "create", "far", "--label", "a=b")
    assert (made.returncode, made.stdout) == (0, b"far\n"), made.stderr
    assert "far" in vm.sessions()
    listed = json.loads(serai(host, f"--vm={ADDRESS}", "list", "--json").stdout)
    assert [each["labels"] for each in listed["sessions"] if each["name"] == "far"] == [{"a": "b"}]
    data = os.urandom(1 << 20)
    assert serai(host, "put", "far", "outputs", "a/b", input=data, stdin=None).returncode == 0
    assert serai(host, "get", "far", "outputs", "a/b").stdout == data
    assert b" b\n" in serai(host, "ls", "far", "outputs", "a").stdout
    refused = serai(host, "get", "far", "outputs", "none")
    assert (refused.returncode, refused.stderr.count(b"\n")) == (1, 1)
    assert serai(host, "remove", "far").returncode == 0
    assert b"protocol 1" in serai(host, "version").stdout
    with pytest.raises(SeraiError, match=r"speaks protocol 0, .* protocol 1; upgrade") as caught:
        vm.call("version", protocol=0)
    assert caught.value.code == OTHER_VERSION
    doctor = serai(host, "doctor")
    assert (doctor.returncode, doctor.stderr.count(b"\n")) == (1, 1)


@pytest.mark.usefixtures("unharmed")
def test_input_output_and_status(host: dict[str, str]) -> None:
    data = os.urandom(3 << 20)
    script = "cat; echo $0 $A >&2; pwd >&2; exit 7"
    words = ["exec", "one", "--env", "A=x y", "--cwd", "/tmp", "--", "sh", "-c", script]
    done = serai(host, *words, input=data, stdin=None)
    assert done.stdout == data
    assert (done.returncode, done.stderr) == (7, b"sh x y\n/tmp\n")
    assert serai(host, "exec", "one", "--", "nowhere").returncode == 127
    assert serai(host, "exec", "one", "--", "/etc/passwd").returncode == 126
    assert serai(host, "exec", "none", "--", "true").returncode == 125
    late = serai(host, "exec", "one", "--timeout", "0.2", "--", "sleep", "999")
    assert late.returncode == 124
    kept = json.loads(serai(host, "exec", "one", "--json", "--", "sh", "-c", "echo a").stdout)
    assert (kept["stdout"], kept["status"]) == ("a\n", 0)


@pytest.mark.usefixtures("unharmed")
def test_signals_are_passed_on_though_nobody_reads(host: dict[str, str]) -> None:
    # It floods only when "up" has come, which could else be stuck behind what nobody reads.
    script = "trap 'exit 9' INT; echo up >&2; read -r; while :; do echo y; done"
    words = ["exec", "one", "--", "bash", "-c", script]
    with subprocess.Popen(
        command(*words), env=host, stdin=-1, stdout=-1, stderr=-1, start_new_session=True
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        assert child.stderr is not None and child.stderr.readline() == b"up\n"
        child.stdin.write(b"go\n")
        child.stdin.flush()
        assert child.stdout.read(1) == b"y"
        # As a terminal does: to the stand-in for ssh, too.
        os.killpg(child.pid, signal.SIGINT)
        while child.stdout.read(1 << 20):
            pass
        assert child.wait(DEADLINE) == 9


@pytest.mark.usefixtures("unharmed")
def test_a_client_that_is_killed_hangs_up(host: dict[str, str]) -> None:
    words = ["exec", "one", "--", "sh", "-c", "echo up; sleep 999"]
    with subprocess.Popen(command(*words), env=host, stdin=-3, stdout=-1) as child:
        assert child.stdout is not None and child.stdout.readline() == b"up\n"
        child.kill()
    # Nothing runs any more: the fixture waits for that.


@pytest.mark.usefixtures("unharmed")
def test_a_terminal_with_its_size_and_its_keys(host: dict[str, str]) -> None:
    master, slave = pty.openpty()
    script = "stty size; trap 'stty size; exit 3' WINCH; echo up; while :; do sleep 0.1; done"
    words = ["exec", "one", "-t", "--", "bash", "-c", script]
    with subprocess.Popen(
        command(*words), env=host, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    ) as child:
        seen = b""
        while b"up" not in seen:
            seen += os.read(master, 1024)
        assert b"0 0" in seen or b"24 80" in seen
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
        child.send_signal(signal.SIGWINCH)
        while b"33 99" not in seen:
            seen += os.read(master, 1024)
        assert child.wait(DEADLINE) == 3
    os.close(master)
    os.close(slave)


@pytest.mark.usefixtures("unharmed")
def test_a_broken_connection_is_told_and_nothing_is_run_again(vm: Vm, host: dict[str, str]) -> None:
    words = ["exec", "one", "--", "sh", "-c", "echo $$ >>~/runs; echo up; sleep 999"]
    with subprocess.Popen(command(*words), env=host, stdin=-3, stdout=-1, stderr=-1) as child:
        assert child.stdout is not None and child.stdout.readline() == b"up\n"
        (relay,) = children(child.pid)
        os.kill(relay, signal.SIGKILL)
        _, said = child.communicate(timeout=DEADLINE)
    assert child.returncode == 125
    assert b"was not run again" in said and said.count(b"\n") == 1
    with vm.client() as client:
        assert client.exec("one", ["sh", "-c", "wc -l <~/runs; rm ~/runs"]).stdout == b"1\n"


@pytest.mark.usefixtures("unharmed")
def test_the_library(vm: Vm, host: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERAI_SSH", host["SERAI_SSH"])
    for key in ("SERAI_CONTROL", "PYTHONPATH"):
        monkeypatch.setenv(key, host[key])
    for address in (ADDRESS, f"unix://{vm.paths.control}"):
        with connect(address) as machine:
            session = machine.create(labels={"task": "42"})
            data = os.urandom(300_000)
            done = session.run(["sh", "-c", "cat; exit $A"], input=data, env={"A": "5"})
            assert (done.stdout, done.status) == (data, 5)
            session.files.write("outputs/a.txt", data)
            assert session.files.read("outputs/a.txt") == data
            assert [each["name"] for each in session.files.ls("outputs")] == ["a.txt"]
            assert machine.session(session.name).show()["labels"] == {"task": "42"}
            job = session.start(["sh", "-c", "cat; exit 6"], stdin=True)
            job.write(data, eof=True)
            assert b"".join(job.output(follow=True)) == data
            assert [each.wait()["status"] for each in session.jobs()] == [6]
            session.remove()
            wait_for(lambda: session.name not in vm.sessions())  # noqa: B023


@pytest.mark.usefixtures("unharmed")
def test_the_examples_of_its_page(vm: Vm, host: dict[str, str], tmp_path: Path) -> None:
    text = (CHECKOUT / "docs/library.md").read_text()
    examples = re.findall(r"(?<!-->\n)^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(examples) == 5
    before = set(vm.sessions())
    for number, each in enumerate(examples):
        (tmp_path / f"{number}.py").write_text(each.replace("ssh://root@vm", ADDRESS))
    for number, said in enumerate((b"", b"", b"red", b"hello", b"hello")):
        done = subprocess.run(
            [sys.executable, f"{number}.py"],
            cwd=tmp_path,
            env=host,
            stdout=subprocess.PIPE,
            check=True,
            timeout=DEADLINE,
        )
        assert said in done.stdout
    assert (tmp_path / "results/report").read_text() == "done\n"
    assert (tmp_path / "results/done").exists()
    wait_for(lambda: set(vm.sessions()) <= before)  # what was just going is gone, too
    strict = [sys.executable, "-m", "mypy", "--strict", *map(str, tmp_path.glob("*.py"))]
    subprocess.run(strict, cwd=CHECKOUT, check=True, timeout=DEADLINE)


UNTIL_LET_GO = "until test -e mnt/workdir/go; do sleep 0.1; done"
"""For as long as a test likes, its agent is at work."""


@pytest.fixture
def program(vm: Vm, share: Path, host: dict[str, str], tmp_path: Path) -> dict[str, Any]:
    """How to run the host program of docs/library.md, with a directory of two lines of data."""
    page = (ROOT / "docs/library.md").read_text()
    (found,) = re.findall(r"<!-- host program -->\n```python\n(.*?)^```$", page, re.S | re.M)
    assert "sleep 1;" in found
    (tmp_path / "host.py").write_text(found.replace("sleep 1;", f"{UNTIL_LET_GO};"))
    (share / "data.csv").write_text("a,1\nb,2\n")
    args = [sys.executable, tmp_path / "host.py", share.name, share]
    return {"args": args, "env": host, "cwd": tmp_path, "stdout": -1}


@pytest.mark.usefixtures("unharmed")
def test_the_host_program_is_killed_and_finds_its_work_again(
    vm: Vm, program: dict[str, Any]
) -> None:
    child = begun(program)
    child.kill()
    child.communicate(timeout=DEADLINE)
    labels = {"task": program["args"][2]}
    (name,) = [each["name"] for each in vm.sessions().values() if each["labels"] == labels]
    (before,) = vm.call("job.list", name=name)["jobs"]
    assert before["state"] == "running"
    (program["args"][3] / "go").touch()
    done = subprocess.run(**program, check=False, timeout=DEADLINE)
    assert done.returncode == 0
    said = done.stdout.decode()
    assert "files: data.csv\n" in said
    assert "count the lines\nstep 1\nstep 2\nstep 3\npreview: 2\n" in said
    assert (program["cwd"] / "answer.txt").read_text() == "2\n"
    session = vm.sessions()[name]
    assert session["state"] == "archived" and session["forwards"] == []
    agent = vm.call("job.show", job=before["job"])
    assert (agent["status"], agent["started_at"]) == (0, before["started_at"])
    assert len(vm.call("job.list", name=name)["jobs"]) == 2  # the agent, and the server
    again = subprocess.run(**program, stderr=-1, check=False, timeout=DEADLINE)
    assert again.stderr.decode() == f"{labels['task']} is done\n"
    vm.call("remove", name=name)


@pytest.mark.usefixtures("unharmed")
def test_a_key_interrupts_the_host_programs_agent(vm: Vm, program: dict[str, Any]) -> None:
    child = begun(program)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=DEADLINE)
    assert child.returncode == 0
    labels = {"task": program["args"][2]}
    (name,) = [each["name"] for each in vm.sessions().values() if each["labels"] == labels]
    (job,) = vm.call("job.list", name=name)["jobs"]
    assert (job["status"], job["reason"]) == (5, "exit")
    assert vm.sessions()[name]["state"] == "archived"
    vm.call("remove", name=name)


def begun(program: dict[str, Any]) -> subprocess.Popen[bytes]:
    """The host program, when its agent is at work."""
    child = subprocess.Popen(**program)
    assert child.stdout is not None
    while b"step 1" not in child.stdout.readline():
        assert child.poll() is None
    return child


def answers(address: tuple[str, int]) -> bool:
    """Whether there is somebody to ask at an address that accepts connections."""
    try:
        with socket.create_connection(address, timeout=DEADLINE) as end:
            end.sendall(b"GET / HTTP/1.1\r\n\r\n")
            return bool(end.recv(1))
    except ConnectionError:
        return False


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def running(host: dict[str, str], *words: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A command of ``serai`` that runs, and its first line; it is killed afterwards."""
    with subprocess.Popen(command(*words), env=host, stdout=-1, stderr=-1) as child:
        assert child.stdout is not None
        try:
            yield child, child.stdout.readline().decode().strip()
        finally:
            child.kill()


@pytest.mark.usefixtures("unharmed")
def test_a_forward_of_a_server_that_knows_localhost_alone(vm: Vm, host: dict[str, str]) -> None:
    """Vite's rule, and a websocket's shape: another name is refused, an upgrade stays open."""
    words = ["forward", "one", "3000", "--local", "0", "--rewrite-host"]
    with (
        running(host, "exec", "one", "--", "python3", "-uc", PICKY) as (server, _),
        running(host, *words) as (child, url),
    ):
        listed = json.loads(serai(host, "show", "one", "--json").stdout)["forwards"]
        assert listed == [{"port": 3000, "connections": 0}]
        assert b"forward: port 3000, 0 connection(s)\n" in serai(host, "show", "one").stdout
        for path in ("a", "b"):
            name = {"Host": "my.example"}
            asked = urllib.request.Request(f"{url}/{path}", headers=name)  # noqa: S310  # ours
            with urllib.request.urlopen(asked, timeout=DEADLINE) as answer:  # noqa: S310  # ours
                assert answer.read() == f"/{path}".encode()
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        with socket.create_connection(address, timeout=DEADLINE) as end:
            head = "GET /hot HTTP/1.1\r\nHost: my.example\r\nOrigin: http://my.example\r\n"
            end.sendall(f"{head}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n".encode())
            said = end.recv(1 << 16)
            while not said.endswith(b"\r\n\r\n"):
                said += end.recv(1 << 16)
            assert said.startswith(b"HTTP/1.1 101 ")
            for word in (b"one", b"two"):
                end.sendall(word)
                assert end.recv(100) == word
        server.kill()
        wait_for(lambda: not vm.payloads("one"))  # its connections may end before its socket does
        assert not answers(address)
        assert not answers(address)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=DEADLINE)
        assert child.returncode == 130
        assert errors.count(b"nothing listens on port 3000 of the session; start") == 1
    assert json.loads(serai(host, "show", "one", "--json").stdout)["forwards"] == []


@pytest.mark.usefixtures("unharmed")
def test_the_host_program_may_be_killed_at_its_preview(vm: Vm, program: dict[str, Any]) -> None:
    (program["args"][3] / "go").touch()
    child = subprocess.Popen(**program)
    assert child.stdout is not None
    while b"preview:" not in child.stdout.readline():
        assert child.poll() is None
    child.kill()
    child.communicate(timeout=DEADLINE)
    done = subprocess.run(**program, stderr=-1, check=False, timeout=DEADLINE)
    # It may have been archived in the moment before it was killed.
    assert b"preview: 2\n" in done.stdout or b" is done" in done.stderr, done.stderr
    (session,) = [each for each in vm.sessions().values() if each["state"] == "archived"]
    vm.call("remove", name=session["name"])


@pytest.mark.usefixtures("unharmed", "one")
def test_ctrl_c_right_after_the_url_is_an_ordinary_end(host: dict[str, str]) -> None:
    with running(host, "forward", "one", "3000", "--local", "0") as (child, url):
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=DEADLINE)
    assert url.startswith("http://")
    assert (child.returncode, errors) == (130, b"")
