"""Ordinary programs do their work under both filters, inside a real sandbox."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator

import pytest

from serai.runtime.sandbox import bwrap
from tests.support.sandbox import (
    Result,
    Room,
    make_session,
    make_top,
    open_room,
    possible_settings,
)


@pytest.fixture(scope="module")
def room() -> Iterator[Room]:
    with make_top() as top, open_room(make_session(top, "blue", 40006)) as opened:
        yield opened


def check(result: Result, wanted: str = "") -> None:
    assert result.status == 0, result.output
    assert wanted in result.output


PYTHON = {
    "processes": (
        "import multiprocessing as m\n"
        "for kind in ('fork', 'spawn'):\n"
        "    with m.get_context(kind).Pool(2) as pool: print(pool.map(abs, [-1, -2]))",
        "[1, 2]\n[1, 2]\n",
    ),
    "shared memory and semaphores": (
        "from multiprocessing import Lock, shared_memory as s\n"
        "lock = Lock()\nwith lock: m = s.SharedMemory(create=True, size=10)\nm.close(); m.unlink()",
        "",
    ),
    "asyncio, threads and a child": (
        "import asyncio\n"
        "async def main():\n"
        "    await asyncio.to_thread(print, 'thread', flush=True)\n"
        "    p = await asyncio.create_subprocess_exec('echo', 'child')\n"
        "    await p.wait()\n"
        "asyncio.run(main())",
        "thread\nchild\n",
    ),
    "asyncio server on the loopback": (
        "import asyncio\n"
        "async def serve(r, w): w.write(await r.read(4)); w.close()\n"
        "async def main():\n"
        "    s = await asyncio.start_server(serve, '127.0.0.1', 0)\n"
        "    r, w = await asyncio.open_connection(*s.sockets[0].getsockname())\n"
        "    w.write(b'ping'); print(await r.read())\n"
        "asyncio.run(main())",
        "ping",
    ),
    "sqlite": (
        "import sqlite3\nd = sqlite3.connect('a.db')\nd.execute('pragma journal_mode=wal')\n"
        "d.execute('create table t(x)'); d.execute('insert into t values (7)'); d.commit()\n"
        "print(d.execute('select x from t').fetchall())",
        "[(7,)]",
    ),
    "names and interfaces": (
        "import getpass, pwd, os, socket\n"
        "print(getpass.getuser(), socket.gethostbyname('localhost'))\n"
        "print(socket.gethostbyname(socket.gethostname()), socket.if_nameindex())",
        "blue 127.0.0.1\n127.0.1.1 [(1, 'lo')]",
    ),
}


@pytest.mark.parametrize("what", PYTHON)
def test_python(room: Room, what: str) -> None:
    code, wanted = PYTHON[what]
    check(room.python(code), wanted)


def need(program: str) -> None:
    if shutil.which(program, path="/usr/bin") is None:
        pytest.skip(f"{program} is not installed on this machine")


NODE = """\
const { Worker } = require("worker_threads");
const { execFileSync, fork } = require("child_process");
console.log(execFileSync("echo", ["child"]).toString().trim());
new Worker("require('worker_threads').parentPort.postMessage('worker')", { eval: true })
    .on("message", console.log);
const server = require("http").createServer((q, a) => a.end("served")).listen(0, "127.0.0.1", () =>
    require("http").get({ port: server.address().port }, (answer) =>
        answer.on("data", (part) => { console.log(part.toString()); server.close(); })));
