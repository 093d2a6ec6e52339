"""`invoke provision` with the real Ansible on hosts that are all this one, and what it makes of it.

The play is the checkout's, but for its roles: a few small tasks are in their place.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from serai.image.definition import variables
from serai.image.errors import BuildError
from serai.image.provision import chosen, course, look, provision, upgrade
from serai.image.provision.provision import Options
from serai.image.settings import Settings
from tests.conftest import ROOT
from tests.unit.image.provision.test_preflight import GOOD

PLAYS = yaml.safe_load((ROOT / "playbooks/provision.yml").read_text())
ROLES = [role["role"] for role in PLAYS[0]["roles"]]
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


def event(kind: str, **data: object) -> str:
    return json.dumps({"event": kind, "time": 1.0, **data})


@pytest.mark.parametrize("status", ["failed", "unreachable"])
def test_a_machine_that_goes_away_is_unreachable_whatever_ansible_calls_it(status: str) -> None:
    said = "Failed to connect to the host via ssh: Connection to a port 22 timed out"
    found = course.Course()
    found.feed(event("batch", all=["a"], hosts=["a"]))
    found.feed(event("task", role="", name="One"))
    found.feed(event("result", host="a", status=status, why="=> " + json.dumps({"msg": said})))
    (row,) = found.report()["hosts"]
    assert (row["state"], row["unreachable"], row["failed"]) == ("unreachable", 1, 0)
    assert row["why"] == "it does not answer (Connection to a port 22 timed out)"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "EOF on stream; last 100 lines received:\nssh: connect to host a port 22: Connection"
            " refused\r",
            "nothing listens on that port; is its sshd running? (ssh: connect to host",
        ),
        (
            "Mitogen was disconnected from the remote environment while a call was in-progress. "
            "Original error was: the respondent Context has disconnected",
            "it hung up (",
        ),
    ],
)
def test_nor_does_it_matter_what_mitogen_calls_it(said: str, words: str) -> None:
    found = course.Course()
    found.feed(event("batch", all=["a"], hosts=["a"]))
    found.feed(event("task", role="", name="One"))
    found.feed(event("result", host="a", status="failed", why="=> " + json.dumps({"msg": said})))
    (row,) = found.report()["hosts"]
    assert (row["state"], row["unreachable"], row["failed"]) == ("unreachable", 1, 0)
    assert row["why"].startswith(words)


def test_a_machine_is_done_only_if_ansible_came_to_its_end() -> None:
    batch = event("batch", all=["[::1]"], hosts=["[::1]"])
    result = event("result", host="[::1]", status="ok", why="")
    for last, state in ([], "interrupted"), ([event("end")], "ok"):
        found = course.Course()
        for line in (batch, event("task", role="", name="One"), result, *last):
            found.feed(line)
        found.end()
        assert found.hosts["[::1]"].state == state
        assert found.ok == (state == "ok")
        table = provision.summary(found)
        assert table.row_count == 1


# --- the playbook


def test_provision_applies_the_roles_of_an_image_but_for_the_seal() -> None:
    image = yaml.safe_load((ROOT / "playbooks/image.yml").read_text())
    roles = [role for play in image for role in play["roles"]]
    assert [role for role in roles if role != "seal"] == ROLES
    assert all(role["tags"] == [role["role"]] for role in PLAYS[0]["roles"])
    others = [*PLAYS[0]["pre_tasks"], *PLAYS[0]["post_tasks"]]
    assert all(task["tags"] == "always" for task in others), "--only leaves none of them out"


def handlers() -> Iterator[tuple[str, dict[str, Any]]]:
    for role in ROLES:
        path = ROOT / "roles" / role / "handlers/main.yml"
        for handler in yaml.safe_load(path.read_text()) if path.exists() else []:
            yield f"{role}: {handler['name']}", handler


def topics(handler: dict[str, Any]) -> list[str]:
    listen = handler.get("listen", [])
    return [listen] if isinstance(listen, str) else listen


def test_every_handler_is_caught_up_on_after_a_run_that_was_cut_off() -> None:
    catching_up = next(task for task in PLAYS[0]["post_tasks"] if "notify" in task)
    assert catching_up["notify"] == "Catch up"
    found = dict(handlers())
    assert len(found) > 5
    for name, handler in found.items():
        assert "Catch up" in topics(handler), name


def test_what_is_notified_is_there() -> None:
    known = {topic for _, handler in handlers() for topic in [handler["name"], *topics(handler)]}
    for path in (ROOT / "roles").glob("*/tasks/*.yml"):
        for task in yaml.safe_load(path.read_text()):
            notified = task.get("notify", [])
            for name in [notified] if isinstance(notified, str) else notified:
                assert name in known or name.startswith("{{"), f"{path}: {name}"


def test_the_playbooks_say_once_whether_the_machine_runs() -> None:
    image = yaml.safe_load((ROOT / "playbooks/image.yml").read_text())
    assert [play["vars"]["serai_live"] for play in (*image, *PLAYS)] == [False, False, True]
    files = [path for path in (ROOT / "roles").rglob("*.yml") if "files" not in path.parts]
    using = {
        path.relative_to(ROOT / "roles").parts[0]
        for path in files
        if "serai_live" in path.read_text()
    }
    assert using == {"base", "fleet", "gate", "hardening", "runtime", "session_disk", "shares"}
    for name in variables.FORMER_LIVE:
        assert not any(name in path.read_text() for path in files), name


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


def test_a_change_of_a_limit_ends_no_connected_command() -> None:
    """A restart of sessiond does, so only an upgrade and a cut-off run restart it."""
    tasks = yaml.safe_load((ROOT / "roles/runtime/tasks/main.yml").read_text())
    (settings,) = (task for task in tasks if task["name"] == "Write the settings of sessions")
    assert settings["notify"] == "Reload sessiond"
    handlers = yaml.safe_load((ROOT / "roles/runtime/handlers/main.yml").read_text())
    reload = next(each for each in handlers if each["name"] == "Reload sessiond")
    assert reload["ansible.builtin.systemd_service"]["state"] == "reloaded"
    restart = "Restart Serai after an upgrade"
    told = [task["name"] for task in tasks if task.get("notify") == restart]
    assert told == ["Install Serai from the wheel"]


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


# --- versions


def looked(**values: object) -> str:
    found = {"version": "0.1.0", "modules": "python-0123456789abcdef", "kept": "", "sessions": 2}
    found |= {"connected": 1, "detached": 3, "jobs": 0, "cut_off": False}
    return json.dumps({**found, **values})


NOTHING = {"upgrades": False, "ends": 0, "words": ""}


def test_what_an_upgrade_ends_is_said_before(tmp_path: Path) -> None:
    wheel = tmp_path / "serai.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("serai/__init__.py", '__version__ = "0.2.0"\n')
    modules = "python-" + hashlib.sha256(wheel.read_bytes()).hexdigest()[:16]
    goes = "2 sessions, 0 jobs, 3 detached commands go on; "
    goes += "1 connected command and connections through the gate end"
    assert upgrade.plan(looked(), str(tmp_path)) == {
        "upgrades": True,
        "ends": 1,
        "words": f"Serai 0.1.0 (01234567) becomes 0.2.0 ({modules[7:15]}); {goes}",
    }
    assert upgrade.plan(looked(), str(tmp_path), ["fleet"]) == NOTHING
    assert upgrade.plan(looked(), str(tmp_path), ["gate", "runtime"])["upgrades"]
    same = upgrade.plan(looked(modules=modules), str(tmp_path))
    assert same == NOTHING
    cut = upgrade.plan(looked(modules=modules, cut_off=True), str(tmp_path))
    assert cut["ends"] == 1
    assert upgrade.plan(looked(modules=""), str(tmp_path))["words"] == ""
    back = upgrade.plan_back(looked(kept="0.0.9 (76543210)"))
    assert back["words"] == f"Serai 0.1.0 (01234567) becomes 0.0.9 (76543210); {goes}"
    assert not upgrade.plan_back(looked())["upgrades"]


def test_what_runs_is_read_from_cgroups(tmp_path: Path) -> None:
    rest = {"right": "", "witness": look.look(tmp_path)["witness"]}
    assert look.look(tmp_path) == {
        **json.loads(looked(version="", modules="", sessions=0, connected=0, detached=0)),
        **rest,
    }
    unit = tmp_path / "sys/fs/cgroup/serai.slice/serai-session@a.service"
    for name in ("exec-1-1", "detached-1-2", "job-0123", "other"):
        (unit / name).mkdir(parents=True)
    package = tmp_path / "usr/lib/serai/python-01/serai"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('__version__ = "1.2"\n')
    (tmp_path / "usr/lib/serai/python").symlink_to("python-01")
    found = look.look(tmp_path)
    rest["witness"] = found["witness"]
    assert {**found, **rest} == rest | json.loads(
        looked(version="1.2", modules="python-01", sessions=1, connected=1, detached=1, jobs=1)
    )


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


# --- what was found right


def test_a_vm_that_was_right_looks_so_until_something_changes(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc/serai").mkdir(parents=True)
    (root / "etc/serai/gate.toml").write_text("a\n")
    (root / "usr/local/bin").mkdir(parents=True)

    def seen() -> str:
        return json.dumps(look.look(root))

    note = root / "var/lib/serai/right"
    note.parent.mkdir(parents=True)
    assert not upgrade.is_right(seen(), "inputs")
    note.write_text(upgrade.right(seen(), "inputs"))
    assert upgrade.is_right(seen(), "inputs")
    assert not upgrade.is_right(seen(), "others"), "the roles or the variables have changed"
    assert not upgrade.is_right(seen(), "")
    marker = root / "var/lib/serai/provisioning"
    marker.touch()
    assert not upgrade.is_right(seen(), "inputs"), "a run was cut off"
    marker.unlink()
    for change in (
        lambda: (root / "etc/serai/gate.toml").write_text("a\n"),
        lambda: (root / "etc/serai/gate.toml").chmod(0o600),
        lambda: (root / "usr/local/bin/tool").symlink_to("x"),
        (root / "usr/local/bin/tool").unlink,
    ):
        note.write_text(upgrade.right(seen(), "inputs"))
        assert upgrade.is_right(seen(), "inputs")
        change()
        assert not upgrade.is_right(seen(), "inputs")


def test_a_vm_is_skipped_only_if_somebody_asks_for_it(checkout: Settings, tmp_path: Path) -> None:
    options = options_for(checkout, {"a": {}})
    (leaves,) = [task for task in PLAYS[0]["pre_tasks"] if "end_host" in str(task)]
    assert leaves["when"].startswith("provision_fast | default(false) and ")
    for fast in (False, True):
        argv = provision.command(checkout, changed(options, fast=fast), tmp_path)
        given = json.loads(str(argv[argv.index("--extra-vars") + 1]))
        assert given["provision_fast"] is fast


def test_versions_that_roles_read_are_sources_too(checkout: Settings) -> None:
    pins = checkout.root / "pins.yml"
    (checkout.root / chosen.PLAYBOOK).write_text("[]\n")
    first = upgrade.sources(checkout)
    pins.write_text("nats_py: {version: 99}\n")
    assert upgrade.sources(checkout) != first


def test_what_a_vm_is_made_of(tmp_path: Path) -> None:
    wheel, skills = tmp_path / "serai.whl", tmp_path / "skills"
    wheel.write_bytes(b"wheel")
    skills.mkdir()
    given = {"agent_skills": str(skills), "runtime_tasks_max": 7, "ansible_port": 22}

    def made(**values: object) -> str:
        return upgrade.inputs({**given, **values}, str(tmp_path), "roles")

    first = made()
    assert first
    assert made(ansible_port=23) == first, "that is how to get there"
    assert made(runtime_tasks_max=8) != first
    assert made(project_files=[str(skills)]) == "", "these may be anywhere"
    assert made(agent_skills="/nonexistent") == ""
    (skills / "new").touch()
    assert made() != first
    assert upgrade.inputs(given, str(tmp_path), "") == ""
