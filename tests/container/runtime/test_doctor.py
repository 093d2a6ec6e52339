"""``serai doctor`` in a booted container: what a container lacks is red, and nothing else is."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from serai.image.container.container import DEADLINE, Container
from tests.support.waiting import wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

# There are no cgroup controllers, and systemd-nspawn lets nobody inside make a Landlock domain.
MOST_LINES = 40
"""Of a run in the audit log: who runs the doctor again and again is not to fill it."""
MISSING = {
    "sessions have all controllers",
    "the limit of a session's memory is session.toml's",
    "the limit of a session's tasks is session.toml's",
    "a session's share of CPU is session.toml's",
    "a session's share of the disk is session.toml's",
    "a payload can trace only processes that it started",
}
# Where the build host is a container, not even root may have as many files as session.toml says.
PERHAPS = {"the limit of open files is session.toml's"}


def doctor(container: Container) -> tuple[int, dict[str, Any]]:
    done = container.run("serai", "doctor", "--json", check=False)
    told: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, told


def noted(container: Container, after: int = 0) -> list[dict[str, Any]]:
    """The audit log's entries after one."""
    lines = container.shell("serai audit -n 1000 --json").splitlines()
    return [entry for entry in map(json.loads, lines) if entry["seq"] > after]


def red(told: dict[str, Any]) -> set[str]:
    names = {each["name"] for each in told["checks"] if not each["ok"]}
    # A container's disk is the build host's, which may be nearly full.
    return {name for name in names - PERHAPS if not name.startswith("there is room ")}


def test_what_a_container_lacks_is_all_that_is_wrong(container: Container) -> None:
    before = noted(container)[-1:]
    status, told = doctor(container)
    assert red(told) == MISSING, [each for each in told["checks"] if not each["ok"]]
    assert status == 1
    lines = noted(container, before[0]["seq"] if before else 0)
    assert {entry["event"] for entry in lines} == {"decision", "closed", "operation"}
    assert all(entry["doctor"] for entry in lines)
    assert len(lines) <= MOST_LINES
    assert told["passed"] + told["failed"] == len(told["checks"]) >= 80
    assert all(each["ok"] or each["means"] for each in told["checks"])
    assert container.shell("serai list --json") == '{"sessions": []}'
    assert container.shell("ls /sessions") == ""


def test_what_comes_out_of_the_pool_is_contained_likewise(container: Container) -> None:
    container.shell("cp -a /etc/serai/session.toml /root/kept")
    container.shell(r"sed -i 's/^\[pool\]$/&\nsize = 2/' /etc/serai/session.toml")
    container.shell("systemctl reload serai-sessiond")
    wait_for(lambda: pool(container)["ready"] == 2, DEADLINE)
    before = noted(container)[-1]["seq"]
    _, told = doctor(container)
    assert red(told) == MISSING, [each for each in told["checks"] if not each["ok"]]
    assert all(entry["doctor"] for entry in noted(container, before))
    assert pool(container)["taken"] == 2
    container.shell("cp -a /root/kept /etc/serai/session.toml && systemctl reload serai-sessiond")
    wait_for(lambda: container.shell("ls /sessions") == "", DEADLINE)


def pool(container: Container) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(container.shell("serai pool --json"))
    return found


# A command that breaks the container, one that mends it, and the checks that go red meanwhile.
BREAK = {
    "a unit that is off": (
        "systemctl disable serai-gate.service",
        "systemctl enable serai-gate.service",
        {"serai-gate.service starts at every boot"},
    ),
    "a filter": (
        "f=$(echo /usr/lib/serai/seccomp/$(uname -m)/unix-block.bpf); cp -a $f /root/kept;"
        " head -c -8 /root/kept >$f",
        "cp -a /root/kept /usr/lib/serai/seccomp/$(uname -m)/unix-block.bpf",
        {"the filter unix-block is what the generator makes"},
    ),
    "nsswitch": (
        "cp -a /etc/nsswitch.conf /root/kept; sed -i '/^group/s/ extrausers//' /etc/nsswitch.conf",
        "cp -a /root/kept /etc/nsswitch.conf",
        {"the system looks up sessions' users (nsswitch)"},
    ),
    "a program": (
        "cp -a /usr/lib/serai/bridge /root/kept; echo '#' >>/usr/lib/serai/bridge",
        "cp -a /root/kept /usr/lib/serai/bridge",
        {"the installed files belong to this version"},
    ),
    "a profile": (
        "echo 'alow = []' >/etc/serai/policy.d/broken.toml",
        "rm /etc/serai/policy.d/broken.toml",
        {"every profile can be read"},
    ),
    "the gate's settings": (
        "cp -a /etc/serai/gate.toml /root/kept; echo '[limit]' >>/etc/serai/gate.toml",
        "cp -a /root/kept /etc/serai/gate.toml",
        {"the gate's settings can be read"},
    ),
    "the settings of sessions": (
        "cp -a /etc/serai/session.toml /root/kept;"
        " printf '[resources]\\ntasks_max = 77\\n' >/etc/serai/session.toml",
        "cp -a /root/kept /etc/serai/session.toml",
        {"sessions' units have the limits of the settings"},
    ),
    "the control socket": (
        "chmod 666 /run/serai/control.sock",
        "chmod 660 /run/serai/control.sock",
        {"only root and the group serai can use the control socket"},
    ),
    "the folder of sessions": (
        "chmod 755 /sessions",
        "chmod 711 /sessions",
        {"/sessions lists no session"},
    ),
    "bubblewrap": (
        "chmod g+w /usr/bin/bwrap",
        "chmod g-w /usr/bin/bwrap",
        {"bubblewrap is not setuid and has no capabilities"},
    ),
}


@pytest.mark.parametrize("name", BREAK)
def test_a_machine_that_is_broken_in_one_point_is_red_there(
    container: Container, name: str
) -> None:
    broken, mended, wanted = BREAK[name]
    container.shell(broken)
    try:
        _, told = doctor(container)
    finally:
        container.shell(mended)
    assert red(told) - MISSING == wanted, [each for each in told["checks"] if not each["ok"]]


def test_a_person_gets_a_table_and_only_root_may_ask(container: Container) -> None:
    done = container.run("serai", "doctor", check=False)
    assert done.returncode == 1
    assert "FAIL  sessions have all controllers" in done.stdout
    assert "Limits of sessions are not kept." in done.stdout
    container.shell("id asker 2>/dev/null || useradd asker")
    done = container.run("runuser", "-u", "asker", "--", "serai", "doctor", check=False)
    assert done.returncode == 1
    assert "takes root" in done.stderr
