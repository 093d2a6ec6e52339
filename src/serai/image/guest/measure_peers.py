"""What a first command behind walls takes here and with others, and prints one JSON array.

`invoke bench --only peers` sends it into a container that has the others (container/others.py). Run
as ``python3 FILE`` by root, on the standard library and the runtime alone.

Everybody gets the same command, true. Each is started alone and 100 times at once, in turns, and is
compared with a bare bubblewrap that was started as often. What is started is what a person or a
program would start: mostly a process, but for Serai and srt also a call of what runs already. The
time ends when the last command has ended; what is left to be removed then is removed untimed.
"""

from __future__ import annotations

import itertools
import json
import os
import selectors
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, "/usr/lib/serai/python")

from serai.common.errors import SeraiError
from serai.runtime.client import Client

ROUNDS, WARM = 12, 2
BURST, BURST_ROUNDS = 100, 3
DEADLINE = 300.0
TRUE, SLEEP = "/usr/bin/true", "/usr/bin/sleep"
WORK = Path("/sessions/peers")
"""On the disk of the sessions, so that everybody waits for the same one."""
HOMES = Path("/srv/peers")
"""For srt, since bubblewrap 0.12 must be able to list all directories above."""
NOBODY = 65534
NUMBERS = itertools.count(1)
NEW = "Serai, a new session"

# What a session cannot do, as far as systemd has a word for it.
WALLS = (
    *("DynamicUser=yes", "PrivateNetwork=yes", "PrivateIPC=yes", "PrivateUsers=yes"),
    *("ProtectSystem=strict", "ProtectHome=yes", "PrivateTmp=yes", "PrivateDevices=yes"),
    *("ProtectProc=invisible", "ProcSubset=pid", "ProtectHostname=yes", "ProtectClock=yes"),
    *("ProtectKernelTunables=yes", "ProtectKernelModules=yes", "ProtectKernelLogs=yes"),
    *("ProtectControlGroups=yes", "NoNewPrivileges=yes", "CapabilityBoundingSet="),
    *("RestrictNamespaces=yes", "RestrictSUIDSGID=yes", "RestrictRealtime=yes"),
    *("LockPersonality=yes", "RestrictAddressFamilies=AF_INET AF_INET6"),
    *("SystemCallArchitectures=native", "SystemCallFilter=@system-service"),
    *("SystemCallFilter=~@mount @privileged @keyring io_uring_setup", "MemoryMax=2G"),
    *("TasksMax=2048", "UMask=0077"),
)
SYSTEMD = ("/usr/bin/systemd-run", "--quiet", "--collect", "--wait")

NODE = "/usr/local/bin/node"
SRT = "/usr/local/lib/srt/node_modules/@anthropic-ai/sandbox-runtime/dist"
SRT_SETTINGS = {
    "network": {"allowedDomains": ["example.com"], "deniedDomains": []},
    "filesystem": {"denyRead": ["/root"], "allowWrite": ["."], "denyWrite": []},
}
# As a program does that keeps it: one process and its proxies, and a sandbox for each command.
SRT_LIBRARY = """
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { readFileSync } from 'node:fs'
import { SandboxManager } from '%s/index.js'
await SandboxManager.initialize(JSON.parse(readFileSync(process.argv[2], 'utf8')))
const one = async () => {
  const command = await SandboxManager.wrapWithSandbox('/usr/bin/true')
  const child = spawn(command, { shell: true, stdio: ['ignore', 'ignore', 'inherit'] })
  return new Promise((done) => child.on('exit', (status) => done(status === 0 ? 0 : 1)))
}
for await (const line of createInterface({ input: process.stdin })) {
  const begin = performance.now()
  const failed = await Promise.all(Array.from({ length: Number(line) }, one))
  const took = performance.now() - begin
  console.log(JSON.stringify([took, failed.reduce((a, b) => a + b, 0)]))
}
await SandboxManager.reset()
process.exit(0)
"""

Taken = tuple[float, int]
"""Milliseconds until the last command had ended, and how many did not end well."""


def nothing() -> None:
    """What is left to be cleared away after most."""


@dataclass(frozen=True)
class Contender:
    """How to get a command behind walls: so many at once, and what to clear away after that."""

    name: str
    start: Callable[[int], Taken]
    clear: Callable[[], None] = nothing
    alone: list[float] = field(default_factory=list)
    bursts: list[float] = field(default_factory=list)
    cleared: list[float] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)


