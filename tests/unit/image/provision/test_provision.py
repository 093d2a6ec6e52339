"""`invoke provision` with the real Ansible on hosts that are all this one, and what it makes of it.

The play is the checkout's, but for its roles: a few small tasks are in their place.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from serai.image.errors import BuildError
from serai.image.provision import chosen, course, provision
from serai.image.provision.provision import Options
from serai.image.settings import Settings
from tests.conftest import ROOT
from tests.unit.image.provision.test_preflight import GOOD

PLAYS = yaml.safe_load((ROOT / "playbooks/provision.yml").read_text())
DEADLINE = 60.0
TASKS = [
    {
        "name": "Break",
        "ansible.builtin.command": {"argv": ["sh", "-c", "echo last words >&2; exit 3"]},
        "when": "broken | default(false)",
    },
    {"name": "Change", "ansible.builtin.debug": {"msg": "new"}, "changed_when": True},
]


def options_for(settings: Settings, hosts: dict[str, Any], tasks: object = TASKS) -> Options:
    """Have the checkout's playbook be ``tasks``; the options for provisioning ``hosts`` with it."""
    play = {**PLAYS[0], "become": False, "roles": [], "post_tasks": tasks}
    play["pre_tasks"] = play["pre_tasks"][:1]
    (settings.root / chosen.PLAYBOOK).write_text(yaml.safe_dump([play]))
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory = settings.root / "inventory.yml"
    inventory.write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": local}}))
    report = str(settings.root / "report.json")
    return Options(inventory=str(inventory), report=report)


def changed(options: Options, **values: Any) -> Options:
    return Options(**{**vars(options), **values})


def report(settings: Settings) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((settings.root / "report.json").read_text())
    return found


