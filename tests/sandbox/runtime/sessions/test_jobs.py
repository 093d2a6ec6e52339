"""Jobs: found again from any connection, whole after the daemon was killed, told once."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serai.common.errors import (
    CONFLICT,
    NO_COMMAND,
    NO_ROOM,
    NOT_FOUND,
    TIMEOUT,
    WRONG_STATE,
    SeraiError,
)
from serai.common.jsonrpc_server import MAX_PENDING
from serai.runtime.sandbox.job_log import HEAD, TAIL
from tests.sandbox.runtime.api.test_hostile import HOSTILE, STAYS
from tests.support.fake_vm import CHECKOUT, DEADLINE, Vm
from tests.support.waiting import wait_for

KILL = "os.kill(os.getpid(), signal.SIGKILL)"
DEATHS = {
    "before": f"""
from serai.runtime.sessions.payloads import jobs
async def die(*_): {KILL}
jobs.Jobs._run = die
""",
    "at the door": f"""
from serai.runtime.sessions.payloads import holders
admit = holders.JobDoor.admit
def die(*given): admit(*given); {KILL}
holders.JobDoor.admit = die
""",
    "on its way": f"""
from serai.runtime.sessions.payloads import payloads
async def die(*_): {KILL}
payloads.Payloads._arrived = die
""",
}
BLIND = f"""
import pathlib
from serai.runtime.sandbox import holder
text = pathlib.Path(holder.__file__).read_text().replace("reaper.take_threads(job.pid)", "None")
first = "from serai.common import linux"
text = text.replace(first, "sys.path.insert(0, '{CHECKOUT}/src')\\n" + first)
holder.__file__ = sys.argv[1] + "/holder.py"
pathlib.Path(holder.__file__).write_text(text)
"""
OLDER = BLIND.replace('"reaper.take_threads(job.pid)", "None"', '"HEAR and fds", "None and fds"')
"""A holder of before decision 52, which knows no HEAR and listens at UID-1.sock."""


SLOW = """
import asyncio
from serai.runtime.sessions.payloads.jobs import Jobs
async def late(self, job, end=Jobs.end_input):
    while self.running(job): await asyncio.sleep(.01)
    await end(self, job)
Jobs.end_input = late
"""
"""A daemon that closes a job's input when what it was given has ended it."""


@pytest.fixture
def few(vm: Vm) -> Iterator[None]:
    """A daemon that keeps four jobs of a session."""
    assert vm.stop() == 0
    vm.start(weaken="from serai.runtime.sessions.payloads import jobs; jobs.MOST = 4")
    yield
    assert vm.stop() == 0
    vm.start()


@pytest.fixture
def blind(vm: Vm) -> Iterator[Vm]:
    """The same VM, whose holders take no ended threads away."""
    assert vm.stop() == 0
    vm.start(weaken=BLIND)
    yield vm
    assert vm.stop() == 0
    vm.start()


@pytest.fixture
def name(vm: Vm) -> Iterator[str]:
    """A session that runs. Afterwards no process of it is left, nor a file of its jobs."""
    made: str = vm.call("create")["name"]
    uid = str(vm.sessions()[made]["uid"])
    yield made
    with contextlib.suppress(SeraiError):  # it is gone, or is just going
        vm.call("remove", name=made)
    wait_for(lambda: made not in vm.sessions())
    assert not (vm.paths.jobs / uid).exists()
    assert not list(vm.paths.holders.glob(f"{uid}-*"))


def start(vm: Vm, name: str, script: str, **more: Any) -> str:
    return str(vm.call("job.start", name=name, argv=["sh", "-c", script], **more)["job"])


def ended(vm: Vm, job: str) -> dict[str, Any]:
    found: dict[str, Any] = vm.call("job.wait", job=job, timeout=DEADLINE)
    assert found["state"] == "ended"
    return found


def output(vm: Vm, job: str, offset: int = 0) -> bytes:
    """All that is kept of a job's output."""
    kept = b""
    while True:
        found = vm.call("job.read", job=job, offset=offset, limit=512 << 10)
        data = base64.b64decode(found["data"])
        if not data:
            return kept
        kept, offset = kept + data, found["next"]


def test_a_job_has_output_and_an_end(vm: Vm, name: str) -> None:
    job = start(vm, name, "echo out; echo err >&2; echo $A; pwd; exit 7", env={"A": "x"})
    found = ended(vm, job)
    assert (found["status"], found["signal"], found["reason"]) == (7, None, "exit")
    assert output(vm, job) == f"out\nerr\nx\n{vm.paths.home(name)}\n".encode()
    assert found["written"] == len(output(vm, job))
    assert found["ended_at"] >= found["started_at"]
    assert [each["job"] for each in vm.call("job.list", name=name)["jobs"]] == [job]


