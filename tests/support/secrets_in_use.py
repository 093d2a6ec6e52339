"""Programs that use a secret which their session does not have, and the search for it in there.

``python -m tests.support.secrets_in_use DIRECTORY [NAME …]`` tries all, or those named, and writes
their rows of docs/clients.md; `invoke secrets` installs them in DIRECTORY before.

The origin asks for a credential, and answers 401 without it. It holds back half of an answer: the
session is searched while its program has just used the secret and waits, and again when it has
ended.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import secrets
import ssl
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import quote

from serai.runtime.sandbox import cgroups
from tests.support import git_server, site, table
from tests.support.clients import PAGE
from tests.support.fake_vm import Vm, opened
from tests.support.network import Names, dns, inside, outside
from tests.support.origins import DEADLINE, read_body
from tests.support.peers import site as web
from tests.support.site import ADDRESS, HELLO
from tests.support.waiting import wait_for

PIECE = 1 << 22
WAITS = 120.0
"""So long the origin holds an answer back at most."""
SEEN_INSIDE = ("tmp", "run", "dev/shm", "var/tmp", "root", "home")
HOSTS = {
    "api.anthropic.com": "x-api-key: {}",
    "api.openai.com": "Authorization: Bearer {}",
    "github.com": "basic x-access-token",
    "gitlab.com": "basic oauth2",
    "npm.test": "Authorization: Bearer {}",
    "pypi.test": "basic __token__",
    "echo.test": "Authorization: Bearer {}",
}
"""The origin's names, and what each asks for; its public ones lead to the test's own origin."""


@dataclass(frozen=True)
class User:
    """A program that uses a secret. ``script`` prints HELLO when it got what it wanted, and has
    ``$d``, DIRECTORY; ``held`` is the request whose answer is held back, and ``bind`` what
    policy.bind is told."""

    name: str
    version: str
    script: str
    bind: dict[str, Any]
    place: str
    held: str


def python(package: str, code: str, host: str, place: str, held: str) -> User:
    """With an SDK of DIRECTORY, as it is when it is made: all it knows is in the environment."""
    run = "env PYTHONPATH=$d/py/new python3 -c"
    said = f"{run} 'import importlib.metadata as m; print(m.version(\"{package}\"))'"
    bind = {"secret": package, "hosts": [host]}
    return User(f"Python {package}", said, f"{run} '{code}'", bind, place, held)


ASKED = 'm = [{"role": "user", "content": "hi"}]\n'
NODE = (
    'const A = require("@anthropic-ai/sdk"), c = new (A.default || A)(), a = {model: "m",'
    ' max_tokens: 9, messages: [{role: "user", content: "hi"}]};'
    "(async () => { console.log((await c.messages.create(a)).content[0].text);"
    " for await (const e of c.messages.stream(a)) if (e.delta && e.delta.text)"
    " console.log(e.delta.text) })()"
)
GIT = "git -c user.name=x -c user.email=x@a.test"
USERS = (
    python(
        "anthropic",
        f"import anthropic\n{ASKED}c = anthropic.Anthropic()\n"
        'a = {"model": "m", "max_tokens": 9, "messages": m}\n'
        "print(c.messages.create(**a).content[0].text)\n"
        "with c.messages.stream(**a) as s:\n    print(*s.text_stream)\n",
        "api.anthropic.com",
        "`x-api-key`",
        "/v1/messages stream",
    ),
    python(
        "openai",
        f'import openai\n{ASKED}a = {{"model": "m", "messages": m}}\nc = openai.OpenAI()\n'
        "print(c.chat.completions.create(**a).choices[0].message.content)\n"
        "for e in c.chat.completions.create(**a, stream=True):\n"
        "    print(e.choices[0].delta.content)\n",
        "api.openai.com",
        "`Authorization: Bearer`",
        "/v1/chat/completions stream",
    ),
    User(
        "Node @anthropic-ai/sdk",
        'grep -o \'"version": *"[0-9.]*\' $d/js/sdk/node_modules/@anthropic-ai/sdk/package.json',
        f"env NODE_PATH=$d/js/sdk/node_modules $d/bin/node -e '{NODE}'",
        {"secret": "anthropic", "hosts": ["api.anthropic.com"]},
        "`x-api-key`",
        "/v1/messages stream",
    ),
    User(
        "git clone",
        "git --version",
        "git clone -q https://github.com/thing.git g && cat g/file",
        {"secret": "github"},
        "Basic",
        "POST /thing.git/git-upload-pack",
    ),
    User(
        "git push",
        "git --version",
        'url="https://oauth2:$GITLAB_TOKEN@gitlab.com/thing.git" && git clone -q "$url" g && cd g'
        f" && {GIT} commit -q --allow-empty -m more"
        " && git push -q origin HEAD:refs/heads/$RANDOM$RANDOM && cat file",
        {"secret": "gitlab"},
        "the placeholder, in Basic",
        "POST /thing.git/git-receive-pack",
    ),
    User(
        "npm",
        "npm --version",
        'echo "//npm.test/npm/:_authToken=\\${NPM_TOKEN}" >.npmrc && npm install'
        " --fetch-retries=0 --cache c --registry https://npm.test/npm/ thing"
        " && node -e 'require(\"thing\")'",
        {"secret": "npm", "hosts": ["npm.test"]},
        "`Authorization: Bearer`",
        "GET /npm/thing/thing-1.0.0.tgz",
    ),
    User(
        "pip",
        "python3 -m pip --version",
        "python3 -m pip install -q --retries 0 --no-cache-dir --disable-pip-version-check --target"
        ' t -i "https://__token__:$TWINE_PASSWORD@pypi.test/simple/" thing'
        " && PYTHONPATH=t python3 -m thing",
        {"secret": "pypi", "hosts": ["pypi.test"]},
        "Basic",
        "GET /simple/thing/thing-1.0-py3-none-any.whl",
    ),
)
URLLIB = User(
    "Python urllib",
    "python3 --version",
    'python3 -c "import os, urllib.request as u; k = os.environ[\\"API_KEY\\"]; r = u.Request('
    "\\\"https://api.openai.com/hello\\\", headers={'Authorization': 'Bearer ' + k});"
    ' print(u.urlopen(r).read())"',
    {
        "secret": "key",
        "hosts": ["api.openai.com"],
        "header": "Authorization: Bearer {}",
        "variable": "API_KEY",
    },
    "`Authorization: Bearer`",
    "GET /hello",
)
"""What every build host has: `make test` tries it."""
ECHO = User(
    "an origin that sends back what it got",
    "",
    "curl -sS --fail https://echo.test/hello",
    {"secret": "echo", "hosts": ["echo.test"], "header": "Authorization: Bearer {}"},
    "`Authorization: Bearer`",
    "GET /hello",
)


def new_value() -> str:
    """A secret whose encoded forms all differ from it."""
    return f"sk/{secrets.token_urlsafe(24)}+{secrets.token_urlsafe(6)}=="


def forms(value: str) -> dict[str, bytes]:
    """How a value may stand in memory or in a file; of base64 what its neighbours do not change."""
    data = value.encode()
    found = {"raw": data, "raw, UTF-16": value.encode("utf-16-le"), "hex": data.hex().encode()}
    found["URL-encoded"] = quote(value, safe="").encode()
    for before in range(3):
        text = base64.b64encode(bytes(before) + data)
        first = -(-before * 8 // 6)
        last = (before + len(data)) * 8 // 6
        found[f"base64, {before} before"] = text[first:last]
        urlsafe = text.translate(bytes.maketrans(b"+/", b"-_"))[first:last]
        if urlsafe != text[first:last]:
            found[f"base64url, {before} before"] = urlsafe
    return found


@dataclass
class Search:
    """For one value, wherever a session may have it; ``found`` says where and how, ``looked`` at
    how many bytes of what."""

    value: str
    found: set[tuple[str, str]] = field(default_factory=set)
    looked: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._forms = forms(self.value)
        self._overlap = max(map(len, self._forms.values()))

    def data(self, where: str, data: bytes) -> None:
        self.looked[where] = self.looked.get(where, 0) + len(data)
        self.found |= {(where, form) for form, text in self._forms.items() if text in data}

    def file(self, where: str, path: Path) -> None:
        """A file's content, and its name. What is gone meanwhile has nothing."""
        with contextlib.suppress(OSError):
            self.data(where, os.fsencode(path))
            if stat.S_ISREG(path.stat().st_mode):
                with path.open("rb") as opened_file:
                    self._pieces(where, opened_file.read)

    def tree(self, where: str, top: Path) -> None:
        for folder, _, names in os.walk(top):
            for name in names:
                if not (Path(folder) / name).is_symlink():
                    self.file(where, Path(folder) / name)
                else:
                    self.data(where, os.fsencode(os.readlink(Path(folder) / name)))  # noqa: PTH115

    def process(self, pid: int) -> None:
        """Environment, command line, memory and open files."""
        top = Path(f"/proc/{pid}")
        with contextlib.suppress(OSError):
            self.data("environment", (top / "environ").read_bytes())
            self.data("command line", (top / "cmdline").read_bytes())
            self.memory("memory", pid)
            for each in (top / "fd").iterdir():
                self.file("open file", each)

    def inside(self, pids: Sequence[int]) -> None:
        """The files that the processes see: not those of the VM, which the outermost sees."""
        done = {Path("/proc/self/ns/mnt").stat().st_ino}
        for pid in pids:
            top = Path(f"/proc/{pid}")
            with contextlib.suppress(OSError):
                if (top / "root").samefile("/") or (view := (top / "ns/mnt").stat().st_ino) in done:
                    continue
                done.add(view)
                for name in SEEN_INSIDE:
                    self.tree(f"/{name}", top / "root" / name)

    def memory(self, where: str, pid: int) -> None:
        maps = Path(f"/proc/{pid}/maps").read_text()
        with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
            for line in maps.splitlines():
                bounds, rights = line.split()[:2]
                start, end = (int(each, 16) for each in bounds.split("-"))
                if "r" in rights and not line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                    with contextlib.suppress(OSError):
                        memory.seek(start)
                        self._pieces(where, partial(_at_most, memory.read, end - start, [0]))

    def _pieces(self, where: str, read: Any) -> None:
        kept = b""
        while piece := read(PIECE):
            self.data(where, kept + piece)
            kept = (kept + piece)[-self._overlap :]


