"""The attacks. Each function returns what it achieved, '' if nothing.

What `serai doctor` looks at is not tried again.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from serai.common import proc
from serai.common.errors import SeraiError
from serai.common.paths import Paths
from serai.runtime.client import Client

from .rogue import (
    DAEMONS,
    DEADLINE,
    Attacker,
    at_work,
    daemon,
    directory,
    run,
    said,
    settled,
    slow,
    source,
    wait_for,
)

RESTART = 30.0  # seconds in which the daemon is there again
EVIL = '{"jsonrpc":"2.0","id":1,"method":"create","params":{"name":"pwned"}}'
AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c")


def closed_descriptors(client: Attacker) -> str:
    """Write into root's connection to sessiond, which took the number of a closed descriptor."""
    say = 'printf "%s" "$0"; printf "%s" "$0" >&2; cat >/dev/null'
    for shut in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        for option in ("", "--tty", "--json"):
            script = f'exec serai exec {client.rogue} {option} -- sh -c "$0" "$1" {shut}'
            said("sh", "-c", script, say, EVIL)
    known = [each["name"] for each in client.call("list")["sessions"]]
    return "a payload has made a session" if "pwned" in known else ""


def files_handed_in(client: Attacker) -> str:
    """Read the file that the caller lets a payload write to."""
    with tempfile.NamedTemporaryFile() as log:
        log.write(b"SECRET\n")
        log.flush()
        os.chmod(log.name, 0o644)  # noqa: PTH101
        look = 'exec serai exec "$0" -- cat /proc/self/fd/1 >>"$1"'
        said("sh", "-c", look, client.rogue, log.name)
        told = Path(log.name).read_text().count("SECRET")
    return f"the payload read {told - 1} lines" if told > 1 else ""


def set_user_id_programs(client: Attacker) -> str:
    """Leave a set-user-ID program or a device outside, in an attached directory."""
    with directory() as path:
        client.call("attach", name=client.rogue, role="outputs", path=str(path))
        try:
            run(client, "set_id")
        finally:
            client.call("detach", name=client.rogue, role="outputs")
        made = path / "made"
        if not made.exists():
            return "it could not be tried: nothing was written"
        return said("find", str(path), "-mindepth", "1", "(", "-perm", "/6000", "-o", *_DEVICES)


_DEVICES = ("-type", "c", "-o", "-type", "b", ")")


def mount_points(client: Attacker) -> str:
    """Remove the VM's mount points through an attached directory."""
    with directory() as path:
        (path / "mounted").mkdir()
        said("mount", "-t", "tmpfs", "none", str(path / "mounted"))
        try:
            client.call("attach", name=client.rogue, role="outputs", path=str(path))
            client.call("detach", name=client.rogue, role="outputs")
        except SeraiError:
            return ""
        finally:
            said("umount", str(path / "mounted"))
    return "a directory with mounts below it was attached to be written"


def links_in_transfers(client: Attacker) -> str:
    """Lead get and put out of the session by links and odd names."""
    script = "ln -s /etc/shadow tmp/link; ln -s / tmp/root; mkfifo tmp/fifo"
    client.exec(client.rogue, ["sh", "-c", script])
    before = Path("/etc/shadow").read_bytes()
    for path in ("link", "root/etc/shadow", "../../../etc/shadow", "/etc/shadow", "fifo"):
        with suppress(SeraiError):
            client.get(client.rogue, "tmp", path)
            return f"get took {path}"
        with suppress(SeraiError):
            client.put(client.rogue, "tmp", path, b"evil")
            return f"put took {path}"
    return "" if Path("/etc/shadow").read_bytes() == before else "/etc/shadow has changed"


def controls_of_terminals(client: Attacker) -> str:
    """Type into root's terminal by the name of a file or a label."""
    client.exec(client.rogue, ["python3", "-c", "open('tmp/\\x1b[2J', 'w').close()"])
    told = said("serai", "ls", client.rogue, "tmp") + said("serai", "show", client.rogue)
    return "an escape was printed" if "\x1b" in told else ""


def traced_threads(client: Attacker) -> str:
    """Keep an exec and the session from ending by threads that ask to be traced."""
    for _ in range(5):
        done = client.exec(client.rogue, ["python3", "-c", source("traced")], timeout=30)
        if done.timed_out:
            return "the exec did not end by itself"
    return _zombies() or _stops(client)