def test_every_machine_has_a_line_in_the_summary(
    checkout: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    options = options_for(checkout, {"a": {}, "b": {}})
    assert provision.provision(checkout, changed(options, serial=1)).ok
    said = capsys.readouterr().out
    assert "batch 1: a, 1 to follow" in said
    assert "batch 2: b\n" in said
    assert said.count("  Change (changed, ") == 2
    rows = {row["host"]: row for row in report(checkout)["hosts"]}
    assert [rows[name]["changed"] for name in "ab"] == [1, 1]
    assert report(checkout)["ok"]
    log = Path(report(checkout)["log"])
    assert "PLAY RECAP" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600


def test_no_batch_follows_one_that_failed(checkout: Settings) -> None:
    hosts = {name: {"broken": name == "b"} for name in "abcdef"}
    options = changed(options_for(checkout, hosts), serial=2)
    with pytest.raises(BuildError) as caught:
        provision.provision(checkout, options)
    assert str(caught.value).startswith(
        "1 of 6 failed, 4 not reached; b failed: 'sh -c echo last words >&2; exit 3' "
        "ended with status 3: last words; details: "
    )
    states = {row["host"]: row["state"] for row in report(checkout)["hosts"]}
    assert states == {"a": "ok", "b": "failed", **dict.fromkeys("cdef", "not reached")}
    rows = {row["host"]: row for row in report(checkout)["hosts"]}
    assert rows["a"]["changed"] == 1, "who is in the same batch goes on"
    assert rows["b"]["task"] == "Break"


def test_a_limit_leaves_the_others_out(checkout: Settings) -> None:
    options = options_for(checkout, {"a": {"broken": True}, "b": {}})
    done = provision.provision(checkout, changed(options, limit="b"))
    assert list(done.hosts) == ["b"]
    with pytest.raises(BuildError, match="no VM matches"):
        provision.provision(checkout, changed(options, limit="nobody"))


def test_what_an_image_chooses_stands_below_the_inventory_and_set(checkout: Settings) -> None:
    for role in ("toolchain", "limits"):
        shutil.copytree(ROOT / "roles" / role, checkout.root / "roles" / role)
    (checkout.root / "images" / "debian-12-amd64.toml").write_text(
        (ROOT / "images/debian-12-amd64.toml").read_text()
        + "[variables]\nlimits_nofile = 1\nlimits_nproc = 1\nlimits_stack = 1\n"
    )
    seen = "limits_nofile == 1 and limits_nproc == 2 and limits_stack == 3"
    tasks = [{"name": "See", "ansible.builtin.assert": {"that": seen}}]
    options = options_for(checkout, {"a": {"limits_nproc": 2, "limits_stack": 2}}, tasks)
    options = changed(options, image="debian-12-amd64", values=("limits_stack=3",))
    assert provision.provision(checkout, options).ok
    with pytest.raises(BuildError, match="a failed"):
        provision.provision(checkout, changed(options, image=""))
    with pytest.raises(BuildError, match="there is no image 'nixos'"):
        provision.provision(checkout, changed(options, image="nixos"))


def test_check_mode_and_values_reach_the_play(checkout: Settings) -> None:
    tasks = [
        {
            "name": "See",
            "ansible.builtin.assert": {"that": ["ansible_check_mode", "limits_nproc == 2"]},
        }
    ]
    shutil.copytree(ROOT / "roles/limits", checkout.root / "roles/limits")
    options = changed(
        options_for(checkout, {"a": {}}, tasks), check=True, values=("limits_nproc=2",)
    )
    assert provision.provision(checkout, options).ok
    with pytest.raises(BuildError, match="a failed"):
        provision.provision(checkout, changed(options, check=False))


def test_a_broken_playbook_is_one_line(checkout: Settings) -> None:
    options = options_for(checkout, {"a": {}}, [{"name": "Odd", "ansible.builtin.nonesuch": {}}])
    with pytest.raises(BuildError, match=r"did not begin: .*nonesuch"):
        provision.provision(checkout, options)


def test_ctrl_c_ends_everything_and_tells_how_far_it_came(checkout: Settings) -> None:
    begun = checkout.root / "begun"
    wait = ["sh", "-c", f"echo $$ >{begun}; sleep 600; :"]
    tasks = [{"name": "Wait", "ansible.builtin.command": {"argv": wait}}]
    options = changed(options_for(checkout, {"a": {}, "b": {}}, tasks), serial=1)

    def interrupt() -> None:
        end = time.monotonic() + DEADLINE
        while not (begun.exists() and begun.read_text()) and time.monotonic() < end:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt, match="run the same again"):
        provision.provision(checkout, options)
    states = {row["host"]: row["state"] for row in report(checkout)["hosts"]}
    assert states == {"a": "interrupted", "b": "not reached"}
    left = [
        path for path in Path("/proc").glob("[0-9]*/cmdline") if str(begun).encode() in text(path)
    ]
    assert not left, "what Ansible had started is gone"


def text(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Options(), "either --host"),
        (Options(hosts=("a",), inventory="x"), "either --host"),
        (Options(inventory="/nonexistent"), "there is no /nonexistent"),
        (Options(hosts=("a",), key="/nonexistent"), "--key: there is no"),
        (Options(hosts=("a",), serial=-1), "from 1 on"),
        (Options(hosts=("a",), values=("no",)), "NAME=VALUE"),
        (Options(hosts=("a",), values=("a=[",)), "not YAML"),
        (
            Options(hosts=("a",), values=("runtime_memory_mx=25%",)),
            "--set runtime_memory_mx is no role's variable; did you mean runtime_memory_max\\?",
        ),
        (
            Options(hosts=("a",), values=("runtime_tasks_max=many",)),
            "--set runtime_tasks_max must be a whole number, it is 'many'",
        ),
        *((Options(hosts=(bad,)), "is not USER@ADDRESS") for bad in (
            "", "-oProxyCommand=x", "a b", "a@b@c", "a:0", "a:99999", "a:ssh", "a/b", "::1",
        )),
    ],
)  # fmt: skip
def test_options_that_cannot_be_used(options: Options, words: str, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=words):
        provision.command(Settings.of({}, ROOT), options, tmp_path)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("vm", {"ansible_host": "vm"}),
        ("me@10.0.0.7", {"ansible_host": "10.0.0.7", "ansible_user": "me"}),
        ("me@vm:2222", {"ansible_host": "vm", "ansible_user": "me", "ansible_port": 2222}),
        ("[fe80::1]:22", {"ansible_host": "fe80::1", "ansible_port": 22}),
    ],
)
def test_addresses(text: str, found: dict[str, Any]) -> None:
    assert provision.address(text) == (text, found)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("ssh: connect to host a port 1: Connection refused", "nothing listens on that port"),
        ("a@b: Permission denied (publickey).", "--key FILE"),
        ("No ED25519 host key is known\nHost key verification failed.", "--new-host-keys"),
        ("ssh: Could not resolve hostname a: Name or service not known", "no host of that name"),
        ("ssh: connect to host a port 22: Connection timed out", "does not answer"),
        ("Shared connection to a closed.", "it hung up"),
        ("something new", "something new"),
    ],
)
def test_why_a_login_failed(said: str, words: str) -> None:
    message = "Failed to connect to the host via ssh: " + said
    told = course.login("=> " + json.dumps({"msg": message, "unreachable": True}))
    assert words in told
    assert "\n" not in told


