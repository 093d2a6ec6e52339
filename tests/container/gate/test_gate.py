"""The gate as clients see it: real ones, from inside a session, against real servers.

The container has no network but its loopback. The origin (nginx, git, sshd) and the WebSocket
server have names in its /etc/hosts; a session is let to them by name, and by rules for their
addresses.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serai.image.container import peers
from serai.image.container.container import DEADLINE, Container, booted
from serai.image.run import started
from serai.image.settings import Settings
from tests.conftest import ROOT
from tests.support.gate_clients import CLIENTS, HELLO, THERE, Client
from tests.support.waiting import wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

PEERS = ROOT / "tests/support/peers"
SECRET = "open-sesame"
# What a site does whose hosts have certificates of its own CA.
SESSION_TOML = """
[environment]
SSL_CERT_FILE = "/opt/peers/ca.pem"
GIT_SSL_CAINFO = "/opt/peers/ca.pem"
REQUESTS_CA_BUNDLE = "/opt/peers/ca.pem"
NODE_EXTRA_CA_CERTS = "/opt/peers/ca.pem"
"""
SSH = """
    mkdir -m 700 ~/.ssh
    ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519
    echo 'StrictHostKeyChecking accept-new' >~/.ssh/config
    cat ~/.ssh/id_ed25519.pub
"""


EACH_CLIENT = pytest.mark.parametrize("client", CLIENTS, ids=lambda each: each.name)


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """With the servers, a session ``free`` that may reach them, and ``walled`` that may not."""
    root = peers.equipped(Settings.of())
    with booted(root, tmp_path_factory.mktemp("gate")) as found:
        found.copy([PEERS])
        found.shell(f"chmod -R a+rX /root/peers && mv /root/peers {THERE} && {THERE}/start")
        found.run("tee", "/etc/serai/session.toml", stdin=SESSION_TOML)
        found.shell("systemctl restart serai-sessiond && serai create free && serai create walled")
        found.shell("serai policy set free --allow '*.test' --allow 127.0.0.10 --allow 127.0.0.11")
        keys = [found.shell(f"serai exec {name} -- sh -c {shlex.quote(SSH)}") for name in BOTH]
        found.run("tee", "/home/git/.ssh/authorized_keys", stdin="\n".join(keys) + "\n")
        yield found


BOTH = ("free", "walled")


def inside(container: Container, name: str, command: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command in a session, with the environment that it gives."""
    return container.run("serai", "exec", name, "--", "bash", "-c", command, check=False)


def audited(container: Container, count: int = 1000) -> list[dict[str, Any]]:
    said = container.shell(f"serai audit --json --lines {count}")
    return [json.loads(line) for line in said.splitlines()]


def last(container: Container) -> int:
    return max((int(entry["seq"]) for entry in audited(container, 1)), default=0)


def since(container: Container, seq: int, event: str, name: str) -> list[dict[str, Any]]:
    """The audit log's entries about a session after one."""
    entries = [entry for entry in audited(container) if entry["seq"] > seq]
    return [each for each in entries if (each["event"], each.get("session")) == (event, name)]


def verified(container: Container) -> bool:
    return "the audit log is whole" in container.shell("serai audit --verify")


def test_what_clients_are_tried_with(container: Container) -> None:
    """Their versions, for whoever reads the report (pytest -s)."""
    programs = {
        "curl": "curl --version",
        "wget": "wget --version",
        "git": "git --version",
        "ssh": "ssh -V 2>&1",
        "pip": "pip --version",
        "npm": "npm --version",
        "node": "node --version",
        "undici": "node -p 'require(\"undici/package.json\").version'",
        "requests": "python3 -c 'import requests; print(requests.__version__)'",
        "websockets": "python3 -c 'import websockets.version as v; print(v.version)'",
        "java": "java --version",
        "nginx": "nginx -v 2>&1",
        "tinyproxy": "tinyproxy -v",
    }
    for name, command in programs.items():
        said = container.shell(command).splitlines()
        assert said, name
        print(f"{name}: {said[0]}")