def test_every_way_to_end_is_told(vm: Vm, name: str) -> None:
    killed = start(vm, name, "kill -9 $$")
    late = start(vm, name, "trap '' TERM; echo up; while :; do sleep 1; done", timeout=0.2)
    leaving = start(vm, name, "setsid sleep 999 & exec true")
    assert [ended(vm, killed)[key] for key in ("status", "signal", "reason")] == [137, 9, "signal"]
    assert [ended(vm, late)[key] for key in ("status", "reason")] == [124, "timed out"]
    assert ended(vm, leaving)["left"] == 1
    told = start(vm, name, "trap 'exit 5' USR1; echo up; while :; do sleep 0.05; done")
    wait_for(lambda: output(vm, told))
    vm.call("job.signal", job=told, signal="USR1")
    assert ended(vm, told)["status"] == 5
    with pytest.raises(SeraiError, match="has ended") as caught:
        vm.call("job.signal", job=told, signal="TERM")
    assert caught.value.code == NOT_FOUND
    with pytest.raises(SeraiError) as caught:
        vm.call("job.start", name=name, argv=["nowhere"])
    assert caught.value.code == NO_COMMAND
    assert len(vm.call("job.list", name=name)["jobs"]) == 4, "what did not run is no job"
    assert not list(vm.cgroup.glob(f"{name}/job-*"))


def test_a_killed_daemon_loses_no_job_no_byte_and_no_status(vm: Vm, name: str) -> None:
    lines = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; exit 3"
    wanted = b"".join(b"line %d\n" % each for each in range(20000))
    jobs = [start(vm, name, f"read x; {lines}", stdin=True) for _ in range(3)]
    for job in jobs:
        vm.call("job.input", job=job, data=base64.b64encode(b"go\n").decode(), eof=True)
    for _ in range(3):
        vm.kill()
        vm.start()
    for job in jobs:
        assert ended(vm, job)["status"] == 3
        assert output(vm, job) == wanted
    assert [each["status"] for each in vm.call("job.list", name=name)["jobs"]] == [3, 3, 3]


def test_to_close_the_input_of_one_that_has_just_ended_is_no_error(vm: Vm, name: str) -> None:
    assert vm.stop() == 0
    vm.start(weaken=SLOW)
    job = start(vm, name, "read x; exit $x", stdin=True)
    assert vm.call("job.input", job=job, data=base64.b64encode(b"4\n").decode(), eof=True) == {}
    assert ended(vm, job)["status"] == 4
    with pytest.raises(SeraiError) as caught:
        vm.call("job.input", job=job, eof=True)
    assert caught.value.code == NOT_FOUND
    assert vm.stop() == 0
    vm.start()


def test_a_job_ends_while_no_daemon_runs(vm: Vm, name: str) -> None:
    job = start(vm, name, "read x; echo $x; exit 4", stdin=True)
    (folder,) = (vm.paths.jobs / str(vm.sessions()[name]["uid"])).iterdir()
    with vm.client() as client:
        client.call("job.input", job=job, data=base64.b64encode(b"last words\n").decode())
        vm.kill()
    wait_for((folder / "status").exists)
    vm.start()
    assert ended(vm, job)["status"] == 4
    assert output(vm, job) == b"last words\n"


@pytest.mark.parametrize("code", DEATHS.values(), ids=list(DEATHS))
def test_a_daemon_that_dies_while_it_starts_a_job_loses_none(vm: Vm, name: str, code: str) -> None:
    """What the client repeats with the same ID runs once, and its status is told."""
    assert vm.stop() == 0
    vm.start(weaken=code)
    script = "echo ran >>~/ran; exit 5"
    with vm.client() as client, pytest.raises(SeraiError, match=r"hung up|no answer"):
        argv = ["sh", "-c", script]
        client.call("job.start", name=name, argv=argv, request_id="r3")
    vm.kill()
    vm.start()
    assert ended(vm, start(vm, name, script, request_id="r3"))["status"] == 5
    assert vm.paths.home(name).joinpath("ran").read_text() == "ran\n"


