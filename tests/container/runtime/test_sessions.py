"""Sessions as a person uses them: the command serai, real units, bubblewrap and systemd."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from serai.common.checks import judge
from serai.image.container.container import DEADLINE, Container
from serai.image.definition import definition
from serai.image.guest import exercise
from serai.image.settings import Settings
from serai.image.verify.checks import CHECKS
from serai.image.verify.facts import Evidence, ExerciseFacts
from tests.conftest import ROOT
from tests.support.openmetrics import values
from tests.support.waiting import wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

HERE = Settings.of()
INSIDE = ROOT / "tests/support/inside.py"


def states(container: Container) -> dict[str, str]:
    listed = json.loads(container.shell("serai list --json"))
    sessions = listed["sessions"] if isinstance(listed, dict) else listed
    return {each["name"]: each["state"] for each in sessions}


def unit(container: Container, name: str) -> str:
    return container.shell(f"systemctl is-active serai-session@{name}.service || true")


def inside(container: Container, what: str) -> dict[str, Any]:
    """Run a function of inside.py in the container."""
    done = container.run("/usr/bin/python3", "-", what, stdin=INSIDE.read_text(), timeout=300)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_session_lives_through_everything_a_person_can_ask_for(container: Container) -> None:
    assert container.shell("serai create first --label task=42") == "first"
    container.shell("serai create second")
    assert unit(container, "first") == "active"
    assert container.shell("serai exec first -- sh -c 'echo kept >file; id -un; pwd'").split() == [
        "first",
        "/sessions/first",
    ]
    assert container.shell("echo through | serai exec first -- tr a-z A-Z") == "THROUGH"
    assert (
        container.run("serai", "exec", "first", "--", "sh", "-c", "exit 7", check=False).returncode
        == 7
    )
    assert container.shell("getent passwd first").startswith("first:x:")
    assert container.shell("stat -c '%U %a' /sessions/first") == "first 700"

    container.shell("serai switch first && serai switch second")
    assert states(container) == {"first": "frozen", "second": "active"}
    refused = container.run("serai", "exec", "first", "--", "true", check=False)
    assert refused.returncode != 0
    assert "serai switch first" in refused.stderr
    container.shell("serai switch first")
    assert states(container) == {"first": "active", "second": "frozen"}

    container.shell("serai archive first")
    assert unit(container, "first") == "inactive"
    assert container.shell("stat -c '%U %a' /sessions/first") == "root 0"
    container.shell("serai reopen first")
    assert container.shell("serai exec first -- cat file") == "kept"
    container.shell("serai stop second && serai remove first && serai remove second")
    wait_for(lambda: states(container) == {}, DEADLINE)
    assert container.shell("ls /sessions") == ""
    assert container.run("id", "first", check=False).returncode != 0


def test_a_session_s_user_reads_no_other_session_from_outside(container: Container) -> None:
    """What it reaches from inside is for the doctor to say."""
    container.shell("serai create here && serai create there")
    container.shell("serai exec there -- sh -c 'echo secret >open; chmod 644 open'")
    done = container.run("runuser", "-u", "here", "--", "cat", "/sessions/there/open", check=False)
    assert "Permission denied" in done.stderr


def test_new_settings_end_no_command_and_wrong_ones_fail_the_reload(container: Container) -> None:
    container.shell("serai create steady && cp -a /etc/serai/session.toml /root/kept")
    waiting = "while [ ! -e go ]; do sleep 0.1; done; echo through"
    container.shell(f"serai exec steady -- sh -c '{waiting}' </dev/null >/root/said 2>&1 &")
    daemon = container.shell("systemctl show -P MainPID serai-sessiond")
    container.shell("printf '[limits]\\nstack = 1048576\\n' >/etc/serai/session.toml")
    container.shell("systemctl reload serai-sessiond")
    stack = "serai exec steady -- sh -c 'ulimit -s'"
    wait_for(lambda: container.shell(stack) == "1024", DEADLINE)
    container.shell("echo 'stak = 7' >>/etc/serai/session.toml")
    reload = container.run("systemctl", "reload", "serai-sessiond", check=False)
    assert reload.returncode != 0
    said = "journalctl --sync; journalctl -u serai-sessiond -b --no-pager"
    assert "unknown key limits.stak" in container.shell(said)
    assert container.shell(stack) == "1024"
    container.shell("cp -a /root/kept /etc/serai/session.toml && systemctl reload serai-sessiond")
    assert container.shell("systemctl show -P MainPID serai-sessiond") == daemon
    container.shell("serai exec steady -- touch go")
    wait_for(lambda: container.shell("cat /root/said") == "through", DEADLINE)
    container.shell("serai remove steady")


def limits(container: Container, name: str) -> dict[str, str]:
    """What systemd limits a session to."""
    asked = f"systemctl show -p MemoryMax,TasksMax,CPUQuotaPerSecUSec serai-session@{name}.service"
    return dict(line.split("=") for line in container.shell(asked).splitlines())


def test_own_limits_hold_from_the_beginning_until_somebody_changes_them(
    container: Container,
) -> None:
    """No controllers are here: that they are enforced is seen in an image, by its verification."""
    container.shell("serai create usual && serai create narrow --memory 64M --tasks 99")
    usual = limits(container, "usual")
    narrow = {**usual, "MemoryMax": str(64 << 20), "TasksMax": "99"}
    assert limits(container, "narrow") == narrow != usual
    container.shell("serai set narrow --cpus 0.5 --env COLOUR=red --label task=42")
    narrow["CPUQuotaPerSecUSec"] = "500ms"
    assert limits(container, "narrow") == narrow
    container.shell("systemctl daemon-reload")
    assert limits(container, "narrow") == narrow
    container.shell("systemctl kill --signal=KILL --kill-who=main serai-sessiond")
    wait_for(lambda: container.run("serai", "list", check=False).returncode == 0, DEADLINE)
    assert limits(container, "narrow") == narrow
    for step in ("stop", "reopen", "archive", "reopen"):
        container.shell(f"serai {step} narrow")
    assert limits(container, "narrow") == narrow
    assert container.shell("serai exec narrow -- printenv COLOUR") == "red"

    container.shell("cp -a /etc/serai/session.toml /root/kept")
    container.shell("printf '[resources]\\ntasks_max = 50\\n' >/etc/serai/session.toml")
    container.shell("systemctl reload serai-sessiond")
    wait_for(lambda: limits(container, "narrow")["TasksMax"] == "50", DEADLINE)
    assert limits(container, "usual")["TasksMax"] == "50"
    container.shell("cp -a /root/kept /etc/serai/session.toml && systemctl reload serai-sessiond")
    wait_for(lambda: limits(container, "narrow") == narrow, DEADLINE)
    wait_for(lambda: limits(container, "usual") == usual, DEADLINE)

    refused = container.run("serai", "set", "narrow", "--tasks=77", "--memory=1P", check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert limits(container, "narrow") == narrow
    container.shell("serai set narrow --memory default --tasks default --cpus default")
    assert limits(container, "narrow") == usual
    container.shell("serai set narrow --tasks 99 && serai remove narrow && serai create narrow")
    assert limits(container, "narrow") == usual, "another session of that name"
    container.shell("serai remove narrow && serai remove usual")


# All that can be seen of a session but for when it began: from inside, and from outside.
INSIDE_LOOK = """
cut -d' ' -f4- /proc/self/mountinfo | sed 's/master:[0-9]*//'
id; umask; pwd; env | sort; hostname; cat /proc/self/limits /etc/passwd /proc/net/dev $SERAI_HINTS
grep -E '^(Uid|Gid|Groups|NoNew|Sec|Cap|NS)' /proc/self/status
ls /proc/self/fd; stat -c '%n %A %u %g' /*
ls -lAn --time-style=+ . /tmp /dev /run /home /root /run/serai; df -B1 --output=size /tmp /dev/shm
for port in 3128 1080; do curl -sSx http://127.0.0.1:$port http://192.0.2.1/ 2>&1 || true; done
"""
OUTSIDE_LOOK = """
cd /run/serai; tr '\\0' '\\n' <sessions/$0/args
cat sessions/$0/users/* /run/serai-gate/sessions/$0.json
find sessions/$0 gate/$0 certificates/$0 /sessions/$0 -printf '%p %u %g %m %y\\n' | sort
shown='^(Limit|Memory(Max|Swap)|Tasks(Max|Acc)|CPU(Quota|Weight)|IO(Acc|Weight)|User|Supp|NoNew|Cap'
systemctl show serai-session@$0 | grep -E "$shown|Slice|Delegate|Kill|OOM|Restrict|System)"
stat -c '%U %a' /sys/fs/cgroup/serai.slice/serai-session@$0.service; ps -o args= -u $0 --sort=args
"""


def test_one_out_of_the_pool_is_in_nothing_other_than_a_cold_one(container: Container) -> None:
    options = "--label task=42 --env COLOUR=red --memory 64M --tasks 99 --cpus 0.5 --ttl 1h"
    container.shell("cp -a /etc/serai/session.toml /root/kept")
    container.shell(r"sed -i 's/^\[pool\]$/&\nsize = 1/' /etc/serai/session.toml")
    container.shell("systemctl reload serai-sessiond")
    wait_for(lambda: "1 of 1" in container.shell("serai pool"), DEADLINE)
    container.shell(f"serai create cold {options}")
    taken = container.shell(f"serai create {options}")
    assert "1 were taken" in container.shell("serai pool")
    seen = {}
    for name in ("cold", taken):
        text = container.run("bash", "-c", OUTSIDE_LOOK, name).stdout
        text += container.run("serai", "exec", name, "--", "bash", "-c", INSIDE_LOOK).stdout
        uid = container.shell(f"id -u {name}")
        seen[name] = re.sub(rf"\b{uid}\b", "UID", text.replace(name, "NAME")).splitlines()
        assert len(seen[name]) > 200
    assert seen[taken] == seen["cold"]
    container.shell("cp -a /root/kept /etc/serai/session.toml && systemctl reload serai-sessiond")
    container.shell(f"serai remove cold && serai remove {taken}")
    wait_for(lambda: "none is held ready" in container.shell("serai pool"), DEADLINE)
    wait_for(lambda: "to be removed" not in container.shell("serai pool"), DEADLINE)


def test_an_export_is_compressed_by_what_the_roles_install(container: Container) -> None:
    container.shell("serai create out; serai exec out -- sh -c 'echo kept >file'")
    container.shell("serai export out >/root/s.tar.zst; serai import --name back </root/s.tar.zst")
    assert container.shell("zstd -dc /root/s.tar.zst | tar -tf - | head -n 1") == "serai.json"
    container.shell("serai reopen back")
    assert container.shell("serai exec back -- cat file") == "kept"
    container.shell("serai remove out; serai remove back; rm /root/s.tar.zst")


def test_sessions_outlive_the_daemon(container: Container) -> None:
    container.shell("serai create alive && serai create asleep")
    container.shell("serai switch asleep && serai switch alive")
    pids = "systemctl show -P MainPID serai-session@alive serai-session@asleep serai-sessiond"
    *sessions, daemon = container.shell(pids).split()
    container.shell(f"kill -9 {daemon}")
    wait_for(lambda: container.run("serai", "list", check=False).returncode == 0, DEADLINE)
    *same, other = container.shell(pids).split()
    assert same == sessions
    assert other != daemon
    found = states(container)
    assert (found["alive"], found["asleep"]) == ("active", "frozen")
    assert container.shell("serai exec alive -- echo still here") == "still here"
    container.shell("serai switch asleep")
    assert container.shell("serai exec asleep -- echo awake") == "awake"


def test_stopping_the_unit_ends_whatever_was_started_in_it(container: Container) -> None:
    container.shell("serai create mortal")
    daemonised = "setsid sh -c 'trap \"\" TERM HUP; sleep 1000 & sleep 1000' & sleep 1000"
    # What is detached keeps its caller's descriptors: those of a test would keep it waiting.
    away = "</dev/null >/dev/null 2>&1"
    container.shell(f"serai exec mortal --detach -- bash -c {shlex.quote(daemonised)} {away}")
    running = "ps -o comm= -u mortal | sort | uniq -c"
    wait_for(lambda: "3 sleep" in container.shell(running), DEADLINE)
    cgroup = "/sys/fs/cgroup" + container.shell(
        "systemctl show -P ControlGroup serai-session@mortal.service"
    )
    container.shell("systemctl stop serai-session@mortal.service")
    # What was entered is sessiond's child, and a zombie until that has heard of its end.
    wait_for(lambda: container.shell(running) == "", DEADLINE)
    assert container.run("test", "-e", cgroup, check=False).returncode != 0
    wait_for(lambda: states(container)["mortal"] == "stopped", DEADLINE)


def test_only_root_and_the_group_may_command(container: Container) -> None:
    container.shell("useradd operator-one --groups serai; useradd stranger-one")
    assert (
        container.run("runuser", "-u", "operator-one", "--", "serai", "create", "lent").returncode
        == 0
    )
    said = container.shell("echo data | runuser -u operator-one -- serai exec lent -- cat")
    assert said == "data"
    refused = container.run("runuser", "-u", "stranger-one", "--", "serai", "list", check=False)
    assert refused.returncode != 0
    assert "ermission" in refused.stderr
    # A session's own user is no member, and inside there is no socket to ask.
    refused = container.run("runuser", "-u", "lent", "--", "serai", "list", check=False)
    assert refused.returncode != 0


def test_a_scraper_gets_metrics_where_somebody_started_the_socket(container: Container) -> None:
    """By systemd, and by a process that may do next to nothing."""
    assert container.shell("systemctl is-enabled serai-metrics.socket || true") == "disabled"
    container.shell("serai create measured; systemctl start serai-metrics.socket")
    place = "/run/serai/metrics.sock"
    assert container.shell(f"stat -c '%a %U %G' {place}") == "660 root serai"
    said = container.shell(f"curl -sS --unix-socket {place} http://vm/metrics")
    container.shell("systemctl stop serai-metrics.socket; serai remove measured")
    assert values(said, "serai_session_state")["measured", "ready"] == 1
    assert values(said, "serai_service_up") == {("sessiond",): 1, ("gate",): 1}
    assert values(said, "serai_sessions_disk_bytes")[()] > 0


def test_a_relay_of_the_hosts_lets_in_nobody_else(container: Container) -> None:
    """On a Unix socket, as a vsock here would be one of the machine that the tests run on."""
    assert container.shell("systemctl is-enabled serai-vsock.socket || true") == "disabled"
    folder, unit, place = "/run/systemd/system", "serai-vsock", "/run/serai/relay.sock"
    drop_in = f"[Socket]\nListenStream=\nListenStream={place}\n"
    container.shell(
        f"mkdir -p {folder}/{unit}.socket.d {folder}/{unit}@.service.d; serai create guest-one\n"
        f"printf '{drop_in}' >{folder}/{unit}.socket.d/here.conf\n"
        f"systemctl daemon-reload && systemctl start {unit}.socket"
    )
    far = f"serai --vm unix://{place}"
    refused = container.run("sh", "-c", f"{far} list", check=False)
    assert (refused.returncode, refused.stdout) == (3, "")
    said = "this connection is refused: it has not come by vsock"
    wait_for(lambda: said in container.shell(f"journalctl -u '{unit}@*'"), DEADLINE)
    # Without the check the same process carries whatever it is given.
    drop_in = "[Service]\nExecStart=\nExecStart=/usr/bin/serai stdio\n"
    container.shell(
        f"printf '{drop_in}' >{folder}/{unit}@.service.d/all.conf; systemctl daemon-reload"
    )
    assert container.shell(f"echo data | {far} exec guest-one -- cat") == "data"
    container.shell(f"{far} exec guest-one -- sleep 1017 >/dev/null 2>&1 </dev/null &")
    wait_for(lambda: container.shell("pgrep -fx 'sleep 1017' || true"), DEADLINE)
    container.shell(f"systemctl stop {unit}.socket")
    wait_for(lambda: not container.shell("pgrep -fx 'sleep 1017' || true"), DEADLINE)
    container.shell(
        f"rm -r {folder}/{unit}.socket.d {folder}/{unit}@.service.d; serai remove guest-one"
    )
    container.shell("systemctl daemon-reload")


def test_bad_input_is_answered_and_harms_nothing(container: Container) -> None:
    found = inside(container, "bad_input")
    assert found["accepted"] == []
    assert found["same"], "the daemon fell"
    assert found["states"]["bystander"] == "ready"


def test_the_gate_goes_on_with_the_log_of_an_image_where_its_user_had_another_number(
    container: Container,
) -> None:
    container.shell("chown --recursive 4242:4242 /sessions/.serai/audit")
    container.shell("systemctl restart serai-gate.service")
    assert container.shell("stat --format=%U /sessions/.serai/audit/head") == "serai-gate"
    assert container.shell("serai audit --verify")


def test_clients_that_hang_up_and_a_hundred_at_once(container: Container) -> None:
    found = inside(container, "hang_ups")
    assert found["errors"] == []
    assert found["left"], "a payload outlived its client"
    assert found["same"], "the daemon fell"
    assert found["settled"], "descriptors leak"


def test_two_hundred_sessions_leave_nothing_behind(container: Container) -> None:
    found = inside(container, "many")
    assert found["own"]
    assert found["archived"] >= 201
    assert found["at_most"]["units"] >= found["before"]["units"] + 200
    assert found["more"] == {}, found["before"]


def test_what_verify_does_in_an_image_works_here_but_for_limits(container: Container) -> None:
    """The container has no cgroup controllers: those checks need an image, and see it."""
    source = Path(str(exercise.__file__)).read_text()
    done = container.run("/usr/bin/python3", "-", stdin=source)
    seen = ExerciseFacts.model_validate_json(done.stdout)
    nothing = dict.fromkeys(Evidence.model_fields, "not here")
    image = definition.load(HERE, "debian-12-amd64").model_dump()
    given = {"image": image, "promised": {}, "exercise": seen}
    evidence = Evidence.model_validate({**nothing, **given})
    part = [check for check in CHECKS if check.part == "exercise"]
    assert {each.check.name for each in judge(evidence, {}, part) if not each.ok} == {
        "where sessions compete, a light one gets less CPU, and all answer",
        "a memory hog ends alone, and says why",
        "a fork bomb ends in its own session alone",
        "serai doctor finds nothing wrong",  # see test_doctor
        # The container's sessions are in a folder without quotas, and its root is an overlay, which
        # knows no idmapped mounts.
        "a full session gets EDQUOT, and another one still writes",
        "a folder of the VM's disk is the session's inside, its owner's outside",
    }