@EACH_CLIENT
def test_a_client_gets_through(container: Container, client: Client) -> None:
    before = last(container)
    done = inside(container, "free", client.command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert client.prints in done.stdout
    decided = since(container, before, "decision", "free")
    where = {(each["host"], each["port"], each["allowed"], each["rule"]) for each in decided}
    assert where == {(client.host, client.port, True, "allow *.test")}
    assert {each["address"] for each in decided} <= {"127.0.0.10", "127.0.0.11"}
    wait_for(lambda: len(since(container, before, "closed", "free")) == len(decided), DEADLINE)
    closed = since(container, before, "closed", "free")
    assert sum(each["received"] for each in closed) >= len(client.prints)


@EACH_CLIENT
def test_the_same_client_is_denied_to_another_session(container: Container, client: Client) -> None:
    before = last(container)
    done = inside(container, "walled", client.command)
    assert done.returncode != 0
    assert client.prints not in done.stdout
    assert client.denied in done.stdout + done.stderr
    decided = since(container, before, "decision", "walled")
    where = {(each["host"], each["port"], each["allowed"], each["rule"]) for each in decided}
    assert where == {(client.host, client.port, False, "default deny")}
    assert {each["address"] for each in decided} == {None}, "a denied name was looked up"


def test_much_goes_through_whole(container: Container) -> None:
    whole = container.shell("sha256sum </srv/www/large")
    for url in ("http://origin.test/large", "https://origin.test/large"):
        for way in ("", "--proxy socks5h://127.0.0.1:1080"):
            command = f"curl -sSf {way} {url} {url} | sha256sum"
            twice = container.shell("cat /srv/www/large /srv/www/large | sha256sum")
            assert inside(container, "free", command).stdout.strip() == twice, (url, way)
    assert whole != container.shell("sha256sum </srv/www/hello")


def test_a_denial_says_what_to_do(container: Container) -> None:
    said = inside(container, "walled", "curl -sS http://origin.test/hello").stdout
    first, *_, data = said.splitlines()
    assert first.startswith("Serai's gate denied origin.test:80 to session walled: ")
    assert "allow it with: serai policy allow walled origin.test:80" in said
    as_json = "curl -sS -H 'Accept: application/json' http://origin.test/hello"
    told = json.loads(inside(container, "walled", as_json).stdout)
    assert told == json.loads(data)
    assert (told["host"], told["session"], told["rule"]) == (
        "origin.test",
        "walled",
        "default deny",
    )
    seen = inside(container, "walled", "curl -sv https://origin.test/hello")
    assert f"403 {first}".replace(":80", ":443") in seen.stderr
    # Names that are allowed and lead to where nobody let them go.
    for name, kind, address in (
        ("private.test", "private range 10.0.0.0/8", "10.0.0.1"),
        ("metadata.test", "metadata address 169.254.169.254", "169.254.169.254"),
    ):
        said = inside(container, "free", f"curl -sS http://{name}/").stdout
        assert f"Serai's gate denied {name}:80 to session free: " in said
        assert kind in said
        # To allow the name, which is allowed, would not help.
        assert f"allow it with: serai policy allow free {address}:80" in said


def test_a_policy_holds_from_the_next_connection_on(container: Container, tmp_path: Path) -> None:
    container.shell("serai create changing")
    hello = "curl -sSf http://origin.test/hello"
    assert inside(container, "changing", hello).returncode != 0
    container.shell("serai policy allow changing origin.test echo.test:8080 127.0.0.10 127.0.0.11")
    assert inside(container, "changing", hello).stdout.strip() == HELLO
    explained = container.shell("serai policy explain changing origin.test:80")
    assert explained.startswith("origin.test:80: allowed")
    hold = "exec 3<>/dev/tcp/127.0.0.1/3128; cat <&3 & "
    hold += r"printf 'CONNECT echo.test:8080 HTTP/1.1\r\nHost: echo.test:8080\r\n\r\n' >&3; wait"
    argv = container.argv(["serai", "exec", "changing", "--", "bash", "-c", hold])
    log = tmp_path / "tunnel"
    with started(argv, log=log) as tunnel:
        wait_for(lambda: "200 Connection established" in log.read_text(), DEADLINE)
        container.shell("serai policy deny changing origin.test --cut")
        assert tunnel.poll() is None
        assert "cut: 1 " in container.shell("serai policy deny changing echo.test:8080 --cut")
        tunnel.wait(DEADLINE)
    assert inside(container, "changing", hello).returncode != 0
    assert "deny: echo.test:8080" in container.shell("serai policy show changing")


def test_there_is_no_way_past_the_gate(container: Container) -> None:
    # The sink is there: what the container itself sends arrives.
    container.shell("echo probe >/dev/udp/127.0.0.10/9999; echo probe >/dev/tcp/127.0.0.10/9999")
    heard = "cut -d' ' -f1 /run/sink | sort"
    wait_for(lambda: container.shell(heard, check=False).split() == ["tcp", "udp"], DEADLINE)
    for name in BOTH:
        elsewhere = "/run/serai/gate/{free,walled}/http.sock /run/serai-gate/control.sock"
        done = inside(container, name, f"python3 {THERE}/direct.py {elsewhere}")
        found = json.loads(done.stdout)
        assert found["dns"], "there is a name server to ask"
        assert set(found["dns"]) <= {"ENETUNREACH", "ECONNREFUSED"}
        found.pop("dns")
        assert found == {
            "name": "gaierror: Temporary failure in name resolution",
            "udp outside": "ENETUNREACH",
            "udp broadcast": "ENETUNREACH",
            "udp over IPv6": "ENETUNREACH",
            # What is at this address here is the sandbox's own loopback.
            "udp to the machine": "ECONNREFUSED",
            "udp to a name server": "ECONNREFUSED",
            "tcp outside": "ENETUNREACH",
            "tcp to the machine": "ECONNREFUSED",
            "tcp to the origin": "ECONNREFUSED",
            "raw": "EPERM",
            "unix": "EPERM",
            "folder": "EACCES",
            "other": ["ENOENT"] * 3,
        }
        done = inside(container, name, "curl -v --noproxy '*' http://192.0.2.1")
        assert done.returncode == 7
        assert "Network is unreachable" in done.stderr
        assert inside(container, name, "getent hosts origin.test").returncode == 2
    assert container.shell(heard).split() == ["tcp", "udp"]


def test_only_a_sessions_own_user_can_open_its_sockets(container: Container) -> None:
    """From outside, where the other's are to be seen at all."""
    for own, other in (BOTH, BOTH[::-1]):
        for protocol in ("http", "socks"):
            reach = "import socket; socket.socket(socket.AF_UNIX).connect"
            mine = f"{reach}('/run/serai/gate/{own}/{protocol}.sock')"
            yours = f"{reach}('/run/serai/gate/{other}/{protocol}.sock')"
            user = ("runuser", "-u", own, "--", "python3", "-c")
            assert container.run(*user, mine, check=False).returncode == 0
            assert "PermissionError" in container.run(*user, yours, check=False).stderr
    control = "import socket; socket.socket(socket.AF_UNIX).connect('/run/serai-gate/control.sock')"
    done = container.run("runuser", "-u", "free", "--", "python3", "-c", control, check=False)
    assert "PermissionError" in done.stderr


def test_a_stopped_session_leaves_no_way_out_behind(container: Container) -> None:
    container.shell("serai create brief")
    socats, known = "pgrep -c -u brief -x socat || true", "ls /run/serai-gate/sessions"
    assert container.shell(socats) == "2"
    assert container.shell("ls /run/serai/gate/brief").split() == ["http.sock", "socks.sock"]
    assert "brief" in container.shell(known)
    container.shell("serai stop brief")
    assert container.shell(socats) == "0"
    assert container.run("test", "-e", "/run/serai/gate/brief", check=False).returncode == 1
    assert "brief" not in container.shell(known)
    container.shell("serai switch brief")
    assert inside(container, "brief", "curl -sS http://origin.test/").stdout.startswith("Serai's")


def test_sessions_outlive_a_gate_that_is_killed_under_load(
    container: Container, tmp_path: Path
) -> None:
    pids = "systemctl show -P MainPID serai-session@free serai-session@walled serai-sessiond"
    running, policy = container.shell(pids), container.shell("serai policy show free")
    stop, log = "/sessions/free/stop", tmp_path / "load"
    load = ["python3", f"{THERE}/load.py", "http://origin.test/hello", stop]
    with started(container.argv(["serai", "exec", "free", "--", *load]), log=log) as process:
        wait_for(lambda: "loaded" in log.read_text(), DEADLINE)
        gate = container.shell("systemctl show -P MainPID serai-gate")
        killed = time.monotonic()
        container.shell(f"kill -9 {gate}")
        # Denied again: a gate that forgot its sessions would not even answer.
        denied = "curl -sS http://origin.test/hello"
        wait_for(
            lambda: "to session walled" in inside(container, "walled", denied).stdout, DEADLINE
        )
        wait_for(
            lambda: container.shell("systemctl show -P MainPID serai-gate") not in ("0", gate),
            DEADLINE,
        )
        assert inside(container, "free", denied).stdout.strip() == HELLO
        container.shell(f"touch {stop}")
        assert process.wait(DEADLINE) == 0
    told = json.loads(log.read_text().splitlines()[-1])
    again = min(end for start, end in told["answered"] if start > killed)
    before = sum(end < killed for _, end in told["answered"])
    print(
        f"new connections work {again - killed:.2f} s after kill -9; of the requests {before} were"
        f" answered before, {len(told['answered']) - before} after, {told['failed']} were not"
    )
    assert before
    assert told["failed"], "the gate was killed while there was no load"
    assert container.shell(pids) == running
    assert container.shell("serai policy show free") == policy
    assert verified(container)


@pytest.fixture
def parent(container: Container) -> Iterator[Callable[[str], None]]:
    """Sets the gate's table ``upstream`` and starts it again; afterwards it is as it was."""
    settings = "/etc/serai/gate.toml"
    container.shell(f"cp --archive {settings} /root/gate.toml")

    def use(table: str) -> None:
        container.run("tee", settings, stdin=f"[upstream]\n{table}\n")
        container.shell("systemctl restart serai-gate")

    yield use
    container.shell(f"cp --archive /root/gate.toml {settings} && systemctl restart serai-gate")


CREDENTIALS = f'username = "gatekeeper"\npassword = "{SECRET}"'


@pytest.mark.parametrize("address", ["127.0.0.1:8888", "/run/parent.sock"])
def test_a_parent_proxy_whose_credentials_no_session_sees(
    container: Container, parent: Callable[[str], None], address: str
) -> None:
    """At a port, and at a Unix socket as a host application provides it."""
    if address.startswith("/"):
        relay = f"UNIX-LISTEN:{address},fork,mode=666 TCP:127.0.0.1:8888"
        container.shell(f"systemd-run -q --unit=host-socket socat {relay}")
        reach = ("runuser", "-u", "nobody", "--", "socat", "-u", "/dev/null", f"UNIX:{address}")
        wait_for(lambda: container.run(*reach, check=False).returncode == 0, DEADLINE)
    container.shell(": >/run/origin.log; : >/run/parent.log")
    parent(f'kind = "http"\naddress = "{address}"\n{CREDENTIALS}')
    assert container.shell("stat -c '%a %U:%G' /etc/serai/gate.toml") == "640 root:serai-gate"
    before = last(container)
    for url in ("http://origin.test/hello", "https://origin.test/hello"):
        done = inside(container, "free", f"curl -sSf {url}")
        assert done.stdout.strip() == HELLO, done.stderr
        done = inside(container, "free", f"curl -sSf --proxy socks5h://127.0.0.1:1080 {url}")
        assert done.returncode == 0 or "http:" in url, done.stderr
        done = inside(container, "walled", f"curl -sSf {url}")
        assert done.returncode != 0
    # By name, as the parent looks it up.
    decided = since(container, before, "decision", "free")
    assert {(each["host"], each["address"]) for each in decided} == {("origin.test", None)}
    asked = container.shell("grep -c -E 'Request .*(GET|CONNECT)' /run/parent.log")
    assert int(asked) >= 3, "it went past the parent"
    # The origin saw what the parent sends on, and no credentials.
    arrived = container.shell("cat /run/origin.log").splitlines()
    assert "tinyproxy" in arrived[0]
    assert {line.split("|")[1] for line in arrived} == {"-"}
    seen = inside(container, "free", "cat /etc/serai/gate.toml")
    assert "Permission denied" in seen.stderr
    looked = f"env; grep -rs {SECRET} /etc /run /proc/*/environ /proc/*/cmdline; true"
    assert SECRET not in inside(container, "free", looked).stdout.replace(f"grep -rs {SECRET}", "")
    assert SECRET not in container.shell("serai audit -n 1000; journalctl -u serai-gate --no-pager")


def test_a_parent_proxy_that_refuses_is_no_denial(
    container: Container, parent: Callable[[str], None]
) -> None:
    parent('kind = "http"\naddress = "127.0.0.1:8888"\nusername = "a"\npassword = "wrong-one"')
    said = inside(container, "free", "curl -sv https://origin.test/hello").stderr
    assert "502 Serai's gate allows origin.test:443 but cannot reach it" in said
    assert "wrong-one" not in said
    parent('kind = "http"\naddress = "127.0.0.1:1"')
    said = inside(container, "free", "curl -sS http://origin.test/hello").stdout
    assert "allows origin.test:80 but cannot reach it: the parent proxy" in said


def test_the_audit_log_of_all_that_is_whole(container: Container) -> None:
    """Last, as it is about everything before."""
    assert verified(container)
    folder = "/sessions/.serai/audit"
    assert container.shell(f"stat -c '%a %U' {folder}") == "700 serai-gate"
    newest = container.shell(f"ls {folder}/audit-*.jsonl | tail -1")
    container.shell(f"""sed -i '0,/"allowed":false/s//"allowed":true/' {newest}""")
    done = container.run("serai", "audit", "--verify", check=False)
    assert done.returncode == 1
    assert "was changed" in done.stderr
