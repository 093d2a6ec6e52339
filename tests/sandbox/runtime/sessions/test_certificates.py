"""What a session is given by the gate: a folder of certificates, and variables."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Iterator

import pytest

from serai.common.paths import CERTIFICATES
from tests.support.fake_vm import DEADLINE, Vm, opened


@pytest.fixture(scope="module")
def vm() -> Iterator[Vm]:
    with opened() as machine:
        with machine.paths.settings.open("a") as settings:
            settings.write('[environment]\nSSL_CERT_FILE = "/company"\nCOMPANY = "1"\n')
        machine.start()
        yield machine


def sh(vm: Vm, name: str, script: str, **env: str) -> str:
    with vm.client() as client:
        done = client.exec(name, ["sh", "-c", script], env=env)
    return done.stdout.decode().strip()


def give(vm: Vm, name: str, **environment: str) -> None:
    """As the gate gives it."""
    file = vm.paths.gate_state / f"{name}.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "environment": environment}))


def test_the_folder_is_seen_inside_and_only_the_gate_writes(vm: Vm, name: str) -> None:
    folder = vm.paths.certificates(name)
    uid = vm.sessions()[name]["uid"]
    status = folder.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o2750, uid)
    for text in ("one", "two"):  # also what comes later
        (folder / "new").write_text(text)
        (folder / "new").rename(folder / "ca.pem")
        assert sh(vm, name, f"cat {CERTIFICATES}/ca.pem") == text
    said = sh(vm, name, f"touch {CERTIFICATES}/x 2>&1; rm {CERTIFICATES}/ca.pem 2>&1")
    assert said.count("Read-only file system") == 2
    assert (folder / "ca.pem").stat().st_gid == uid  # no other session's user passes


def test_the_gate_s_variables_are_weaker_than_what_was_given_on_purpose(vm: Vm) -> None:
    vm.call("create", name="red", env={"OWN": "own", "BOTH": "own"})
    shown = 'echo "$SSL_CERT_FILE $COMPANY $OWN $BOTH $KEY"'
    assert sh(vm, "red", shown) == "/company 1 own own"
    give(vm, "red", SSL_CERT_FILE="/gate", BOTH="gate", KEY="gate")
    assert sh(vm, "red", shown) == "/gate 1 own own gate"
    assert sh(vm, "red", shown, KEY="exec", SSL_CERT_FILE="/exec") == "/exec 1 own own exec"
    vm.call("remove", name="red")


def test_jobs_get_them_too(vm: Vm, name: str) -> None:
    give(vm, name, KEY="gate")
    job = vm.call("job.start", name=name, argv=["sh", "-c", "echo $KEY"])["job"]
    vm.call("job.wait", job=job, timeout=DEADLINE)
    assert base64.b64decode(vm.call("job.read", job=job)["data"]) == b"gate\n"


def test_a_file_that_is_spoilt_keeps_nobody_from_starting(vm: Vm, name: str) -> None:
    file = vm.paths.gate_state / f"{name}.json"
    before = file.read_text()
    for text in ("{", "[]", '{"environment": 7}'):
        file.write_text(text)
        assert sh(vm, name, "echo $COMPANY") == "1"
    file.write_text(before)


def test_it_goes_with_the_session(vm: Vm) -> None:
    vm.call("create", name="green")
    folder = vm.paths.certificates("green")
    vm.call("stop", name="green")
    assert not folder.exists()
    vm.call("reopen", name="green")
    assert sh(vm, "green", f"ls -d {CERTIFICATES}") == CERTIFICATES
    assert folder.is_dir()
    stray = vm.paths.certificates("nobody")
    stray.mkdir()
    vm.stop()
    vm.start()
    assert folder.is_dir()
    assert not stray.exists()
    vm.call("remove", name="green")
    assert not folder.exists()


def test_a_session_of_before_gets_none_while_it_runs(vm: Vm, name: str) -> None:
    """It has no mount of the folder, and what the gate sees is whether the folder is there."""
    folder = vm.paths.certificates(name)
    sh(vm, name, "true")
    folder.rmdir()
    vm.stop()
    vm.start()
    assert sh(vm, name, "echo $COMPANY") == "1"
    assert not folder.exists()
    vm.call("stop", name=name)
    vm.call("reopen", name=name)
    assert folder.is_dir()
