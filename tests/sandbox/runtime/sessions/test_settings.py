"""session.toml while sessions run: it is read again on SIGHUP; limits, and what payloads meet."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from serai.common.errors import SeraiError
from tests.support.fake_vm import Vm
from tests.support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("unharmed")


@pytest.fixture
def text(vm: Vm) -> Iterator[str]:
    """What session.toml says before the test, and again after it."""
    before = vm.paths.settings.read_text()
    yield before
    vm.paths.settings.write_text(before)
    reload(vm, "the settings were read again")


def reload(vm: Vm, said: str) -> None:
    """Have the daemon read its settings again, as its unit does, and wait for what it says."""
    assert vm.daemon is not None
    log = vm.root / "sessiond.log"
    seen = len(log.read_text())
    vm.daemon.send_signal(signal.SIGHUP)
    wait_for(lambda: said in log.read_text()[seen:])


def test_new_settings_count_at_once_and_end_no_command(vm: Vm, text: str) -> None:
    running = subprocess.Popen(
        vm.command("exec", "one", "--", "sh", "-c", "echo ready; read word; echo $word"),
        env=vm.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert running.stdout is not None
    assert running.stdout.readline() == b"ready\n"
    vm.paths.settings.write_text(text.replace("[limits]\n", "[limits]\nstack = 1048576\n"))
    reload(vm, "the settings were read again")
    assert vm.serai("exec", "one", "--", "sh", "-c", "ulimit -s").stdout == "1024\n"
    out, _ = running.communicate(b"through\n")
    assert (running.returncode, out) == (0, b"through\n")


def test_what_may_be_attached_changes_with_them(vm: Vm, text: str, share: Path) -> None:
    vm.paths.settings.write_text("attachable = []\n" + text.partition("\n")[2])
    reload(vm, "the settings were read again")
    with pytest.raises(SeraiError, match="may not be attached"):
        vm.call("attach", name="one", role="outputs", path=str(share))
    vm.paths.settings.write_text(text)
    reload(vm, "the settings were read again")
    vm.call("attach", name="one", role="outputs", path=str(share))
    vm.call("detach", name="one", role="outputs")


def test_wrong_settings_are_refused_in_words_and_the_former_stay(vm: Vm, text: str) -> None:
    vm.paths.settings.write_text("[limits]\nnofiles = 7\n")
    reload(vm, "ERROR:serai:the settings of before stay: ")
    assert "unknown key limits.nofiles" in (vm.root / "sessiond.log").read_text()
    shown = vm.serai("exec", "one", "--", "sh", "-c", "ulimit -n").stdout
    assert f"nofile = {shown.strip()}\n" in text


@pytest.fixture
def counting(vm: Vm, one: None) -> Iterator[Path]:
    """A file that has as many lines as the kernel has killed processes of a session.

    A stand-in: no cgroup of the sandbox layer's has a memory controller.
    """
    count = vm.root / "killed"
    count.touch()
    weaken = (
        "from pathlib import Path; from serai.runtime.sandbox import cgroups\n"
        "cgroups.out_of_memory = "
        f"lambda cgroup: Path({str(count)!r}).read_text().count(chr(10)) if cgroup else 0"
    )
    assert vm.stop() == 0
    vm.start(weaken=weaken)
    yield count
    assert vm.stop() == 0
    vm.start()


def test_a_command_that_ran_out_of_memory_says_so(vm: Vm, name: str, counting: Path) -> None:
    with vm.client() as client:
        before = client.exec(name, ["sh", "-c", "kill -9 $$"])
        assert (before.status, before.out_of_memory) == (137, False)
    hog = subprocess.Popen(
        vm.command("exec", name, "--", "sh", "-c", "echo ready; read word; kill -9 $$"),
        env=vm.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert hog.stdout is not None
    assert hog.stdout.readline() == "ready\n"
    counting.write_text("one\n")
    _, said = hog.communicate("go\n")
    assert hog.returncode == 137
    assert said.startswith("serai: out of memory: ")
    shown = vm.serai("show", name).stdout
    assert "state: ready" in shown, "the command ended, and not the session"
    assert "out_of_memory: the kernel killed 1 process(es)" in shown
    done = vm.serai("exec", name, "--json", "--", "sh", "-c", "exit 3").stdout
    assert '"out_of_memory": false' in done


def test_a_session_that_ended_by_itself_says_why(vm: Vm, name: str, counting: Path) -> None:
    counting.write_text("one\ntwo\n")
    (main,) = [
        pid
        for pid in map(int, (vm.cgroup / name / "cgroup.procs").read_text().split())
        if Path(f"/proc/{pid}/stat").read_text().split()[3] == str(vm.manager.pid)
    ]
    os.kill(main, signal.SIGKILL)
    wait_for(lambda: vm.sessions()[name]["state"] == "stopped")
    reason = "it ended by itself; out of memory: the kernel had killed 2 of its processes"
    assert vm.call("show", name=name)["reason"] == reason
    assert f"reason: {reason}" in vm.serai("show", name).stdout
    assert vm.call("reopen", name=name)["reason"] is None


def test_how_many_processes_ended_with_their_command_is_told(vm: Vm) -> None:
    with vm.client() as client:
        script = "sleep 999 & setsid sleep 999 & exec >&- 2>&-"
        assert client.exec("one", ["sh", "-c", script]).left == 2
        assert client.exec("one", ["true"]).left == 0


def test_a_full_file_system_in_memory_is_an_error(vm: Vm, text: str) -> None:
    vm.paths.settings.write_text(text + '[resources]\nmemory_max = "16M"\n')
    reload(vm, "the settings were read again")
    version = subprocess.check_output(["/usr/bin/bwrap", "--version"], text=True)
    limited = " 0.6." not in version  # Ubuntu 22.04's; newer ones know --size
    vm.call("create", name="small")
    try:
        for place in ("/tmp", "/var/tmp", "/dev/shm"):
            size = vm.serai("exec", "small", "--", "df", "-B1", "--output=size", place).stdout
            assert (int(size.split()[1]) == 8 << 20) == limited
            if limited:
                fill = ["dd", "if=/dev/zero", f"of={place}/x", "bs=1M"]
                done = vm.serai("exec", "small", "--", *fill)
                assert done.returncode == 1
                assert "No space left on device" in done.stderr
    finally:
        vm.call("remove", name="small")