# --- policies that are withdrawn


def test_a_policy_that_is_taken_out_is_removed_and_others_stay(checkout: Settings) -> None:
    folder = checkout.root / "policy.d"
    folder.mkdir()
    for name in ("default", "open", "mine"):
        (folder / f"{name}.toml").touch()
    role = (ROOT / "roles/gate/tasks/main.yml").read_text()
    role = role.replace("/etc/serai/policy.d", str(folder))
    wanted = ("Read which policies", "Remove the policies", "Write the pol", "Note which policies")
    tasks = [task for task in yaml.safe_load(role) if task["name"].startswith(wanted)]
    assert len(tasks) == len(wanted)
    for task in tasks:
        task.pop("notify", None)
        for module in ("copy", "template"):
            arguments = task.get(f"ansible.builtin.{module}", {})
            for key in ("owner", "group", "validate"):
                arguments.pop(key, None)
            if module == "template" and arguments:
                arguments["src"] = str(ROOT / "roles/gate/templates" / arguments["src"])
    known = yaml.safe_load((ROOT / "roles/gate/vars/main.yml").read_text())
    hosts = {"a": {"gate_profiles": {"default": {}, "lab": {}}, **known}}
    options = options_for(checkout, hosts, tasks)

    def applied(**profiles: Any) -> set[str]:
        hosts["a"]["gate_profiles"] = profiles
        options_for(checkout, hosts, tasks)
        assert provision.provision(checkout, options).ok
        return {path.stem for path in folder.glob("*.toml")}

    # 0.1 has left no list, and wrote default and open if nobody said otherwise.
    assert applied(default={}, lab={}) == {"default", "lab", "mine"}
    assert applied(default={}) == {"default", "mine"}
    assert applied(default={}, mine={}) == {"default", "mine"}


def test_the_directories_of_an_agent_keep_their_programs(checkout: Settings) -> None:
    """As the role copies them: modes as they are, links as links."""
    skills, target = checkout.root / "skills", checkout.root / "target"
    (skills / "hello").mkdir(parents=True)
    (skills / "hello/run.sh").write_text("#!/bin/sh\n")
    (skills / "hello/run.sh").chmod(0o755)
    (skills / "hello/SKILL.md").write_text("words\n")
    (skills / "hello/SKILL.md").chmod(0o644)
    (skills / "run").symlink_to("hello/run.sh")
    role = (ROOT / "roles/agent/tasks/folders.yml").read_text()
    (_, *tasks) = yaml.safe_load(role.replace("/usr/local/share/serai", str(target)))
    for key in ("owner", "group"):
        tasks[0]["ansible.builtin.copy"].pop(key)
    target.mkdir()
    variables = {"agent_skills": f"{skills}/", "agent_claude": ""}
    options = options_for(checkout, {"a": variables}, tasks)
    for times in (1, 0):
        assert provision.provision(checkout, options).ok
        assert [row["changed"] for row in report(checkout)["hosts"]] == [times]
    assert (target / "skills/hello/run.sh").stat().st_mode & 0o777 == 0o755
    assert (target / "skills/hello/SKILL.md").stat().st_mode & 0o777 == 0o644
    assert (target / "skills/run").readlink() == Path("hello/run.sh")
    (skills / "hello/SKILL.md").unlink()
    assert provision.provision(checkout, options).ok
    assert not (target / "skills/hello/SKILL.md").exists(), "what is taken out is withdrawn"
    assert (target / "skills/hello/run.sh").exists()
    options = options_for(checkout, {"a": {"agent_skills": "", "agent_claude": ""}}, tasks)
    assert provision.provision(checkout, options).ok
    assert list((target / "skills").iterdir()) == []


