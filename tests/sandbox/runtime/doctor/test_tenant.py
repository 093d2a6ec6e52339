"""The throwaway session against a real sessiond and gate; the daemon weakened in one step."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest

from serai.common.checks import Facts, judge
from serai.common.labels import DOCTOR
from serai.common.sandboxes import SANDBOXES
from serai.runtime import settings
from serai.runtime.doctor import checks, collect, tenant
from serai.runtime.sandbox import cgroups
from tests.support.fake_vm import Vm, opened
from tests.support.waiting import wait_for

# The stand-in for systemd gives no limits.
CONTROLLERS = {check.name for check in checks.CHECKS if check.part == "cgroup"} - {
    "a payload has a cgroup of its own",
    "a session can be frozen and killed as a whole",
}
CHECKS = [
    check for check in checks.CHECKS if check.part in tenant.PARTS and check.name not in CONTROLLERS
]


@pytest.fixture(scope="module")
def vm() -> Iterator[Vm]:
    with opened() as machine:
        machine.start()
        yield machine


def examined(vm: Vm, sandbox: str = "strict") -> dict[str, str]:
    """The checks that fail, and why."""
    rules = replace(settings.load(vm.paths.settings), sandboxes=(sandbox,))
    facts = tenant.gather(vm.paths, rules, {})
    facts["resources"] = collect.resources_of(vm.paths)
    return {each.check.name: each.detail for each in judge(Facts(facts), {}, CHECKS) if not each.ok}


@pytest.mark.parametrize("sandbox", SANDBOXES)
def test_a_whole_vm_is_all_green_and_nothing_is_left(vm: Vm, sandbox: str) -> None:
    assert examined(vm, sandbox) == {}
    assert vm.sessions() == {}
    wait_for(lambda: vm.processes() == 0)
    assert not [path for path in vm.paths.sessions.iterdir() if path.name != ".serai"]


def test_a_gate_that_payloads_may_speak_to_is_red(vm: Vm) -> None:
    vm.stop()
    vm.start(weaken="from serai.runtime.sessions.steps import publish; publish.STRICT = 'sockets'")
    try:
        red = {"payloads cannot speak to the gate's own sockets"}
        assert set(examined(vm, "sockets")) == red
    finally:
        vm.stop()
        vm.start()


# What the daemon is made to leave out, to the checks that must go red.
DAEMONS: dict[str, tuple[str, set[str]]] = {
    "payloads leave what they started": (
        "from serai.runtime.sessions.payloads.payloads import Payloads\n"
        "async def leave(self, payload):\n    pass\n"
        "Payloads._clear = leave",
        {"nothing outlives a payload"},
    ),
    "no time limit": (
        "from serai.runtime.sessions.payloads.payloads import Payloads\n"
        "finish = Payloads.finish\n"
        "Payloads.finish = lambda self, payload, timeout, gone: finish("
        "self, payload, 3 if timeout == 0.3 else timeout, gone)\n"
        "from serai.runtime.sessions.payloads import payloads\n"
        "payloads.TIMED_OUT = 0",
        {"a payload ends when its time is up"},
    ),
    "hang-ups are not heard of": (
        "import asyncio\nfrom serai.runtime.sessions.payloads.payloads import Payloads\n"
        "finish = Payloads.finish\n"
        "Payloads.finish = lambda self, payload, timeout, gone: finish("
        "self, payload, timeout, asyncio.get_running_loop().create_future())",
        {"a payload ends when its client hangs up"},
    ),
    "a wrong status": (
        "from serai.runtime.sessions.payloads import payloads\n"
        "reap = payloads._reap\n"
        "def lie(pid):\n"
        "    found = reap(pid)\n"
        "    return payloads.Ended(0, None) if found.status == 7 else found\n"
        "payloads._reap = lie",
        {"a payload's exit status is reported"},
    ),
    "no lock": (
        "from serai.runtime.sessions.steps import homes\nhomes.lock = lambda *_: None",
        {"an archived home is locked"},
    ),
    "open homes": (
        "import os\nfrom serai.runtime.sessions.steps import homes\nmake = homes.make\n"
        "def opened(paths, name, uid):\n    make(paths, name, uid)\n"
        "    os.chmod(paths.home(name), 0o755)\n"
        "homes.make = opened",
        {"only its own session can enter a home"},
    ),
    "sockets stay": (
        "from serai.runtime.sessions.steps import publish\n"
        "withdraw = publish.withdraw\n"
        "publish.withdraw = lambda paths, name: None",
        {"a stopped session has no way out", "a removed session is gone"},
    ),
    "users stay": (
        "from serai.runtime.sessions.steps.steps import Steps\nSteps.drop_user = lambda *_: None",
        {"a removed session's user is gone"},
    ),
    "data stays": (
        "from serai.common.errors import SeraiError\n"
        "from serai.runtime.sessions.steps import homes\n"
        "async def refuse(*_):\n    raise SeraiError('told to')\n"
        "homes.delete = refuse",
        {"a removed session is gone"},
    ),
    "data is lost": (
        "import os\nfrom serai.runtime.sessions.steps import homes\nunlock = homes.unlock\n"
        "def lose(paths, name, uid):\n"
        "    (paths.home(name) / 'kept').unlink(missing_ok=True)\n"
        "    (paths.home(name) / 'kept').write_text('other')\n"
        "    (paths.home(name) / 'kept').chmod(0o644)\n"
        "    unlock(paths, name, uid)\n"
        "homes.unlock = lose",
        {"a reopened session has its files"},
    ),
    "payloads beside their session": (
        "from pathlib import Path\nfrom serai.runtime.sandbox import cgroups\n"
        "made = cgroups.make\n"
        "cgroups.make = lambda parent, name: made(parent.parent, name)",
        # Nobody finds such a payload, alive or not.
        {"a payload has a cgroup of its own", "a detached payload goes on"},
    ),
    "a secret in the environment": (
        "from serai.runtime.sessions.payloads import payloads\n"
        "from serai.runtime.sandbox import bwrap\n"
        "given = bwrap.environment\n"
        "bwrap.environment = lambda *a: {**given(*a), 'SECRET': 'x'}",
        {"a payload's environment is its own"},
    ),
    "an open gate": (
        "from serai.runtime.sessions.steps.gate_client import GateClient\ncall = GateClient.call\n"
        "async def open_all(self, method, /, **params):\n"
        "    if method == 'open':\n"
        "        params['policy'] = {'allow': ['*', '127.0.0.1']}\n"
        "    return await call(self, method, **params)\n"
        "GateClient.call = open_all",
        {
            "the gate denies what no rule allows",
            "a denial says what to do",
            "every decision is in the audit log",
        },
    ),
    "rules that do nothing": (
        "from serai.runtime.sessions.steps.gate_client import GateClient\ncall = GateClient.call\n"
        "async def ignore(self, method, /, **params):\n"
        "    if method == 'change':\n        return {'cut': 0}\n"
        "    return await call(self, method, **params)\n"
        "GateClient.call = ignore",
        {"the gate carries what a rule allows", "every decision is in the audit log"},
    ),
    "wrong explanations": (
        "from serai.runtime.sessions.steps.gate_client import GateClient\ncall = GateClient.call\n"
        "async def lie(self, method, /, **params):\n"
        "    found = await call(self, method, **params)\n"
        "    return {**found, 'allowed': True} if method == 'explain' else found\n"
        "GateClient.call = lie",
        {"the gate explains as it decides"},
    ),
}


@pytest.mark.parametrize("name", DAEMONS)
def test_a_daemon_that_leaves_a_step_out_is_seen(
    vm: Vm, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    code, wanted = DAEMONS[name]
    vm.kill()
    vm.start(weaken=code)
    try:
        # What stays is waited for in vain: long only where something else was late.
        for patience in (2.0, tenant.SETTLED):
            monkeypatch.setattr(tenant, "SETTLED", patience)
            if set(found := examined(vm)) == wanted:
                break
    finally:
        vm.kill()
        vm.start()
        wait_for(lambda: not vm.sessions())
    assert set(found) == wanted, found


def test_a_neighbour_that_cannot_read_its_own_file_proves_nothing(
    vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenant, "OPEN", "echo; rm -f open")
    found = examined(vm)
    assert set(found) == {check.name for check in CHECKS if check.part == "others"}
    assert set(found.values()) == {"not seen: the neighbour cannot read its file"}


def test_an_audit_log_that_was_changed_is_red(vm: Vm) -> None:
    def whole() -> bool:
        facts = Facts({"audit": collect.audit(vm.paths)})
        (log,) = [each for each in checks.CHECKS if each.part == "audit"]
        return judge(facts, {}, [log])[0].ok

    assert examined(vm) == {}
    assert whole()
    (file,) = [path for path in vm.paths.audit.iterdir() if b"decision" in path.read_bytes()]
    before = file.read_bytes()
    file.write_bytes(before.replace(b'"allowed":false', b'"allowed":true ', 1))
    try:
        assert file.read_bytes() != before
        assert not whole()
    finally:
        file.write_bytes(before)


def test_whatever_happens_no_session_is_left(vm: Vm, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tenant._Visit, "_egress", interrupted)
    with pytest.raises(KeyboardInterrupt):
        examined(vm)
    wait_for(lambda: not vm.sessions())


def test_what_a_killed_doctor_left_is_removed_by_the_next(vm: Vm) -> None:
    vm.call("create", name="doctor-dead", labels={DOCTOR: ""})
    vm.call("create", name="doctor-who")
    assert examined(vm) == {}
    wait_for(lambda: set(vm.sessions()) == {"doctor-who"})
    vm.call("remove", name="doctor-who")
    wait_for(lambda: not vm.sessions())


def test_a_process_that_ends_while_it_is_looked_at_is_left_out() -> None:
    ended = subprocess.Popen(["/bin/true"])
    ended.wait()
    assert tenant._places([ended.pid, os.getpid()]) == [cgroups.of(os.getpid())]


def test_without_a_daemon_every_check_inside_is_red(vm: Vm) -> None:
    vm.kill()
    try:
        assert len(examined(vm)) == len(CHECKS)
    finally:
        vm.start()
