"""The audit log in the hands of the real rsyslog: lines are counted, through restarts of all."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256

import pytest

from serai.image.container import peers
from serai.image.container.container import Container, booted
from serai.image.settings import Settings
from serai.runtime.syslog import CONNECTION
from tests.support.waiting import wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

# Its own socket: /dev/log is journald's, which reads no RFC 5424.
RSYSLOG = """
global(maxMessageSize="64k")
module(load="imuxsock" SysSock.Use="off")
module(load="imtcp")
input(type="imuxsock" Socket="/run/rsyslog/serai.sock" CreatePath="on" UseSpecialParser="off"
      Ruleset="serai")
input(type="imtcp" port="601" address="127.0.0.1" Ruleset="serai")
template(name="raw" type="string" string="%rawmsg%\\n")
template(name="parsed" type="string"
         string="%protocol-version% %syslogfacility% %app-name% %msgid% %structured-data%\\n")
ruleset(name="serai") {
  action(type="omfile" file="/var/log/serai" template="raw")
  action(type="omfile" file="/var/log/serai.parsed" template="parsed")
}
"""
LINE = re.compile(r'<(\d+)>1 \S+ \S+ serai-audit - \w+ \[serai@32473 seq="(\d+)" hash="(\w+)"')
# Each is one entry; nothing listens there.
ASK = "for n in $(seq 40); do curl -sm 5 -o /dev/null http://a.test/; done"


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    root = peers.equipped(Settings.of())
    with booted(root, tmp_path_factory.mktemp("syslog")) as found:
        found.run("tee", "/etc/rsyslog.conf", stdin=RSYSLOG)
        found.shell("systemctl start rsyslog && serai create one")
        yield found


def received(container: Container) -> list[int]:
    """The numbers of the lines that rsyslog wrote, each with the hash of its line.

    It makes the file with the first one, and may be in the middle of the last one.
    """
    found = []
    *lines, _ = container.run("cat", "/var/log/serai", check=False).stdout.split("\n")
    for line in lines:
        match = LINE.match(line)
        assert match, line
        assert match[1] in ("108", "109", "110")  # the facility is audit
        assert sha256(line.partition("] ")[2].encode()).hexdigest() == match[3]
        found.append(int(match[2]))
    return found


def last(container: Container) -> int:
    (line,) = container.shell("serai audit -n 1 --json").splitlines()
    return int(json.loads(line)["seq"])


def flush(container: Container) -> None:
    """Execs are noted in their order, a moment later: when this one is, those before it are."""

    def noted() -> int:
        lines = container.shell("serai audit -n 1000 --json").splitlines()
        return sum(entry.get("command") == "true" for entry in map(json.loads, lines))

    before = noted()
    container.shell("serai exec one -- true")
    wait_for(lambda: noted() > before)


def everything_arrives(container: Container) -> Counter[int]:
    flush(container)
    end = last(container)
    wait_for(lambda: end in received(container), 60)
    counts = Counter(received(container))
    assert sorted(counts) == list(range(1, max(counts) + 1))
    return counts


def afresh(container: Container, address: str) -> None:
    """Forward to that address, from the log's first line on."""
    container.run("tee", "/etc/serai/syslog.toml", stdin=f'address = "{address}"\n')
    container.shell(
        "systemctl stop serai-audit-syslog; rm -rf /var/lib/private/serai-audit-syslog;"
        " systemctl stop rsyslog; rm -f /var/log/serai*; systemctl start rsyslog;"
        " systemctl start serai-audit-syslog"
    )


@pytest.mark.parametrize("address", ["/run/rsyslog/serai.sock", "tcp://127.0.0.1:601"])
def test_no_line_is_lost_or_doubled_by_restarts(container: Container, address: str) -> None:
    afresh(container, address)
    doubled: set[int] = set()
    for unit in ("serai-audit-syslog", "rsyslog", "serai-gate", "serai-sessiond"):
        container.shell(
            f"(serai exec one -- sh -c '{ASK}') & sleep 0.2; systemctl restart {unit}; wait"
        )
        container.shell("serai reopen one")  # its connections ended with the gate
        counts = everything_arrives(container)
        before, doubled = doubled, {n for n, count in counts.items() if count > 1}
        # By TCP rsyslog itself may leave some lines of a connection unread.
        allowed = CONNECTION if unit == "rsyslog" and address.startswith("tcp") else 0
        assert len(doubled - before) <= allowed, (unit, doubled - before)


def test_a_server_that_is_away_is_waited_for_and_a_kill_doubles_one(container: Container) -> None:
    afresh(container, "/run/rsyslog/serai.sock")
    everything_arrives(container)
    before = Counter(received(container))
    # Nobody is there for a while.
    container.shell("systemctl stop rsyslog")
    container.shell(f"serai exec one -- sh -c '{ASK}'")
    container.shell("systemctl start rsyslog")
    # A denial each, the exec, and that of flush().
    assert everything_arrives(container).total() - before.total() == 42
    for _ in range(3):
        container.shell(
            f"(serai exec one -- sh -c '{ASK}') & sleep 0.3;"
            " systemctl kill -s KILL serai-audit-syslog; wait"
        )
    doubled = everything_arrives(container) - Counter(set(received(container)))
    assert doubled.total() - (before.total() - len(before)) <= 3
    parsed = container.shell("head -1 /var/log/serai.parsed")
    assert parsed.startswith("1 13 serai-audit ") and '[serai@32473 seq="' in parsed


def test_it_runs_with_nothing_of_the_vm_but_the_log(container: Container) -> None:
    shown = container.shell("systemctl show -p User,DynamicUser,NRestarts serai-audit-syslog")
    assert "DynamicUser=yes" in shown
    mode = container.shell("stat -c %a /var/lib/private/serai-audit-syslog")
    assert mode == "700"
    log = container.shell("journalctl -u serai-audit-syslog -o cat")
    assert "Traceback" not in log