def test_a_request_that_is_repeated_runs_once(vm: Vm, name: str) -> None:
    script = "echo ran >>~/runs; sleep 999"
    first = start(vm, name, script, request_id="r1")
    assert start(vm, name, script, request_id="r1") == first
    vm.kill()
    vm.start()
    assert start(vm, name, script, request_id="r1") == first
    runs = vm.paths.home(name) / "runs"
    wait_for(lambda: runs.exists() and runs.read_text())
    assert runs.read_text() == "ran\n"
    with pytest.raises(SeraiError, match="was used for another job") as caught:
        start(vm, name, "true", request_id="r1")
    assert caught.value.code == CONFLICT


def test_a_request_that_never_began_is_begun_when_it_is_repeated(vm: Vm, name: str) -> None:
    job = start(vm, name, "echo ran; exit 3", request_id="r2")
    assert ended(vm, job)["status"] == 3
    folder = vm.paths.jobs / str(vm.sessions()[name]["uid"]) / job.partition("/")[2]
    (folder / "status").unlink()
    assert ended(vm, job)["reason"] == "not started"
    assert start(vm, name, "echo ran; exit 3", request_id="r2") == job
    assert (ended(vm, job)["status"], output(vm, job)) == (3, b"ran\n")
    (folder / "status").rename(folder / "begun")
    assert ended(vm, job)["reason"] == "lost"
    assert start(vm, name, "echo ran; exit 3", request_id="r2") == job
    assert ended(vm, job)["reason"] == "lost", "it may have run, so it does not again"


def test_the_oldest_that_have_ended_go(vm: Vm, name: str, few: None) -> None:
    first = start(vm, name, "sleep 999")
    jobs = [start(vm, name, "true") for _ in range(3)]
    for job in jobs:
        ended(vm, job)
    last = start(vm, name, "sleep 999")
    kept = [each["job"] for each in vm.call("job.list", name=name)["jobs"]]
    assert kept == [first, *jobs[1:], last]
    others = [start(vm, name, "sleep 999") for _ in range(2)]
    assert len(others) == 2
    with pytest.raises(SeraiError, match="4 jobs run in session") as caught:
        start(vm, name, "true")
    assert caught.value.code == NO_ROOM
    assert len(vm.call("job.list", name=name)["jobs"]) == 4


def test_long_commands_do_not_keep_a_list_from_being_told(vm: Vm, name: str) -> None:
    argv = ["true", *["x" * 100_000] * 9]
    jobs = [vm.call("job.start", name=name, argv=argv) for _ in range(3)]
    listed = vm.call("job.list", name=name)["jobs"]
    assert [sum(map(len, job["argv"])) for job in listed] == [1024] * 3
    assert [vm.call("job.show", job=job["job"])["argv"] for job in jobs] == [argv] * 3


def test_what_a_power_cut_left_of_a_job_costs_no_other(vm: Vm, name: str) -> None:
    jobs = [start(vm, name, "echo ran; exit 3", request_id=each) for each in ("p1", "p2", "p3")]
    for job in jobs:
        assert ended(vm, job)["status"] == 3
    folders = [vm.paths.jobs / str(vm.sessions()[name]["uid"]) / job[-12:] for job in jobs]
    (folders[0] / "job.json").write_bytes(b"")
    (folders[1] / "status").write_bytes(bytes(512))
    told = {job["job"]: job["reason"] for job in vm.call("job.list")["jobs"]}
    assert told.keys() >= {*jobs[1:]} and jobs[0] not in told
    assert told[jobs[2]] == "exit" != told[jobs[1]]
    with pytest.raises(SeraiError) as caught:
        vm.call("job.show", job=jobs[0])
    assert caught.value.code == NOT_FOUND
    assert start(vm, name, "echo ran; exit 3", request_id="p1") == jobs[0]
    assert ended(vm, jobs[0])["status"] == 3


def test_a_job_has_any_time_and_costs_no_other_its_end(vm: Vm, name: str) -> None:
    other = start(vm, name, "read x; exit 5", stdin=True)
    for timeout in (1e308, 86400.0 * 25):  # in milliseconds more than epoll_wait(2) takes
        assert vm.call("job.show", job=start(vm, name, "exec sleep 60", timeout=timeout))
        vm.call("job.signal", job=other, signal="CONT")  # its holder has gone on to wait
    assert all(job["state"] == "running" for job in vm.call("job.list", name=name)["jobs"])
    vm.call("job.input", job=other, data=base64.b64encode(b"\n").decode())
    assert ended(vm, other)["status"] == 5


