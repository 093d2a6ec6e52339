"""The seal, and what comes up of a sealed container: check, converge, again, power off, boot.

The machine is a container on the host's network, with sshd on a port of its own at 127.0.0.1. It
may not change the network's configuration, and has no disks. All other roles have made it already;
tests/container/image/test_provision.py has what they make of a fresh one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from serai.image.build.playbook import BUILD_USER
from serai.image.container import roots
from serai.image.container.ansible_host import AnsibleHost
from serai.image.container.container import DEADLINE
from serai.image.run import run
from serai.image.settings import Settings
from tests.conftest import ROOT
from tests.support import chosen

SERAI = ("--tags", "serai")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnsibleHost]:
    """A container just before its seal."""
    folder = tmp_path_factory.mktemp("guest")
    root = roots.provisioned(Settings.of(), image=chosen.IMAGE)
    run(["cp", "--archive", "--reflink=auto", root, folder / "root"])
    made = AnsibleHost(folder / "root", folder, ROOT)
    made.prepare()
    yield made
    shutil.rmtree(made.root)  # half a gigabyte, which pytest would keep three times over


def test_an_image_is_made_of_a_machine(guest: AnsibleHost) -> None:
    with guest.booted() as container:
        assert guest.play("--check", "--diff", *SERAI)["changed"] > 0
        left = "ls /run/serai/seal /etc/systemd/system/serai-ssh-host-keys.service"
        assert container.shell(left, check=False) == "", "check mode changed the container"
        assert guest.play(*SERAI)["changed"] > 0
        assert guest.play(*SERAI)["changed"] == 0
        units = "serai-session-disk.service sessions.mount serai-session-disk-grow.service"
        units += " serai-ssh-host-keys.service serai-seal.service"
        assert container.shell(f"systemd-analyze verify {units} 2>&1") == ""
        assert container.shell("systemctl --failed --no-legend") == ""
        guest.ssh(BUILD_USER, "sudo -n shutdown -P now", check=False)  # as Packer does
        container.process.wait(DEADLINE)
    assert "serai-seal: powering off" in guest.console.read_text(errors="replace")


def test_a_sealed_machine_knows_nothing_of_the_build(guest: AnsibleHost) -> None:
    """After the test above, which leaves the sealed container powered off."""
    etc, var = guest.root / "etc", guest.root / "var"
    assert (etc / "machine-id").read_text() == ""
    assert not list(etc.glob("ssh/ssh_host_*"))
    assert not list(guest.root.glob("home/*"))
    logs = [path for path in var.glob("log/**/*") if path.is_file() and not path.is_symlink()]
    assert not [path for path in logs if path.stat().st_size]
    for folder in ("lib/apt/lists", "tmp", "backups", "log/journal"):
        assert not list((var / folder).glob("*")), folder
    assert not (var / "lib/systemd/random-seed").exists()
    sources = (etc / "apt/sources.list").read_text()
    assert not (etc / "apt/sources.list.shipped").exists()
    suite = roots.suite(Settings.of(), chosen.IMAGE)
    for each in (suite, f"{suite}-updates", f"{suite}-security"):
        assert f" {each} main\n" in sources
    for path in etc.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert BUILD_USER.encode() not in path.read_bytes(), path


def test_a_sealed_machine_comes_up_with_an_identity_of_its_own(guest: AnsibleHost) -> None:
    guest.allow("root", guest.root / "root")
    with guest.booted("root") as container:
        assert container.shell("systemctl is-system-running --wait") == "running"
        assert len(container.shell("cat /etc/machine-id")) == 32
        assert container.shell("hostname") == "serai"
        assert container.shell("systemctl is-enabled sessions.mount") == "enabled"
        state = "systemctl show -P ActiveState"
        assert container.shell(f"{state} sessions.mount") == "inactive", "its disks are its host's"
        said = container.shell(f"{state} serai-sessiond.service")
        assert said == "inactive", "there is no disk for sessions"
