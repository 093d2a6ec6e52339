"""Programs that use a secret which their session does not have, and the search for it in there.

``python -m tests.support.secrets_in_use DIRECTORY [NAME …]`` tries all, or those named, and writes
their rows of docs/clients.md; `invoke secrets` installs them in DIRECTORY before.

The origin asks for a credential, and answers 401 without it. It holds back half of an answer: the
session is searched while its program has just used the secret and waits, and again when it has
ended.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from serai.runtime.sandbox import cgroups
from tests.support import site, table
from tests.support.clients import PAGE
from tests.support.fake_vm import Vm
from tests.support.origins import DEADLINE
from tests.support.secret_origin import HOSTS, Origin, listening
from tests.support.secret_search import Search, new_value
from tests.support.secret_users import ECHO, GIT, USERS, User
from tests.support.site import HELLO
from tests.support.waiting import wait_for


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
        folder, pid, vm = stack.enter_context(site.placed(tuple(HOSTS)))
        origin = Origin(folder)
        stack.enter_context(listening(origin, pid))
        site.configure(vm, folder, visible)
        vm.start()
        vm.call("create", name="bare")
        vm.call("policy.allow", name="bare", rules=list(HOSTS))
        yield Place(site.Site(vm, folder), origin)


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