def test_a_holder_that_is_kept_from_working_is_said_not_to_answer(vm: Vm, name: str) -> None:
    job = start(vm, name, "exec sleep 60")
    (pid,) = map(int, (vm.cgroup / name / "holder/cgroup.procs").read_text().split())
    os.kill(pid, signal.SIGSTOP)
    codes = set()
    try:
        with vm.client() as one, vm.client() as two, vm.client() as three:
            for client in (one, two, three):  # more than wait in its queue
                for _ in range(MAX_PENDING):
                    client.ask("job.signal", {"job": job, "signal": "CONT"})
            for client in (one, two, three):
                codes |= {client.message()["error"]["code"] for _ in range(MAX_PENDING)}
    finally:
        os.kill(pid, signal.SIGCONT)
    assert codes == {TIMEOUT}


def test_a_long_output_keeps_its_head_and_its_tail(vm: Vm, name: str) -> None:
    job = start(vm, name, "head -c 9000000 /dev/zero; echo; echo end")
    assert ended(vm, job)["written"] == 9_000_005
    kept = output(vm, job)
    assert len(kept) == HEAD + TAIL
    assert kept.endswith(b"\0\nend\n")
    gap = vm.call("job.read", job=job, offset=HEAD)
    assert gap["offset"] == 9_000_005 - TAIL
    assert base64.b64decode(vm.call("job.read", job=job, offset=9_000_000)["data"]) == b"\nend\n"


def test_a_stopped_session_says_so_and_keeps_the_output(vm: Vm, name: str) -> None:
    job = start(vm, name, "echo before; sleep 999")
    wait_for(lambda: output(vm, job))
    vm.call("switch", name=name)
    other = vm.call("create")["name"]
    vm.call("switch", name=other)
    assert vm.call("job.show", job=job)["state"] == "running", "frozen is not ended"
    assert output(vm, job) == b"before\n"
    with pytest.raises(SeraiError) as caught:
        vm.call("job.signal", job=job)
    assert caught.value.code == WRONG_STATE
    vm.call("stop", name=name)
    found = vm.call("job.show", job=job)
    assert (found["state"], found["status"], found["reason"]) == ("ended", None, "session stopped")
    vm.call("archive", name=name)
    assert output(vm, job) == b"before\n"
    vm.call("reopen", name=name)
    assert ended(vm, start(vm, name, "exit 2"))["status"] == 2
    vm.call("remove", name=other)


def test_systemd_ends_the_holder_and_it_writes_down_the_ends(vm: Vm, name: str) -> None:
    job = start(vm, name, "echo up; exec sleep 999")
    wait_for(lambda: output(vm, job))
    (holder,) = map(int, (vm.cgroup / name / "holder/cgroup.procs").read_text().split())
    os.kill(holder, signal.SIGTERM)
    for each in (vm.cgroup / name).glob("job-*/cgroup.procs"):
        for pid in each.read_text().split():
            os.kill(int(pid), signal.SIGKILL)
    found = ended(vm, job)
    assert (found["status"], found["reason"]) == (137, "session stopped")
    wait_for(lambda: not Path(f"/proc/{holder}").exists())
    assert ended(vm, start(vm, name, "exit 6"))["status"] == 6, "another holder is started"


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_job_ends_and_leaves_nothing(vm: Vm, name: str, kind: str) -> None:
    argv = ["/usr/bin/python3", "-c", HOSTILE[kind]]
    ended(vm, start(vm, name, "true"))
    idle = vm.processes()
    stays = kind in STAYS
    jobs = [
        vm.call("job.start", name=name, argv=argv, timeout=0.5 if stays else 20)["job"]
        for _ in range(5)
    ]
    assert {ended(vm, job)["reason"] for job in jobs} == {"timed out" if stays else "exit"}
    wait_for(lambda: vm.processes() <= idle)  # what ended late counted before
    wait_for(lambda: not list(vm.cgroup.glob(f"{name}/job-*")))


def test_a_holder_that_takes_no_threads_away_never_sees_it_end(blind: Vm, name: str) -> None:
    assert ended(blind, start(blind, name, "exit 3"))["status"] == 3
    argv = ["/usr/bin/python3", "-c", HOSTILE["traced threads"]]
    job = blind.call("job.start", name=name, argv=argv)["job"]
    assert blind.call("job.wait", job=job, timeout=1)["state"] == "running"


