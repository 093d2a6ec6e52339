"""Programs that are tried in sessions of a booted container, and the table of what they do.

``python -m tests.support.programs ROOT [NAME …]`` tries all, or those named, and writes their rows
of docs/programs.md; `invoke programs` makes ROOT before. ``programs.toml`` has the programs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import socketserver
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from serai.common import tables
from serai.common.sandboxes import SANDBOXES
from serai.image.container.container import Container, booted
from serai.image.run import run
from tests.support import site, table
from tests.support.network import inside

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/programs.md"
DATA = Path(__file__).with_suffix(".toml")
_SERVERS = site.PROGRAM.parent / "start-for-programs"
START = "<!-- The table: `invoke programs` writes it. -->\n"
HEAD = "| program | what was done | strict | sockets | what helps |\n|---|---|---|---|---|\n"
OURS = "/opt/programs"  # programs of pip and npm
THERE = "/opt/tried"  # what is made for the trial
TIMEOUT = 180  # seconds for a program

_SCRIPT = f"""
set -euo pipefail
o={OURS} t={THERE}
export PATH=$o/bin:$PATH:$o/js/node_modules/.bin:$t
py() {{ PYTHONPATH=$o/py python3 "$@"; }}
"""
_EXEC = 'w=$(mktemp -d) && cd "$w" && (eval "$1"); s=$?; cd && rm -rf "$w"; exit $s'


@dataclass(frozen=True)
class Program:
    """An entry of the data, whose head explains it."""

    does: str
    script: str
    version: str
    debian: tuple[str, ...] = ()
    pip: tuple[str, ...] = ()
    npm: tuple[str, ...] = ()
    red: tuple[str, ...] = ()
    helps: str = ""
    always: bool = False


@dataclass(frozen=True)
class _Data:
    program: Mapping[str, Program]


def programs() -> dict[str, Program]:
    """All of them, by name."""
    return dict(tables.load(_Data, DATA, "programs").program)


def command(script: str) -> list[str]:
    """What runs a program's script in an empty directory of a session."""
    return ["bash", "-c", _EXEC, "bash", _SCRIPT + script]


# --- what they are tried in


class _WayOut(socketserver.ThreadingUnixStreamServer):
    """A parent proxy of the gate's: names that end with .test are the container, others the world.

    It speaks as much of SOCKS5 (RFC 1928) as the gate does.
    """

    daemon_threads = True

    def __init__(self, container: Container) -> None:
        path = Path(f"/proc/{container.pid}/root/run/way-out")
        super().__init__(str(path), _Relay)
        path.chmod(0o666)
        self.container = container


class _Relay(socketserver.StreamRequestHandler):
    server: _WayOut

    def handle(self) -> None:
        self.rfile.read(3)
        self.request.sendall(b"\x05\x00")
        length = self.rfile.read(5)[4]
        host = self.rfile.read(length).decode()
        port = int.from_bytes(self.rfile.read(2), "big")
        try:
            other = self._dial(host, port)
        except OSError:
            self.request.sendall(b"\x05\x05\x00\x01" + bytes(6))
            return
        self.request.sendall(b"\x05\x00\x00\x01" + bytes(6))
        with other:
            back = threading.Thread(target=_copied, args=(other.recv, self.request))
            back.start()
            _copied(self.rfile.read1, other)  # what it has buffered, too
            back.join()

    def _dial(self, host: str, port: int) -> socket.socket:
        if not host.endswith(".test"):
            return socket.create_connection((host, port))
        with inside(self.server.container.pid):
            return socket.create_connection(("127.0.0.1", port))


def _copied(read: Callable[[int], bytes], to: socket.socket) -> None:
    try:
        while data := read(1 << 16):
            to.sendall(data)
        to.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@contextmanager
def serving(root: Path) -> Iterator[Container]:
    """The container booted, with a session for each sandbox that may go to the servers."""
    with tempfile.TemporaryDirectory(prefix="serai-") as work, booted(root, Path(work)) as found:
        server = _WayOut(found)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            prepare(found, Path(work))
            yield found
        finally:
            server.shutdown()