"""


def test_node(room: Room) -> None:
    need("node")
    result = room.run(["node", "-e", NODE])
    check(result, "child")
    assert {"worker", "served"} <= set(result.output.split())


def test_git(room: Room) -> None:
    need("git")
    script = (
        "git init -q r && cd r && git config user.email a@b && git config user.name a && "
        "echo 1 >f && git add f && git commit -qm one && git clone -q . ../c && git gc -q && "
        "git -C ../c log --oneline | wc -l"
    )
    check(room.run(["bash", "-ec", script]), "1")


def test_git_packs_in_the_end_and_leaves_no_lock(room: Room) -> None:
    """Its automatic gc would go to the background, where it is killed with the command."""
    need("git")
    script = (
        "git init -q gc && cd gc && git config user.email a@b && git config user.name a && "
        "git config gc.auto 50 && mkdir s && for i in $(seq 1500); do echo $i >s/$i; done && "
        "ls s | sed s,^,s/, | git hash-object -w --stdin-paths >/dev/null && "
        "git commit -qm one --allow-empty && find .git/objects/pack -name '*.idx' | wc -l && "
        "find .git -name '*.lock' -o -name gc.pid -o -name 'tmp_*'"
    )
    assert room.run(["bash", "-ec", script]).output.splitlines()[-1:] == ["1"]


def test_a_program_with_a_sanitizer(room: Room) -> None:
    need("gcc")
    script = (
        "echo 'int puts(const char *); int main(void){return puts(\"ran\") < 0;}' >x.c && "
        "for kind in address leak undefined; do gcc -fsanitize=$kind -o x x.c && ./x; done"
    )
    assert room.run(["bash", "-ec", script]).output == "ran\nran\nran\n"


def test_ssh_goes_through_the_gate_whatever_the_vm_has_configured() -> None:
    need("ssh")
    with make_top() as top:
        session, settings = make_session(top, "blue", 40007), possible_settings()
        site = top / "ssh_config.d"
        site.mkdir()
        (site / "site.conf").write_text("Host *\n  ServerAliveInterval 30\n")
        options = bwrap.arguments(settings, session)
        # What this machine lacks: the session's user, and a site's own file.
        passwd = ["--ro-bind", str(session.state / "users/passwd"), "/etc/passwd"]
        placed = ["--ro-bind", str(site), "/etc/ssh/ssh_config.d"]
        at = options.index("--remount-ro", options.index("/etc/hosts"))
        options[at:at] = [*passwd, *placed]
        with open_room(session, settings, options=options) as room:
            said = room.run(["ssh", "-G", "example.com"])
            check(said, "proxycommand socat - 'PROXY:127.0.0.1:\"%h\":%p,proxyport=3128'\n")
            for name in ("localhost", "127.0.1.1", "::1", "serai"):
                assert "proxycommand" not in room.run(["ssh", "-G", name]).output, name
            # What socat would take for its own words is no more than a name.
            for name in ("a!!CREATE:made,user=root", "a:1,lockfile=made,sndbuf=1", "::2"):
                script = 'ssh -o BatchMode=yes -- "$1" 2>&1 | grep -E "option|user|parameters"'
                assert room.run(["sh", "-c", script, "sh", name]).output == "", name
            own = "mkdir .ssh && echo 'ProxyCommand mine' >.ssh/config && ssh -G a.b"
            check(room.run(["bash", "-ec", own]), "proxycommand mine\n")


def test_git_takes_a_repository_s_own_ssh_command(room: Room) -> None:
    need("git")
    script = (
        "git init -q own && cd own && git config core.sshCommand 'echo USED >&2; false' && "
        "git ls-remote git@origin.test:x"
    )
    assert "USED" in room.run(["bash", "-c", script]).output


def test_gcc_and_make(room: Room) -> None:
    need("gcc")
    need("make")
    script = (
        "mkdir -p m && cd m && "
        "printf '#include <stdio.h>\\nint main(void){puts(\"built\");}' >a.c && "
        "printf 'all: a b\\na: a.c\\n\\tgcc -o a a.c\\nb: a.c\\n\\tgcc -o b a.c\\n' >Makefile && "
        "make -sj2 && ./a && ./b"
    )
    check(room.run(["bash", "-ec", script]), "built\nbuilt")


def test_pip_installs_from_a_local_folder(room: Room) -> None:
    if subprocess.run(["/usr/bin/python3", "-c", "import ensurepip"], check=False).returncode:
        pytest.skip("this machine's Python has no ensurepip")
    info = "tiny_seven-1.dist-info"
    wheels = room.session.home / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "tiny_seven-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_seven.py", "value = 7\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-seven\nVersion: 1\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    script = (
        "python3 -m venv v && v/bin/pip install -q --no-index --find-links wheels tiny-seven && "
        "v/bin/python -c 'import tiny_seven; print(tiny_seven.value)'"
    )
    check(room.run(["bash", "-ec", script], timeout=120), "7")


JAVA = """\
import java.net.*;
import java.util.stream.*;
public class A {
    public static void main(String[] args) throws Exception {
        System.out.println(IntStream.range(0, 1000).parallel().sum());
        try (ServerSocket s = new ServerSocket(0, 1, InetAddress.getLoopbackAddress());
             Socket c = new Socket(s.getInetAddress(), s.getLocalPort())) {
            System.out.println(c.isConnected() + " " + InetAddress.getLocalHost().getHostName());
        }
        new ProcessBuilder("echo", "child").inheritIO().start().waitFor();
    }
}
"""


def test_java(room: Room) -> None:
    need("java")
    (room.session.home / "A.java").write_text(JAVA)
    result = room.run(["bash", "-ec", "javac A.java && java -cp . A || java A.java"], timeout=180)
    check(result, "499500\ntrue serai\nchild")


def test_files_move_between_folders(room: Room) -> None:
    """Landlock refuses that unless it is granted."""
    script = "mkdir one two && echo 1 >one/f && mv one/f two/g && ln two/g one/h && cat one/h"
    check(room.run(["bash", "-ec", script]), "1")
    check(room.run(["python3", "-c", "import os; os.rename('two/g', 'one/g')"]))


def test_tracing_one_s_own_child_works(room: Room) -> None:
    """What the filter leaves of ptrace(2): the child asks for it."""
    code = (
        "import ctypes, os, signal\n"
        "libc = ctypes.CDLL(None)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    libc.ptrace(0, 0, 0, 0)\n"
        "    os.execv('/bin/true', ['true'])\n"
        "_, status = os.waitpid(pid, 0)\n"
        "print(os.WIFSTOPPED(status), os.WSTOPSIG(status) == signal.SIGTRAP)\n"
        "libc.ptrace(7, pid, 0, 0)\n"
        "print(os.waitpid(pid, 0)[1])"
    )
    check(room.python(code), "True True\n0\n")


@pytest.mark.parametrize(
    ("program", "command", "wanted"),
    [
        ("strace", "strace -f -e trace=execve true 2>&1", "exited with 0"),
        ("gdb", "gdb -nx -batch -ex run -ex quit true 2>&1", "exited normally"),
    ],
)
def test_debuggers(room: Room, program: str, command: str, wanted: str) -> None:
    need(program)
    check(room.run(["bash", "-ec", command]), wanted)


def test_a_bridge_that_was_killed_comes_back(room: Room) -> None:
    code = (
        "import os, socket, subprocess, time\n"
        "end = time.monotonic() + 30\n"
        "old = subprocess.check_output(['pgrep', '-x', 'socat'], text=True).split()\n"
        "subprocess.run(['pkill', '-KILL', '-x', 'socat'], check=True)\n"
        "while any(os.path.exists('/proc/' + each) for each in old):\n"
        "    assert time.monotonic() < end\n"
        "for port in (3128, 1080):\n"
        "    while True:\n"
        "        try:\n"
        "            socket.create_connection(('127.0.0.1', port)).close()\n"
        "            break\n"
        "        except OSError:\n"
        "            if time.monotonic() > end: raise\n"
        "print('back')"
    )
    need("pkill")
    check(room.python(code), "back")


def test_the_bridge_carries_both_ports_to_the_gate(room: Room) -> None:
    server = (
        "import socket, sys\n"
        "for name in ('http', 'socks'):\n"
        "    s = socket.socket(socket.AF_UNIX); s.bind(f'{sys.argv[1]}/{name}.sock'); s.listen()\n"
        "    print('listens', flush=True)\n"
        "    said = b''\n"
        "    while not said:  # what the test before left behind may still come in\n"
        "        c, _ = s.accept(); said = c.recv(9)\n"
        "        c.sendall(name.encode() + said) if said else c.close()\n"
        "    c.close()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", server, room.session.gate],
        stdout=subprocess.PIPE,
        user=room.session.uid,
    )
    assert process.stdout is not None
    try:
        for name, port in (("http", 3128), ("socks", 1080)):
            process.stdout.readline()
            code = (
                "import socket\n"
                f"c = socket.create_connection(('127.0.0.1', {port})); c.sendall(b' hello')\n"
                "print(c.recv(99))"
            )
            check(room.python(code), f"{name} hello")
    finally:
        process.kill()
        process.wait()