def processes(
    argv: Callable[[], Sequence[str]],
    count: int,
    uid: int = 0,
    files: Sequence[tuple[int, str]] = (),
) -> Taken:
    """Start ``count`` processes at once and wait for all; ``uid`` is whose they are.

    A process that is small and that user's starts them (posix_spawn(3) changes no users), with
    ``files`` open at those descriptors.
    """
    commands = [list(argv()) for _ in range(count)]
    opened = [(os.POSIX_SPAWN_OPEN, number, path, 0, 0) for number, path in files]
    opened += [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
    opened += [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    environment = {"PATH": "/usr/local/bin:/usr/bin:/usr/sbin", "HOME": "/", "LANG": "C"}
    theirs, ours = os.pipe()
    if os.fork() == 0:
        if uid:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        os.chdir("/")
        begin = time.perf_counter()
        for each in commands:
            os.posix_spawn(each[0], each, environment, file_actions=opened)
        failed = sum(os.wait()[1] != 0 for _ in commands)
        took = 1000 * (time.perf_counter() - begin)
        os.write(ours, json.dumps([took, failed]).encode())
        os._exit(0)
    os.close(ours)
    with os.fdopen(theirs, "rb") as answer:
        took, failed = json.loads(answer.read())
    os.wait()
    return took, failed


def bare(name: str, uid: int) -> Contender:
    """bubblewrap with a session's own options: walls without a way out, a limit or a manager."""
    files = [
        (3, f"/usr/lib/serai/seccomp/{os.uname().machine}/baseline.bpf"),
        (4, f"/run/serai/sessions/{name}/args"),
    ]
    argv = ["/usr/bin/bwrap", "--args", "4", "--seccomp", "3", "--", TRUE]
    return Contender("bare bubblewrap", lambda count: processes(lambda: argv, count, uid, files))


def serai(client: Client, kept: str) -> list[Contender]:
    """A session for each command, and commands in one that runs, by the socket and by the shell."""

    def clear() -> None:
        for each in client.call("list")["sessions"]:
            if each["name"] != kept and each["state"] != "removing":
                client.call("remove", name=each["name"])
        end = time.monotonic() + DEADLINE
        while len(client.call("list")["sessions"]) > 1 and time.monotonic() < end:
            time.sleep(0.01)

    def fresh() -> list[tuple[str, dict[str, Any]]]:
        name = f"peer-{next(NUMBERS)}"
        return [
            ("create", {"name": name}),
            ("exec", {"name": name, "argv": [TRUE], "stdio": "null"}),
        ]

    run = ["/usr/bin/serai", "run", "--", TRUE]
    running = [("exec", {"name": kept, "argv": [TRUE], "stdio": "null"})]
    command = ["/usr/bin/serai", "exec", kept, "--", TRUE]
    return [
        Contender(NEW, lambda count: calls(fresh, count), clear),
        Contender("serai run", lambda count: processes(lambda: run, count), clear),
        Contender("Serai, in a running session", lambda count: calls(lambda: running, count)),
        Contender("serai exec", lambda count: processes(lambda: command, count)),
    ]


def calls(plan: Callable[[], list[tuple[str, dict[str, Any]]]], count: int) -> Taken:
    """What ``count`` clients take who each connect and make the calls of a plan one by one."""
    failed = 0
    begin = time.perf_counter()
    with selectors.DefaultSelector() as waiting:
        for _ in range(count):
            own, rest = Client(timeout=DEADLINE), iter(plan())
            waiting.register(own, selectors.EVENT_READ, [own, rest, own.ask(*next(rest))])
        while waiting.get_map():
            for key, _ in waiting.select(DEADLINE):
                own, rest, number = key.data
                try:
                    said = own.wait(number)
                    failed += said.get("status", 0) != 0
                    call = next(rest, None)
                except SeraiError as error:
                    print(error, file=sys.stderr)
                    failed, call = failed + 1, None
                if call is not None:
                    key.data[2] = own.ask(*call)
                    continue
                waiting.unregister(own)
                own.close()
    return 1000 * (time.perf_counter() - begin), failed


def systemd() -> Contender:
    """A transient unit with the walls of a session."""
    argv = [*SYSTEMD, *(f"--property={wall}" for wall in WALLS), "--", TRUE]
    return Contender("systemd-run, DynamicUser", lambda count: processes(lambda: argv, count))


def podman() -> list[Contender]:
    """An image with next to nothing in it, run by root with either runtime.

    In this container crun can't raise the limit for locked memory and so gets no cgroup, and runc
    can't limit tasks.
    """
    image, quiet = WORK / "image", subprocess.DEVNULL
    linked = subprocess.run(["/usr/bin/ldd", TRUE], capture_output=True, text=True, check=True)
    libraries = [word for word in linked.stdout.split() if word.startswith("/")]
    for path in [TRUE, SLEEP, *libraries]:
        (image / path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, image / path.lstrip("/"))
    for name in ("etc", "proc", "sys", "dev", "tmp"):
        (image / name).mkdir()
    archive = WORK / "image.tar"
    subprocess.run(["/usr/bin/tar", "-C", image, "-cf", archive, "."], check=True)
    program = ["/usr/bin/podman", "--root", str(WORK / "podman"), "--runroot", "/run/podman-peers"]

    def command(*argv: str | Path) -> None:
        subprocess.run([*program, *argv], check=True, stdout=quiet)

    command("import", "--quiet", archive, "localhost/small")
    walls = ["--network=none", "--read-only", "--cap-drop=all", "--user=1000:1000"]
    walls += ["--security-opt=no-new-privileges"]

    def run(runtime: str, special: str) -> Contender:
        argv = [*program, f"--runtime={runtime}", "run", *walls, special, "localhost/small", TRUE]
        clear = partial(command, "container", "prune", "--force")
        return Contender(f"podman run, {runtime}", lambda n: processes(lambda: argv, n), clear)

    kept = [*walls, "--pids-limit=0", "--name=kept", "localhost/small", SLEEP, "infinity"]
    command("--runtime=runc", "run", "--detach", *kept)
    argv = [*program, "exec", "kept", TRUE]
    return [
        run("crun", "--cgroups=disabled"),
        run("runc", "--pids-limit=0"),
        Contender("podman exec, runc", lambda count: processes(lambda: argv, count)),
    ]


def srt() -> list[Contender]:
    """srt by its command, which starts proxies for each, and as a library, which shares them.

    Each command has a directory of its own: in one that is shared, they remove each other's mount
    points and fail.
    """
    settings, program = WORK / "srt.json", WORK / "srt.mjs"
    settings.write_text(json.dumps(SRT_SETTINGS))
    program.write_text(SRT_LIBRARY % SRT)

    def fresh() -> Path:
        made = HOMES / f"srt-{next(NUMBERS)}"
        made.mkdir()
        os.chown(made, NOBODY, NOBODY)
        return made

    def argv() -> list[str]:
        home = fresh()
        enter = ["/usr/bin/env", f"--chdir={home}", f"HOME={home}"]
        return [*enter, NODE, f"{SRT}/cli.js", "--settings", str(settings), TRUE]

    library = subprocess.Popen(
        [NODE, program, settings],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=(home := fresh()),
        env={"PATH": "/usr/local/bin:/usr/bin", "HOME": str(home)},
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        text=True,
    )

    def ask(count: int) -> Taken:
        print(count, file=library.stdin, flush=True)
        took, failed = json.loads(library.stdout.readline() if library.stdout else "")
        return took, failed

    return [
        Contender("srt", lambda count: processes(argv, count, NOBODY)),
        Contender("srt, as a library", ask),
    ]


def measured(ways: Sequence[Contender]) -> list[dict[str, Any]]:
    """Everybody in turns, alone and then at once; rows beside the first way."""
    for turn in range(ROUNDS + WARM):
        for way in ways:
            took, failed = way.start(1)
            way.clear()
            if failed:
                raise SystemExit(f"{way.name} does not start")
            if turn >= WARM:
                way.alone.append(took)
    for _ in range(BURST_ROUNDS):
        for way in ways:
            took, failed = way.start(BURST)
            begin = time.perf_counter()
            way.clear()
            way.cleared.append(1000 * (time.perf_counter() - begin))
            way.bursts.append(took)
            way.failed.append(failed)
    rows = []
    for title, values in (
        ("first command", {way.name: statistics.median(way.alone) for way in ways}),
        (f"{BURST} at once", {way.name: statistics.median(way.bursts) for way in ways}),
    ):
        for name, value in values.items():
            baseline = values[ways[0].name]
            rows.append(
                {"name": f"{title}, {name}", "value": value, "unit": "ms", "baseline": baseline}
            )
    for way in ways:
        name = f"{BURST} at once, failed, {way.name}"
        rows.append({"name": name, "value": sum(way.failed), "unit": "", "baseline": None})
        if way.clear is not nothing:
            name = f"{BURST} cleared away, {way.name}"
            value = statistics.median(way.cleared)
            rows.append({"name": name, "value": value, "unit": "ms", "baseline": None})
    return rows


def main() -> None:
    WORK.mkdir(mode=0o755)
    HOMES.mkdir(mode=0o755)
    with Client(timeout=DEADLINE) as client:
        session = client.call("create", name="bench")
        ways = [
            bare("bench", session["uid"]),
            *serai(client, "bench"),
            systemd(),
            *podman(),
            *srt(),
        ]
        print(json.dumps(measured(ways)))


if __name__ == "__main__":
    main()