def _at_most(read: Any, size: int, done: list[int], wanted: int) -> bytes:
    data: bytes = read(min(wanted, size - done[0]))
    done[0] += len(data)
    return data


@dataclass
class Origin:
    """``arrived`` are the names whose credential came, ``refused`` those where it did not; ``hold``
    is the request whose answer is held back."""

    folder: Path
    values: dict[str, str] = field(default_factory=dict)
    arrived: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    hold: str = ""
    held: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)

    def expect(self, host: str, value: str, hold: str) -> None:
        """From now on ``host`` wants this value, and one request waits."""
        self.values[host], self.hold = value, hold
        self.arrived.clear()
        self.refused.clear()
        self.held.clear()
        self.go.clear()

    def wait(self) -> None:
        """Hold back what a program waits for, once."""
        self.hold = ""
        self.held.set()
        self.go.wait(WAITS)

    def knows(self, host: str, headers: Any) -> bool:
        """Whether the host's credential is in there, where the host wants it."""
        wanted, value = HOSTS[host], self.values.get(host, "")
        kind, _, user = wanted.partition(" ")
        if kind == "basic":
            pair = base64.b64encode(f"{user}:{value}".encode()).decode()
            return bool(value) and headers.get_all("Authorization") == [f"Basic {pair}"]
        name, _, template = wanted.partition(": ")
        return bool(value) and headers.get_all(name) == [template.replace("{}", value)]