def siblings(client: Attacker) -> str:
    """Leave children to the daemon."""
    for _ in range(5):
        run(client, "siblings")
    return _zombies() or _stops(client)


def _zombies() -> str:
    left = settled(lambda: [pid for pid in proc.children(daemon()) if _is_zombie(pid)])
    return f"{len(left)} zombies are left to sessiond" if left else ""


def _is_zombie(pid: int) -> bool:
    with suppress(OSError):  # it was reaped just now
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    return False


def _stops(client: Attacker) -> str:
    uid = str(client.call("show", name=client.rogue)["uid"])
    client.call("stop", name=client.rogue)
    left = settled(lambda: said("ps", "-o", "pid=", "-U", uid).split())
    client.call("reopen", name=client.rogue)
    return f"{len(left)} processes outlive the session" if left else ""


def stopped_on_the_way_in(client: Attacker) -> str:
    """Stop whatever enters the session, and with it the daemon."""
    return slow("the daemon answered after", lambda: _while_entering(client))


def _while_entering(client: Attacker) -> float:
    longest = 0.0
    with at_work(client, "stopper"):
        entering = [
            subprocess.Popen(
                ["/usr/bin/serai", "exec", client.rogue, "--timeout", "5", "--", "true"],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for _ in range(3)
        ]
        end = time.monotonic() + 15
        while any(each.poll() is None for each in entering) and time.monotonic() < end:
            begin = time.monotonic()
            client.call("show", name=client.witness)
            longest = max(longest, time.monotonic() - begin)
        for each in entering:
            each.kill()
            each.wait()
    return longest


def all_terminals(client: Attacker) -> str:
    """Take all terminals of the VM."""
    with at_work(client, "terminals"):
        done = client.exec(client.witness, ["true"], tty=True, timeout=60)
    return "" if done.status == 0 else f"another session gets none: status {done.status}"


def all_connections(client: Attacker) -> str:
    """Take the gate from others by holding connections."""
    with at_work(client, "connections"):
        answer = run(client, "ask", name=client.witness)
    return "" if " 403 " in answer else f"another session is answered {answer!r}"


def noise_at_the_gate(client: Attacker) -> str:
    """Bring the gate down by requests with any bytes in them."""
    before = daemon(DAEMONS[1])
    seed = random.SystemRandom().randrange(1000)
    run(client, "noise", str(seed))
    if daemon(DAEMONS[1]) != before:
        return f"seed {seed}: it is another process"
    answer = run(client, "ask", name=client.witness)
    return "" if " 403 " in answer else f"seed {seed}: another session is answered {answer!r}"


def lines_in_the_journal(client: Attacker) -> str:
    """Push others' lines out of the journal by connections that fail."""
    unit = f"serai-session@{client.rogue}.service"
    count = ("journalctl", "-q", "--no-pager", "-o", "cat", "-u", unit)
    before = len(said(*count).splitlines())
    run(client, "broken_off")
    more = len(said(*count).splitlines()) - before
    return f"300 connections made {more} lines" if more > 60 else ""  # noqa: PLR2004 - 50, and some


def the_vms_own_addresses(client: Attacker) -> str:
    """Reach the VM's own services by a rule for the network that it is in."""
    found = json.loads(said("ip", "-j", "-4", "address") or "[]")
    own = [info for each in found for info in each["addr_info"] if info["scope"] == "global"]
    for info in own:
        network = ".".join(info["local"].split(".")[:3]) + ".0/24"
        client.call("policy.allow", name=client.rogue, rules=[network], cut=False)
        target = f"{info['local']}:22"
        if client.call("policy.explain", name=client.rogue, target=target)["allowed"]:
            return f"a rule for {network} opens {target}"
    return ""


def logins_outside(client: Attacker) -> str:
    """Run a session's own profile outside its sandbox, when root looks in."""
    lines = "touch /tmp/serai-attack $HOME/outside"
    for name in (".profile", ".bash_profile", ".bashrc"):
        client.exec(client.rogue, ["sh", "-c", 'echo "$1" >"$0"', name, lines])
    for argv in (("su", "-"), ("runuser", "-l")):
        said(*argv, client.rogue, "-c", "true")
    places = (Path("/tmp/serai-attack"), Paths().home(client.rogue) / "outside")  # noqa: S108
    ran = [str(place) for place in places if place.exists()]
    for place in places:
        place.unlink(missing_ok=True)
    return f"it ran: {ran}" if ran else ""


def archived_homes(client: Attacker) -> str:
    """Open an archived home as a user of the VM."""
    client.exec(client.rogue, ["sh", "-c", "echo SECRET >note; chmod 644 note"])
    client.call("archive", name=client.rogue)
    home = Paths().home(client.rogue)
    told = said(*AS_NOBODY, f"chmod 755 {home}; cat {home}/note; touch {home}/planted")
    client.call("reopen", name=client.rogue)
    planted = (home / "planted").exists()
    return "nobody read or wrote it" if "SECRET" in told or planted else ""


def hints_of_others(client: Attacker) -> str:
    """Read as a user of the VM where sessions have their directories."""
    client.call("hints", name=client.rogue)
    look = f"find {Paths().run}/sessions -name 'hints*' -readable 2>/dev/null"
    return said(*AS_NOBODY, look).strip()


def services_of_the_vm(client: Attacker) -> str:
    """Speak to a service of the VM's by its Unix socket, also by one in an attached directory."""
    with directory() as path, ExitStack() as services:
        client.call("attach", name=client.rogue, role="outputs", path=str(path))
        inside = f"{Paths().home(client.rogue)}/mnt/outputs/"
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
            for address in (f"{path}/{kind}", f"\0serai-attack-{kind}"):
                service = services.enter_context(socket.socket(socket.AF_UNIX, kind))
                service.bind(address)
                if kind != socket.SOCK_DGRAM:
                    service.listen(64)
        for each in path.iterdir():
            each.chmod(0o777)
        targets = [f"{inside}{each.name}" for each in path.iterdir()]
        targets += [f"@serai-attack-{each.name}" for each in path.iterdir()]
        targets += ["/run/serai/gate/http.sock", "/run/serai/gate/socks.sock", str(Paths().control)]
        try:
            return run(client, "services", *targets)
        finally:
            client.call("detach", name=client.rogue, role="outputs")


def lingering_descriptors(client: Attacker) -> str:
    """Stop the gate for all by descriptors that take long to close."""
    return slow("the gate answered after", lambda: _while_closing(client))


def _while_closing(client: Attacker) -> float:
    argv = ["python3", "-c", source("lingering")]
    client.call("exec", name=client.rogue, argv=argv, detach=True, stdio="null")
    slowest, end = 0.0, time.monotonic() + 10
    while time.monotonic() < end:
        begin = time.monotonic()
        client.call("policy.explain", name=client.witness, target="example.com")
        slowest = max(slowest, time.monotonic() - begin)
        time.sleep(0.1)
    return slowest


def a_listener_of_its_own(client: Attacker) -> str:
    """Let through what a filter asks the daemon about."""
    told = run(client, "listener")
    return told if "let through" in told else ""


def signals_to_all(client: Attacker) -> str:
    """End the session for all that run in it, by signals to whatever there is."""
    client.exec(client.rogue, ["sh", "-c", "kill -9 1 2; kill -TERM 1; kill -9 -1"])
    status = client.exec(client.rogue, ["true"]).status
    state = client.call("show", name=client.rogue)["state"]
    return "" if (status, state) == (0, "ready") else f"exec ends with {status}, it is {state}"


def a_session_without_its_bridge(client: Attacker) -> str:
    """Delay the daemon's next start by killing what it could wait for."""
    client.exec(client.rogue, ["sh", "-c", "kill -STOP 1; kill -9 2 3"])
    before = daemon()
    said("systemctl", "kill", "--signal=KILL", DAEMONS[0])
    begin = time.monotonic()

    def answers() -> bool:
        with suppress(SeraiError), Client(timeout=DEADLINE) as fresh:
            return bool(fresh.call("list")) and daemon() != before
        return False

    wait_for(answers)
    took = time.monotonic() - begin
    return f"it took {took:.0f} s" if took > RESTART else ""


ATTACKS = (
    *(closed_descriptors, files_handed_in, set_user_id_programs, mount_points, links_in_transfers),
    *(controls_of_terminals, traced_threads, siblings, stopped_on_the_way_in, all_terminals),
    *(all_connections, noise_at_the_gate, lines_in_the_journal, the_vms_own_addresses),
    *(logins_outside, archived_homes, hints_of_others),
    *(services_of_the_vm, lingering_descriptors, a_listener_of_its_own, signals_to_all),
    a_session_without_its_bridge,  # the last: afterwards it is another daemon
)