def test_an_upgraded_daemon_still_speaks_to_the_jobs_of_before(vm: Vm, name: str) -> None:
    assert vm.stop() == 0
    vm.start(weaken=OLDER)
    job = start(vm, name, "exec sleep 999")
    assert vm.stop() == 0
    vm.start()
    assert vm.paths.holders.joinpath(f"{vm.sessions()[name]['uid']}-1.sock").exists()
    vm.call("job.signal", job=job, signal="TERM")
    assert ended(vm, job)["signal"] == signal.SIGTERM
    refused = (
        "import socket\ntry: socket.socket(socket.AF_UNIX)\nexcept OSError: raise SystemExit(7)"
    )
    found = vm.call("job.start", name=name, argv=["/usr/bin/python3", "-c", refused])
    found = ended(vm, found["job"])
    assert (found["status"], found["refused"]) == (7, [])


def test_a_job_whose_holder_is_killed_is_lost_and_the_next_one_runs(vm: Vm, name: str) -> None:
    job = start(vm, name, "echo up; exec sleep 999")
    wait_for(lambda: output(vm, job))
    (holder,) = map(int, (vm.cgroup / name / "holder/cgroup.procs").read_text().split())
    os.kill(holder, signal.SIGKILL)
    found = ended(vm, job)
    assert (found["status"], found["reason"]) == (None, "lost")
    wait_for(lambda: not Path(f"/proc/{holder}").exists())  # its socket goes after its files' locks
    assert ended(vm, start(vm, name, "exit 6"))["status"] == 6


def test_a_client_that_follows_a_removed_session_is_told(vm: Vm, name: str) -> None:
    job = start(vm, name, "sleep 999")
    command = vm.command("logs", "-f", job)
    with subprocess.Popen(command, env=vm.env, stdout=-1, stderr=-1) as child:
        wait_for(lambda: vm.descriptors() > 0)
        vm.call("remove", name=name)
        _, said = child.communicate(timeout=DEADLINE)
    assert child.returncode in (0, 1)
    assert said.count(b"\n") <= 1
    for method in ("job.show", "job.read", "job.wait", "job.signal", "job.input"):
        with pytest.raises(SeraiError) as caught:
            vm.call(method, job=job)
        assert caught.value.code in (NOT_FOUND, WRONG_STATE)
    for wrong in ("x", f"{name}/../..", f"{name}/", "/" + "0" * 12):
        with pytest.raises(SeraiError):
            vm.call("job.show", job=wrong)


def test_many_idle_jobs_take_no_memory_of_the_daemon(vm: Vm, name: str) -> None:
    def memory() -> int:
        """Its own, in KiB: a share of others' grows when these end."""
        assert vm.daemon is not None
        lines = Path(f"/proc/{vm.daemon.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("RssAnon:")).split()[1])

    with vm.client() as client:
        for _ in range(3):
            client.call("job.start", name=name, argv=["sleep", "999"])
        before, descriptors = memory(), vm.descriptors()
        for _ in range(40):
            client.call("job.start", name=name, argv=["sleep", "999"])
        client.call("job.list")
        wait_for(lambda: vm.descriptors() <= descriptors)
        assert memory() - before < 400, "KiB, of which 4 MiB a thousand jobs are 160"


def test_the_commands(vm: Vm, name: str) -> None:
    made = vm.serai("start", name, "--stdin", "--env", "A=b", "--", "sh", "-c", "echo $A; cat -")
    job = made.stdout.strip()
    assert made.returncode == 0 and job.startswith(f"{name}/"), made.stderr
    assert f"{job}  running" in vm.serai("jobs", name).stdout
    wait_for(lambda: vm.serai("logs", job).stdout == "b\n")
    attached = subprocess.run(
        vm.command("attach-job", job),
        env=vm.env,
        input=b"typed\n",
        capture_output=True,
        check=False,
    )
    assert (attached.stdout, attached.returncode) == (b"b\ntyped\n", 0), attached.stderr
    assert vm.serai("logs", "--offset", "2", "-f", job).stdout == "typed\n"
    idle = vm.serai("start", name, "--", "sleep", "999").stdout.strip()
    assert vm.serai("wait", idle, "--timeout", "0").returncode == 124
    assert vm.serai("kill", idle, "--signal", "SIGINT").returncode == 0
    assert vm.serai("wait", idle).returncode == 130
    unknown = vm.serai("wait", f"{name}/000000000000")
    assert unknown.returncode == 125 and "there is no job" in unknown.stderr  # 1 is a job's own
    assert "ended (130)" in vm.serai("jobs").stdout
    refused = vm.serai("logs", f"{name}/none")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