class Handler(web.Handler):
    """Packages as files, git, and the two APIs as those of the SDKs' makers answer."""

    origin: Origin
    scheme = "https"

    def do_GET(self) -> None:  # noqa: N802 - http.server finds it by this name
        host = self.headers["Host"]
        stream = cast("BinaryIO", self.rfile)
        body = read_body(stream, (self.requestline, list(self.headers.items())))
        if not self.origin.knows(host, self.headers):
            self.origin.refused.append(host)
            more = {"WWW-Authenticate": 'Basic realm="x"'} if "basic" in HOSTS[host] else {}
            return self.send(401, more, b'{"error": {"message": "who are you?"}}')
        self.origin.arrived.append(host)
        if host == "echo.test":
            return self.send(200, {}, f"{HELLO}\n{self.headers}".encode())
        if host.startswith("git"):
            answer = git_server.answered(self.origin.folder / "www/git", self, body)
            return self.send(*answer)
        if self.command == "POST":
            return self.api(json.loads(body))
        return super().do_GET()

    do_POST = do_GET  # noqa: N815  # http.server finds it by this name

    def copyfile(self, source: Any, _outputfile: Any) -> None:
        self.pour(source.read())

    def api(self, asked: dict[str, Any]) -> None:
        """A model's answer, in one or in events."""
        anthropic = self.path == "/v1/messages"
        if not asked.get("stream"):
            return self.send(200, {}, json.dumps(MESSAGE if anthropic else COMPLETION).encode())
        events = MESSAGE_EVENTS if anthropic else [*COMPLETION_EVENTS, "[DONE]"]
        text = "".join(
            (f"event: {each['type']}\n" if anthropic else "")
            + f"data: {each if isinstance(each, str) else json.dumps(each)}\n\n"
            for each in events
        )
        self.path += " stream"
        return self.send(200, {"Content-Type": "text/event-stream"}, text.encode())

    def send(self, status: int, fields: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **fields}.items():
            if name != "Content-Length":
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.pour(body)

    def pour(self, body: bytes) -> None:
        half = len(body) // 2
        self.wfile.write(body[:half])
        self.wfile.flush()
        if self.origin.hold and self.origin.hold in f"{self.command} {self.path}":
            self.origin.wait()
        self.wfile.write(body[half:])