def prepare(container: Container, work: Path) -> None:
    """Make the servers and the sessions."""
    folder = work / "tried"
    folder.mkdir()
    site.fill(folder / "www")
    shutil.copytree(site.PROGRAM.parent / "jvm", folder / "jvm")
    shutil.copytree(site.PROGRAM.parent / "page", folder / "page")
    # It names no registry, so `npm ci` takes its own.
    lock = ["npm", "install", "--package-lock-only", "--omit-lockfile-registry-resolved"]
    run(lock, cwd=folder / "page")
    for each in (site.PROGRAM, _SERVERS):
        shutil.copy(each, folder)
    shutil.copy(ROOT / "roles/toolchain/files/office.c", folder)
    (folder / "serai-get").write_text(serai_get())
    authorities = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
    shutil.copy(authorities, folder / "ca.pem")
    container.copy([folder])
    container.shell(f"mv /root/{folder.name} {THERE} && chown -R root: {THERE}")
    upstream = '[upstream]\nkind = "socks5"\naddress = "/run/way-out"\n'
    container.run("tee", "-a", "/etc/serai/gate.toml", stdin=upstream)
    told, hosts = registries()
    hosts += re.findall(r"https?://([^/\s]+)", container.shell("cat /etc/apt/sources.list"))
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in told.items())
    container.run("tee", "-a", "/etc/serai/session.toml", stdin=lines)
    container.run("bash", f"{THERE}/{_SERVERS.name}")
    for name in SANDBOXES:
        container.run("serai", "create", "--sandbox", name, name)
        rules = [word for host in ("*.test", *hosts) for word in ("--allow", host)]
        container.run("serai", "policy", "set", name, *rules)


def registries() -> tuple[dict[str, str], list[str]]:
    """What sessions are told so that pip and npm go where they go here, and which hosts that is."""
    code = "from pip._internal.models.index import PyPI as p\n"
    code += "print(p.simple_url, p.file_storage_domain)"
    index, files = run([sys.executable, "-c", code]).stdout.split()
    said = run([sys.executable, "-m", "pip", "config", "list"]).stdout
    for key, value in re.findall(r"^\S*\.(index-url)='(.*)'$", said, re.MULTILINE):
        index = value if key else index
    npm = run(["npm", "config", "get", "registry"]).stdout.strip()
    bundle = f"{THERE}/ca.pem"
    names = ("SSL_CERT_FILE", "PIP_CERT", "NODE_EXTRA_CA_CERTS", "npm_config_cafile")
    told = {**dict.fromkeys(names, bundle), "PIP_INDEX_URL": index, "UV_INDEX_URL": index}
    told |= {"npm_config_registry": npm, "npm_config_audit": "false"}
    return told, [urlsplit(index).netloc, files, urlsplit(npm).netloc]


def serai_get() -> str:
    """The program that docs/programs.md has."""
    (found,) = re.findall(r"<!-- serai-get -->\n\n((?:    .*\n|\n)+)", PAGE.read_text())
    return "\n".join(line[4:] for line in str(found).splitlines()) + "\n"


# --- trying, and the table


def tried(container: Container, name: str, script: str) -> str:
    """Run a script in a session: nothing if it ended with 0, or the last of what it said."""
    argv = ["serai", "exec", "--timeout", str(TIMEOUT), name, "--", *command(script)]
    done = container.run(*argv, check=False, timeout=2 * TIMEOUT)
    if done.returncode == 0:
        return ""
    said = (done.stdout + done.stderr).strip().splitlines()
    return f"status {done.returncode}: {' / '.join(said[-6:])}"


def version(container: Container, program: Program) -> str:
    """The first number that its command says, one with dots before all others."""
    argv = ["serai", "exec", SANDBOXES[-1], "--", *command(program.version)]
    done = container.run(*argv, check=False)
    said = done.stdout + done.stderr
    number = re.search(r"\d+(\.\d+)+\w*", said) or re.search(r"\d+", said)
    return number[0] if number and done.returncode == 0 else ""


def row(name: str, program: Program, number: str, failed: Mapping[str, object]) -> str:
    marks = ["**no**" if failed[each] else "yes" for each in SANDBOXES]
    cells = [f"{name} {number}".strip(), program.does, *marks, program.helps]
    return f"| {' | '.join(cells)} |"


def main(root: str, *chosen: str) -> int:
    """Try all, or those of these names, write the table, and say what is not as the data has it."""
    everything = programs()
    rows, wrong = {}, 0
    with serving(Path(root)) as container, ThreadPoolExecutor(len(SANDBOXES)) as pool:
        for name, program in everything.items():
            if chosen and name not in chosen:
                continue
            one = partial(tried, container, script=program.script)
            failed = dict(zip(SANDBOXES, pool.map(one, SANDBOXES), strict=True))
            rows[name] = row(name, program, version(container, program), failed)
            surprises = {n: s for n, s in failed.items() if bool(s) != (n in program.red)}
            wrong += bool(surprises)
            print(rows[name], surprises or "", flush=True)
    table.write(PAGE, START, HEAD, rows, list(everything))
    green = {n: sum(n not in each.red for each in everything.values()) for n in SANDBOXES}
    print(f"of {len(everything)} programs: {green}; {wrong} not as {DATA.name} has it")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