# --- what it looks at first


@pytest.mark.parametrize(
    ("look", "variables", "words"),
    [
        ("system=slackware- python=no sudo=yes", {}, "this is slackware-, and the roles are for"),
        (GOOD.replace("sudo=yes", "sudo=asks"), {}, "sudo wants a password of me"),
        (GOOD.replace("sudo=yes", "sudo=asks"), {"ansible_become_password": "x"}, ""),
        (GOOD, {"gate_start": True}, "gate_start is no variable any more"),
        (GOOD, {}, ""),
    ],
)
def test_the_play_asks_before_its_first_change(
    checkout: Settings, look: str, variables: dict[str, Any], words: str
) -> None:
    options = options_for(checkout, {"a": variables})
    playbook = checkout.root / chosen.PLAYBOOK
    shutil.copytree(ROOT / "playbooks/filter_plugins", playbook.parent / "filter_plugins")
    (play,) = yaml.safe_load(playbook.read_text())
    seen, asked = PLAYS[0]["pre_tasks"][1:3]
    seen["ansible.builtin.raw"] = f"echo {look}"
    play["pre_tasks"] += [seen, asked]
    playbook.write_text(yaml.safe_dump([play]))
    if words:
        with pytest.raises(BuildError, match=f"a failed: {words}"):
            provision.provision(checkout, options)
    else:
        assert provision.provision(checkout, options).ok
    (row,) = report(checkout)["hosts"]
    assert row["changed"] == (0 if words else 1)


def test_only_some_roles_are_played_and_what_goes_with_them(tmp_path: Path) -> None:
    settings = Settings.of({}, ROOT)
    options = Options(hosts=("a",), only=("runtime", "shares"))
    argv = list(map(str, provision.command(settings, options, tmp_path)))
    assert argv[argv.index("--tags") + 1] == "runtime,gate,shares,seccomp"
    with pytest.raises(BuildError, match=r"no role of that name is provisioned; did you mean gate"):
        provision.command(settings, changed(options, only=("gat",)), tmp_path)
    with pytest.raises(BuildError, match="--rollback plays no role"):
        provision.command(settings, changed(options, rollback=True), tmp_path)
    back = provision.command(settings, Options(hosts=("a",), rollback=True), tmp_path)
    assert back[-1] == ROOT / "playbooks/rollback.yml"


def test_each_task_of_a_host_is_in_the_report_and_what_was_said(checkout: Settings) -> None:
    say = {"name": "Say what was done", "ansible.builtin.debug": {"msg": "words"}}
    assert provision.provision(checkout, options_for(checkout, {"a": {}}, [*TASKS, say])).ok
    (row,) = report(checkout)["hosts"]
    told = [(task["name"], task["status"]) for task in row["tasks"]][-3:]
    assert told == [("Break", "skipped"), ("Change", "changed"), ("Say what was done", "ok")]
    assert row["said"] == ["words"]


def test_a_vm_is_skipped_only_if_somebody_asks_for_it(checkout: Settings, tmp_path: Path) -> None:
    options = options_for(checkout, {"a": {}})
    (leaves,) = [task for task in PLAYS[0]["pre_tasks"] if "end_host" in str(task)]
    assert leaves["when"].startswith("provision_fast | default(false) and ")
    for fast in (False, True):
        argv = provision.command(checkout, changed(options, fast=fast), tmp_path)
        given = json.loads(str(argv[argv.index("--extra-vars") + 1]))
        assert given["provision_fast"] is fast