USAGE = {"input_tokens": 1, "output_tokens": 1}
MESSAGE: dict[str, Any] = {
    **{"id": "msg_1", "type": "message", "role": "assistant", "model": "m"},
    **{"content": [{"type": "text", "text": HELLO}], "stop_reason": "end_turn"},
    **{"stop_sequence": None, "usage": USAGE},
}
MESSAGE_EVENTS: list[Any] = [
    {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    *(
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
        for text in HELLO.split()
    ),
    {"type": "content_block_stop", "index": 0},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 1},
    },
    {"type": "message_stop"},
]
_COMPLETION = {"id": "c", "created": 1, "model": "m"}
COMPLETION: dict[str, Any] = {
    **{**_COMPLETION, "object": "chat.completion", "usage": None},
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": HELLO},
            "finish_reason": "stop",
        }
    ],
}
COMPLETION_EVENTS: list[Any] = [
    {
        **{**_COMPLETION, "object": "chat.completion.chunk"},
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
    }
    for text in HELLO.split()
]


@dataclass(frozen=True)
class Place:
    """A VM and its origin. The session ``bare`` may go everywhere, and is bound to nothing."""

    site: site.Site
    origin: Origin

    @property
    def vm(self) -> Vm:
        return self.site.vm

    def processes(self, session: str) -> list[int]:
        """All that runs in the session's unit: the bridge too."""
        files = (self.vm.cgroup / session).rglob("cgroup.procs")
        own = (self.vm.cgroup / session / "cgroup.procs", *files)
        return sorted({int(pid) for each in own for pid in each.read_text().split()})

    def search(self, session: str, searched: Search) -> None:
        """The session as it is now, and all that the VM has written down."""
        pids = self.processes(session)
        for pid in pids:
            searched.process(pid)
        searched.inside(pids)
        searched.tree("home", self.vm.paths.sessions / session)
        for name in ("gate.log", "sessiond.log"):
            searched.file("log", self.vm.root / name)
        searched.tree("audit log", self.vm.paths.audit)
        searched.tree("file of the VM", self.vm.root)
        for method, params in (
            ("list", {}),
            ("secret.list", {}),
            ("show", {"name": session}),
            ("policy.show", {"name": session}),
            ("policy.explain", {"name": session, "target": "https://api.openai.com/v1"}),
        ):
            searched.data("answer", json.dumps(self.vm.call(method, **params)).encode())

    def popen(self, session: str, script: str) -> subprocess.Popen[bytes]:
        start = 'w=$(mktemp -d) && cd "$w" && eval "$1"; s=$?; cd && rm -rf "$w"; exit $s'
        return subprocess.Popen(
            [*self.vm.command("exec", session, "--"), "bash", "-c", start, "bash", script],
            env=self.vm.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )


