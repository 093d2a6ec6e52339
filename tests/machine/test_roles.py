"""The playbook against a booted systemd: check, converge, again, seal, and what comes up then.

The machine is a container on the host's network, with sshd on a port of its own at 127.0.0.1. It
may not change the network's configuration, and has no disks.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from serai.image.run import run, started

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOK = ROOT / "playbooks/image.yml"
USER = "serai-build"
PACKAGES = "dbus,kmod,libpam-systemd,openssh-server,procps,python3-apt,sudo,systemd-sysv,udev"
DEADLINE = 180  # seconds for a boot or a shutdown, which take seconds on an idle host

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@dataclass(frozen=True)
class Guest:
    """A root folder that can be booted; ``user`` logs in with ``key``."""

    folder: Path
    port: int

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def key(self) -> Path:
        return self.folder / "key"

    @property
    def console(self) -> Path:
        return self.folder / "console.log"

    @contextmanager
    def booted(self, user: str) -> Iterator[None]:
        """The machine runs, and ``user`` can log in."""
        nspawn = ["systemd-nspawn", "--quiet", f"--directory={self.root}", "--boot"]
        nspawn += ["--register=no", "--keep-unit", "--private-users=no", "--link-journal=no"]
        nspawn += ["--capability=all", "--drop-capability=CAP_NET_ADMIN"]
        argv = ["unshare", "--mount", "--propagation", "private", "--", *nspawn]
        environment = {"SYSTEMD_NSPAWN_API_VFS_WRITABLE": "yes"}
        with started(argv, log=self.console, env=environment, grace=60) as process:
            deadline = time.monotonic() + DEADLINE
            while self.ssh(user, "true", check=False)[0] != 0:
                assert process.poll() is None, self.console.read_text(errors="replace")
                assert time.monotonic() < deadline, self.console.read_text(errors="replace")
                time.sleep(0.5)
            yield
            if process.poll() is None and self.powering_off():
                process.wait(DEADLINE)

    def powering_off(self) -> bool:
        return (self.folder / "off").exists()

    def ssh(self, user: str, command: str, *, check: bool = True) -> tuple[int, str]:
        argv = ["ssh", *_options(self.key), "-p", str(self.port), f"{user}@127.0.0.1", command]
        done = run(argv, check=check, timeout=DEADLINE)
        return done.returncode, done.stdout.strip()

    def play(self, *arguments: str) -> dict[str, int]:
        """Run the playbook; its recap."""
        inventory = self.folder / "inventory"
        inventory.write_text(
            f"guest ansible_host=127.0.0.1 ansible_port={self.port} ansible_user={USER} "
            f"ansible_ssh_private_key_file={self.key} "
            f"ansible_ssh_common_args='{' '.join(_options(self.key))}'\n"
        )
        program = Path(sys.executable).with_name("ansible-playbook")
        said = run(
            [program, "--inventory", inventory, PLAYBOOK, *arguments],
            env={"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        ).stdout
        recap = re.search(r"^guest +: (.*)$", said, re.MULTILINE)
        assert recap, said
        return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", recap[1])}


def _options(key: Path) -> list[str]:
    settings = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "IdentitiesOnly=yes"]
    settings += ["ConnectTimeout=5", "LogLevel=ERROR", "BatchMode=yes"]
    return ["-i", str(key), *(word for setting in settings for word in ("-o", setting))]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A fresh Debian with the build user, as the base of an image has it."""
    made = Guest(tmp_path_factory.mktemp("guest"), _free_port())
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", made.key])
    public = made.key.with_suffix(".pub").read_text().strip()
    login = f"/home/{USER}/.ssh"
    hook = f"""set -e; cd "$1"
        printf 'Port {made.port}\\nListenAddress 127.0.0.1\\n' >etc/ssh/sshd_config.d/test.conf
        chroot . useradd --create-home --shell /bin/bash {USER}
        echo '{USER} ALL=(ALL) NOPASSWD:ALL' >etc/sudoers.d/90-cloud-init-users
        mkdir .{login} && echo '{public}' >.{login}/authorized_keys
        chroot . chown -R {USER}: {login}
        echo machine >etc/hostname; echo 127.0.1.1 machine >>etc/hosts"""
    argv = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={PACKAGES}"]
    run([*argv, f"--customize-hook={hook}", "bookworm", made.root])
    yield made
    shutil.rmtree(made.root)  # half a gigabyte, which pytest would keep three times over


def _off(guest: Guest) -> None:
    """Have the machine power off as Packer does, and wait for it."""
    guest.ssh(USER, "sudo -n shutdown -P now", check=False)
    (guest.folder / "off").touch()


def test_an_image_is_made_of_a_fresh_machine(guest: Guest) -> None:
    with guest.booted(USER):
        assert guest.play("--check", "--diff")["failed"] == 0
        assert not (guest.root / "usr/lib/serai").exists(), "check mode changed the machine"
        assert guest.play()["changed"] > 0
        assert guest.play()["changed"] == 0
        units = "serai-session-disk.service sessions.mount serai-session-disk-grow.service"
        units += " serai-ssh-host-keys.service serai-seal.service"
        _, said = guest.ssh(USER, f"sudo systemd-analyze verify {units} 2>&1")
        assert said == ""
        assert guest.ssh(USER, "systemctl --failed --no-legend")[1] == ""
        _off(guest)
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
    login = guest.root / "root/.ssh"
    login.mkdir(mode=0o700)
    (login / "authorized_keys").write_text(guest.key.with_suffix(".pub").read_text())
    (guest.folder / "off").unlink()
    with guest.booted("root"):
        assert guest.ssh("root", "systemctl is-system-running --wait")[1] == "running"
        assert len(guest.ssh("root", "cat /etc/machine-id")[1]) == 32
        assert guest.ssh("root", "hostname")[1] == "serai"
        assert guest.ssh("root", "systemctl is-enabled sessions.mount")[1] == "enabled"
        _, mount = guest.ssh("root", "systemctl show -P ActiveState sessions.mount")
        assert mount == "inactive", "a container's disks are its host's"
