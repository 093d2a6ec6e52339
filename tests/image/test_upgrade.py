"""A new root image beside the old disk of sessions: all of theirs is there, whatever comes up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from serai.image import digest
from serai.image.boot import finish_boot
from serai.image.definition import Image
from serai.image.errors import BuildError
from serai.image.machine import Machine, booted
from serai.image.run import run
from serai.image.settings import Settings
from tests.image.sharing import Shared

FIRMWARE = 8.0  # seconds in which a disk without a system is looked at in vain
BEFORE = """
set -e
serai create kept --label task=42 && serai create stored
echo precious | serai exec kept -- sh -c 'umask 027; cat >file'
echo archived | serai exec stored -- sh -c 'cat >file'
serai policy allow kept example.org:443
serai exec kept -- curl --silent --output /dev/null http://denied.example/ || true
serai archive stored
sync
"""


def told(machine: Machine) -> dict[str, Any]:
    """What a person would ask of the sessions."""

    def say(command: str) -> str:
        return machine.ssh.run(command, timeout=300).stdout

    return {
        "uids": say("getent -s extrausers passwd kept stored").split(),
        "states": {
            each["name"]: each["state"]
            for each in json.loads(say("serai list --json"))["sessions"]
            if each["name"] in ("kept", "stored")
        },
        "labels": json.loads(say("serai show kept --json"))["labels"],
        "policy": json.loads(say("serai policy show kept --json")),
        "audit": say("serai audit --session kept").splitlines(),
        "owner": say("stat -c '%u %g %a' /sessions/kept/file /sessions/stored").split(),
    }


def test_a_new_image_finds_all_sessions_and_one_that_does_not_boot_harms_none(
    image: Image, settings: Settings, built: Path, shared: Shared, tmp_path: Path
) -> None:
    older, sessions = shared.machine, shared.sessions
    older.ssh.run(BEFORE, timeout=600)
    before = told(older)
    machine_id = older.ssh.run("cat /etc/machine-id").stdout
    assert older.shutdown()
    assert any("denied.example" in line for line in before["audit"])
    assert before["states"] == {"kept": "ready", "stored": "archived"} or before["states"] == {
        "kept": "active",
        "stored": "archived",
    }

    blank, at_rest = tmp_path / "blank.qcow2", digest.of_file(sessions)
    run(["qemu-img", "create", "-q", "-f", "qcow2", blank, image.disk.size])
    with (
        pytest.raises(BuildError),
        booted(
            image,
            blank,
            settings=settings,
            work=tmp_path / "blank",
            sessions=sessions,
            deadline=FIRMWARE,
        ),
    ):
        pass
    assert digest.of_file(sessions) == at_rest

    disk = built / f"{image.name}.qcow2"
    with booted(
        image, disk, settings=settings, work=tmp_path / "new", sessions=sessions
    ) as machine:
        assert finish_boot(machine) == "running"
        assert machine.ssh.run("cat /etc/machine-id").stdout != machine_id
        after = told(machine)
        assert after["states"].pop("kept") in ("ready", "active", "stopped")
        before["states"].pop("kept")
        assert after["audit"][: len(before["audit"])] == before["audit"]
        del before["audit"], after["audit"]
        assert after == before
        machine.ssh.run("serai audit --verify", timeout=300)
        machine.ssh.run("serai switch kept && serai reopen stored", timeout=300)
        for name, text in (("kept", "precious"), ("stored", "archived")):
            said = machine.ssh.run(f"serai exec {name} -- cat file", timeout=300).stdout
            assert said == f"{text}\n"
        machine.ssh.run("serai create newcomer", timeout=300)
        uids = machine.ssh.run("id -u stored; id -u newcomer").stdout.split()
        assert int(uids[0]) < int(uids[1])
        assert machine.shutdown()