@contextmanager
def serving(visible: Sequence[str] = ()) -> Iterator[Place]:
    """A VM whose sessions see ``visible`` too, and the origin with all its names."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="site-", dir="/srv")))
        folder.chmod(0o755)
        site.certify(folder, tuple(HOSTS))
        site.fill(folder / "www")
        pid, prefix = stack.enter_context(outside(folder))
        vm = stack.enter_context(opened(prefix, f'[tls]\nroots = "{folder}/ca.pem"\n'))
        wait_for(vm.paths.gate_control.exists)
        assert vm.gate is not None
        names = Names(dns(vm.gate.pid))
        stack.callback(names.close)
        names.answers.update({name: [[ADDRESS]] for name in HOSTS})
        origin = Origin(folder)
        stack.enter_context(_listening(origin, pid))
        site.configure(vm, folder, visible)
        vm.start()
        vm.call("create", name="bare")
        vm.call("policy.allow", name="bare", rules=list(HOSTS))
        yield Place(site.Site(vm, folder), origin)


@contextmanager
def _listening(origin: Origin, pid: int) -> Iterator[None]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(origin.folder / "site.pem")
    handler = partial(
        type("Here", (Handler,), {"origin": origin}), directory=str(origin.folder / "www")
    )
    with inside(pid):
        server = ThreadingHTTPServer((ADDRESS, 443), handler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True)
class Use:
    """What came of a use: ``wrong`` is what went wrong, ``without`` whether it is refused without
    a binding."""

    user: User
    version: str
    wrong: str
    arrived: int
    search: Search
    without: bool
    said: str
    cores: set[str]


def used(place: Place, user: User, directory: str = "") -> Use:
    """Bind a new secret in a new session, use it, and search for it meanwhile and afterwards."""
    vm, origin, start = place.vm, place.origin, f"d={directory}; "
    host = (user.bind.get("hosts") or [f"{user.bind['secret']}.com"])[0]
    name, searched = "user", Search(new_value())
    vm.call("create", name=name)
    vm.call("secret.set", name=user.bind["secret"], value=searched.value)
    vm.call("policy.bind", name=name, **user.bind)
    origin.expect(host, searched.value, user.held)
    process = place.popen(name, start + user.script)
    try:
        wait_for(lambda: origin.held.is_set() or process.poll() is not None)
        held = origin.held.is_set()
        if held:
            place.search(name, searched)
        # The rest of the unit has systemd's LimitCORE, which nobody sets here.
        payload = [pid for each in vm.payloads(name) for pid in cgroups.members(each)]
        cores = {_core(pid) for pid in payload}
    finally:
        origin.go.set()
        said, _ = process.communicate(timeout=DEADLINE)
    searched.data("what it printed", said)
    place.search(name, searched)
    arrived = origin.arrived.count(host)
    wrong = "" if process.returncode == 0 and HELLO.split()[-1].encode() in said else "failed"
    wrong = wrong or ("" if held else "nothing was held back")
    variable = "; ".join(f"export {each}=x" for each in sorted(_variables(vm, name)))
    origin.expect(host, searched.value, "")
    without = place.site.run("bare", f"{start}{variable or ':'}; {user.script}")
    refused = without[0] != 0 and host in origin.refused and host not in origin.arrived
    _, version = place.site.run("bare", f"{start}{user.version or ':'}")
    number = re.search(r"\d+(\.\d+)+", version)
    shown = said.decode(errors="replace")
    vm.call("remove", name=name)
    return Use(user, number[0] if number else "", wrong, arrived, searched, refused, shown, cores)


def _variables(vm: Vm, session: str) -> set[str]:
    state = json.loads((vm.paths.gate_state / f"{session}.json").read_text())
    known = {"SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"}
    return {
        name
        for name, value in state["environment"].items()
        if name not in known and value.startswith("serai-")
    }


def _core(pid: int) -> str:
    """The most that a process's core dump may have: 1 byte is none."""
    limits = Path(f"/proc/{pid}/limits").read_text()
    return next(line.split()[4] for line in limits.splitlines() if "core file" in line)


