"""The playbook against a booted systemd: check, converge, again, seal, and what comes up then.

The machine is a container on the host's network, with sshd on a port of its own at 127.0.0.1. It
may not change the network's configuration, and has no disks.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from serai.image import nspawn
from serai.image.nspawn import USER, Guest, Machine
from serai.image.run import run
from serai.image.settings import Settings

ROOT = Path(__file__).resolve().parents[2]

# The smallest profile that installs something; the standard one takes 1.3 GB.
TOOLS = ("--extra-vars", "toolchain_profile=minimal")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A fresh Debian with the build user, as the base of an image has it."""
    folder = tmp_path_factory.mktemp("guest")
    run(["cp", "--archive", "--reflink=auto", nspawn.base(Settings.of()), folder / "root"])
    made = Guest(folder / "root", folder, ROOT)
    made.prepare()
    yield made
    shutil.rmtree(made.root)  # half a gigabyte, which pytest would keep three times over


def verify_the_reference(machine: Machine) -> None:
    """What the roles that make a machine like the reference leave behind."""
    for tool in ("git", "jq", "pip3", "python3", "rg"):
        assert machine.shell(f"{tool} --version"), tool
    for tool in ("node", "gcc", "go", "rustc", "docker", "snap"):
        assert machine.run("sh", "-c", f"command -v {tool}", check=False).returncode != 0, tool
    said = dict(line.partition(" ")[::2] for line in machine.shell("sshd -T").splitlines())
    assert said["passwordauthentication"] == "no"
    assert said["permitrootlogin"] == "without-password"
    assert said["x11forwarding"] == "no"
    assert machine.shell("cat /etc/default/locale /etc/timezone") == "LANG=C.UTF-8\nEtc/UTC"
    assert machine.shell("readlink /etc/localtime") == "/usr/share/zoneinfo/Etc/UTC"
    assert machine.shell("systemctl is-enabled swap.target", check=False) == "masked"
    login = machine.shell(
        f"su - {USER} -c 'ulimit -Hn; ulimit -u; ulimit -s; ulimit -l; ulimit -c'"
    )
    files, *others = login.split()
    # The build host may allow no more to anybody in its containers: then it is what root has too.
    assert files in ("524288", machine.shell("ulimit -Hn"))
    assert others == ["14813", "8192", "8192", "0"]
    shown = machine.shell("systemctl show -P ProtectProc serai-session@name.service")
    assert shown == "invisible"
    assert machine.shell("dpkg-query -W -f '${Status}' qemu-guest-agent").endswith("installed")
    # Every line is a setting, with the sign that lets a kernel lack it.
    for name in ("60-serai", "60-serai-limits"):
        lines = machine.shell(f"grep -v '^#' /etc/sysctl.d/{name}.conf").splitlines()
        assert lines
        assert all(re.fullmatch(r"-?[a-z0-9_.]+ = \w+", line) for line in lines), lines


def test_an_image_is_made_of_a_fresh_machine(guest: Guest) -> None:
    with guest.booted() as machine:
        guest.play("--check", "--diff", *TOOLS)
        assert not (guest.root / "usr/lib/serai").exists(), "check mode changed the machine"
        assert guest.play(*TOOLS)["changed"] > 0
        assert guest.play(*TOOLS)["changed"] == 0
        verify_the_reference(machine)
        units = "serai-session-disk.service sessions.mount serai-session-disk-grow.service"
        units += " serai-sessiond.service serai-session@name.service serai.slice"
        units += " serai-ssh-host-keys.service serai-seal.service serai-share@name.service"
        assert machine.shell(f"systemd-analyze verify {units} 2>&1") == ""
        assert machine.shell("systemctl --failed --no-legend") == ""
        guest.ssh(USER, "sudo -n shutdown -P now", check=False)  # as Packer does
        machine.process.wait(nspawn.DEADLINE)
    assert "serai-seal: powering off" in guest.console.read_text(errors="replace")


def test_a_sealed_machine_knows_nothing_of_the_build(guest: Guest) -> None:
    """After the test above, which leaves the sealed machine powered off."""
    etc, var = guest.root / "etc", guest.root / "var"
    assert (etc / "machine-id").read_text() == ""
    assert not list(etc.glob("ssh/ssh_host_*"))
    assert not list(guest.root.glob("home/*"))
    logs = [path for path in var.glob("log/**/*") if path.is_file() and not path.is_symlink()]
    assert not [path for path in logs if path.stat().st_size]
    for folder in ("lib/apt/lists", "tmp", "backups", "log/journal"):
        assert not list((var / folder).glob("*")), folder
    assert not (var / "lib/systemd/random-seed").exists()
    for path in etc.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert USER.encode() not in path.read_bytes(), path


def test_a_sealed_machine_comes_up_with_an_identity_of_its_own(guest: Guest) -> None:
    guest.allow("root", guest.root / "root")
    with guest.booted("root") as machine:
        assert machine.shell("systemctl is-system-running --wait") == "running"
        assert len(machine.shell("cat /etc/machine-id")) == 32
        assert machine.shell("hostname") == "serai"
        assert machine.shell("systemctl is-enabled sessions.mount") == "enabled"
        state = "systemctl show -P ActiveState"
        assert machine.shell(f"{state} sessions.mount") == "inactive", "its disks are its host's"
        said = machine.shell(f"{state} serai-sessiond.service")
        assert said == "inactive", "there is no disk for sessions"
