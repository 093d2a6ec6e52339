"""kill -9 of the daemon before every step of attaching and detaching; then it starts again."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from serai.common.errors import SeraiError
from tests.support.fake_vm import Vm, opened


def operate(vm: Vm) -> None:
    """Every way to attach, to replace and to detach."""
    for number in "1234":
        (vm.root / "share" / number).mkdir(parents=True, exist_ok=True)
    share = str(vm.root / "share")
    vm.call("create", name="one", request_id="r1")
    vm.call("attach", name="one", role="outputs", path=f"{share}/1", kind="idmap")
    vm.call("attach", name="one", role="uploads", path=f"{share}/2", kind="bindfs")
    vm.call("attach", name="one", role="outputs", path=f"{share}/3", kind="bindfs")
    vm.call("attach", name="one", role="uploads", path=f"{share}/4", kind="idmap")
    vm.call("detach", name="one", role="uploads")
    vm.call("stop", name="one")
    vm.call("reopen", name="one")
    vm.call("detach", name="one", role="outputs")


def check(vm: Vm) -> None:
    """What is attached is mounted, nothing else is, and what serves nothing does not run."""
    if "one" not in vm.sessions():
        return
    shown = vm.call("show", name="one")
    running = shown["state"] == "ready"
    folders = shown["folders"]
    assert all((each["mount"] is not None) is running for each in folders), folders
    assert all(each["problem"] is None for each in folders), folders
    served = {f"one.{each['role']}" for each in folders if each["mount"] == "bindfs"}
    assert {group.name for group in vm.cgroup.glob("one.*")} == served
    assert str(vm.root) not in Path("/proc/self/mountinfo").read_text()
    if running:
        told = {each["role"]: each["attached"] for each in vm.call("hints", name="one")["roles"]}
        assert {role for role, attached in told.items() if attached} == {
            each["role"] for each in folders
        }
        done = vm.client().exec("one", ["sh", "-c", "cd mnt; mountpoint -q outputs; echo $?"])
        attached = "outputs" in {each["role"] for each in folders}
        assert done.stdout.strip() == (b"0" if attached else b"32"), (done, folders)
    vm.call("reopen", name="one")
    for each in folders:
        vm.call("detach", name="one", role=each["role"])
    assert vm.call("show", name="one")["folders"] == []
    assert not list(vm.cgroup.glob("one.*"))


def test_the_daemon_dies_before_every_step() -> None:
    with opened() as vm:
        vm.start()
        operate(vm)
        check(vm)
        vm.stop()
        steps = (vm.root / "faults").read_text().split()
    wanted = [
        number
        for number, step in enumerate(steps, 1)
        if step.partition(":")[0] in ("attach", "detach", "mount", "unmount")
    ]
    assert len(wanted) > 20
    for fatal in wanted:
        with opened() as vm:
            vm.start(fatal)
            with suppress(SeraiError):
                operate(vm)
            assert vm.daemon is not None
            assert vm.daemon.wait(30) == -9, f"it survived {steps[fatal - 1]}"
            vm.start()
            assert vm.daemon.poll() is None, f"no start after {steps[fatal - 1]}"
            check(vm)