KEPT = """
import os, sys, urllib.parse, base64, subprocess
value = sys.stdin.readline().strip()
open("/tmp/kept", "w").write(base64.b64encode(b"user:" + value.encode()).decode())
open(os.environ["HOME"] + "/kept", "w").write(urllib.parse.quote(value, safe=""))
gone = open("/dev/shm/gone", "w+")
gone.write(value.encode().hex()), gone.flush()
os.unlink("/dev/shm/gone")
wide = value.encode("utf-16-le")
child = subprocess.Popen(["sleep", "60"], env={"KEPT": value})
print(value, flush=True)
sys.stdin.readline()
child.kill(), child.wait()
"""
EXPECTED = {
    ("/tmp", "base64, 2 before"),
    ("home", "URL-encoded"),
    ("open file", "hex"),
    ("memory", "raw"),
    ("memory", "raw, UTF-16"),
    ("environment", "raw"),
    ("what it printed", "raw"),
    ("audit log", "raw"),
    ("log", "raw"),
    ("memory of the gate", "raw"),
}


def put_there(place: Place) -> set[tuple[str, str]]:
    """The counter-check: what of EXPECTED the search does not find, where all of it is there."""
    vm, searched = place.vm, Search(new_value())
    vm.call("create", name="careless")
    vm.call("secret.set", name="careless", value=searched.value)
    log, audit = vm.root / "gate.log", vm.paths.audit / "put-there"
    before = log.read_bytes()
    process = place.popen("careless", f"python3 -c '{KEPT}'")
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(f"{searched.value}\n".encode())
        process.stdin.flush()
        searched.data("what it printed", process.stdout.readline())
        with log.open("ab") as opened_log:
            opened_log.write(searched.value.encode())
        audit.write_text(searched.value)
        place.search("careless", searched)
        assert vm.gate is not None
        searched.memory("memory of the gate", vm.gate.pid)
    finally:
        process.communicate(b"\n", timeout=DEADLINE)
        audit.unlink(missing_ok=True)
        log.write_bytes(before)
        vm.call("remove", name="careless")
    return EXPECTED - searched.found


def fetch_only(place: Place) -> str:
    """With git-fetch alone: a clone works, and what git says of a push."""
    vm, value = place.vm, new_value()
    vm.call("create", name="reader")
    vm.call("secret.set", name="github", value=value)
    vm.call("policy.allow", name="reader", rules=["github.com git-fetch"])
    vm.call("policy.bind", name="reader", secret="github")
    place.origin.expect("github.com", value, "")
    status, said = place.site.run(
        "reader",
        "git clone -q https://github.com/thing.git g && cat g/file && cd g"
        f" && {GIT} commit -q --allow-empty -m more && git push origin HEAD:refs/heads/more",
    )
    vm.call("remove", name="reader")
    assert HELLO in said, said
    assert status != 0, "the push was taken"
    return said


def cells(use: Use) -> Iterator[str]:
    yield f"{use.user.name} {use.version}".strip()
    yield use.user.place
    yield f"**no: {use.wrong}**" if use.wrong or not use.arrived else "yes"
    yield "401" if use.without else "**something else**"
    places = sorted({where for where, _ in use.search.found})
    yield f"**in {', '.join(places)}**" if places else "nowhere"


def main(directory: str, *names: str) -> int:
    """Try all, or those of these names, and write the table into the page."""
    rows, wrong = {}, 0
    with serving([directory]) as place:
        missing = put_there(place)
        print("put there on purpose, and not found:", missing or "nothing", flush=True)
        for user in (*USERS, ECHO):
            if not names or user.name in names:
                use = used(place, user, directory)
                rows[user.name] = f"| {' | '.join(cells(use))} |"
                print(rows[user.name], use.search.looked, use.cores, flush=True)
                good = not use.wrong and use.arrived and use.without and use.cores == {"1"}
                if not good or bool(use.search.found) != (user is ECHO):
                    wrong += 1
                    print(use.said, use.search.found, use.arrived, flush=True)
        print("with git-fetch alone:", fetch_only(place), flush=True)
    start = "<!-- The secrets: `invoke secrets` writes them. -->\n"
    head = "| program | how the secret is sent | it arrived | without a binding | found inside |\n"
    head += "|---|---|---|---|---|\n"
    table.write(PAGE, start, head, rows, [each.name for each in (*USERS, ECHO)])
    return 1 if wrong or missing else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
