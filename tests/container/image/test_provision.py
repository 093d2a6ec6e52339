"""`invoke provision` against a machine that runs: one boot for the life of a machine.

The tests follow one another: refused, checked, converged, verified, again in a batch.
They are those of all roles but the seal. The container has no disk for sessions, so they are in a
folder of its root disk.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from serai.image.build.playbook import BUILD_USER
from serai.image.container.container import Container
from serai.image.release.allow import Rule
from serai.image.vm import seed
from tests.support.provisioning import MARKER, Target, fresh, one_line
from tests.support.same_result import assert_same_result

# The smallest profile that installs something; the standard one takes 1.3 GB.
TOOLS = ("--set", "toolchain_profile=minimal")
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with fresh(tmp_path_factory.mktemp("provision")) as target:
        yield target


def test_who_cannot_be_provisioned_is_told_why(target: Target, tmp_path: Path) -> None:
    assert "--new-host-keys" in one_line(target.provision())
    said = one_line(target.provision("--new-host-keys", key=seed.new_key(tmp_path).private))
    assert "does not accept this user with this key" in said
    assert "details: " in said

    target.container.shell("useradd --create-home --shell /bin/bash plain")
    target.guest.allow("plain", target.guest.root / "home/plain")
    said = one_line(target.provision(host=target.plain))
    assert "sudo wants a password of plain" in said
    password = tmp_path / "password"
    password.write_text("wrong\n")
    target.container.shell("echo 'plain ALL=(ALL) ALL' >/etc/sudoers.d/plain")
    target.container.shell("echo plain:right | chpasswd")
    said = one_line(target.provision("--sudo-password", str(password), host=target.plain))
    assert "plain@" in said
    assert "failed: sudo password is incorrect" in said

    target.container.shell("mv /usr/bin/python3 /usr/bin/python3.away")
    target.container.shell("rm /etc/os-release && echo ID=slackware >/etc/os-release")
    said = one_line(target.provision())
    assert (
        "this is slackware-, and the roles are for ubuntu-22.04, ubuntu-24.04, debian-12, debian-13"
        in said
    )
    assert "python3 is missing; install it" in said
    target.container.shell("mv /usr/bin/python3.away /usr/bin/python3")
    target.container.shell("ln -sf ../usr/lib/os-release /etc/os-release")
    assert not (target.guest.root / "var/lib/serai").exists()


def verify_the_reference(container: Container) -> None:
    """What the roles that make a machine like the reference leave behind."""
    for tool in ("git", "jq", "pip3", "python3", "rg"):
        assert container.shell(f"{tool} --version"), tool
    for tool in ("node", "gcc", "go", "rustc", "docker", "snap"):
        assert container.run("sh", "-c", f"command -v {tool}", check=False).returncode != 0, tool
    said = dict(line.partition(" ")[::2] for line in container.shell("sshd -T").splitlines())
    assert said["passwordauthentication"] == "no"
    assert said["permitrootlogin"] == "without-password"
    assert said["x11forwarding"] == "no"
    assert container.shell("cat /etc/default/locale /etc/timezone") == "LANG=C.UTF-8\nEtc/UTC"
    assert container.shell("readlink /etc/localtime") == "/usr/share/zoneinfo/Etc/UTC"
    assert container.shell("systemctl is-enabled swap.target", check=False) == "masked"
    login = container.shell(
        f"su - {BUILD_USER} -c 'ulimit -Hn; ulimit -u; ulimit -s; ulimit -l; ulimit -c'"
    )
    files, *others = login.split()
    # The build host may allow no more to anybody in its containers: then it is what root has too.
    assert files in ("524288", container.shell("ulimit -Hn"))
    assert others == ["14813", "8192", "8192", "0"]
    shown = container.shell("systemctl show -P ProtectProc serai-session@name.service")
    assert shown == "default"
    assert container.shell("dpkg-query -W -f '${Status}' qemu-guest-agent").endswith("installed")
    # Every line is a setting, with the sign that lets a kernel lack it.
    for name in ("60-serai", "60-serai-limits"):
        lines = container.shell(f"grep -v '^#' /etc/sysctl.d/{name}.conf").splitlines()
        assert lines
        assert all(re.fullmatch(r"-?[a-z0-9_.][a-z0-9_.-]* = [\w ]+", line) for line in lines), (
            lines
        )


def test_check_converge_verify(target: Target, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("right\n")
    sudo = ["--sudo-password", str(password)]
    limit = ["--set", "runtime_memory_max=40%"]
    words = ["--check", "--diff", *TOOLS, *limit, *sudo]
    checked = target.provision(*words, host=target.plain)
    assert checked.status == 2, checked.out + checked.err
    assert checked.hosts[target.plain]["changed"] > 0
    assert "+memory_max" in checked.out, "--diff shows files"
    for path in ("usr/lib/serai", "etc/serai", "var/lib/serai", "usr/bin/bwrap"):
        assert not (target.guest.root / path).exists(), "check mode changed the container"

    done = target.provision(*TOOLS)
    assert done.status == 0, done.out + done.err
    assert "runtime : Install Serai from the wheel (changed" in done.out

    container = target.container
    assert container.run("test", "-e", MARKER, check=False).returncode == 1
    assert container.shell("systemctl --failed --no-legend") == ""
    assert (
        container.shell("systemctl is-active serai-gate serai-sessiond").split() == ["active"] * 2
    )
    verify_the_reference(container)
    units = "serai-sessiond.service serai-gate.service serai-session@name.service serai.slice"
    units += " sessions.mount serai-share@name.service"
    assert container.shell(f"systemd-analyze verify {units} 2>&1") == ""
    assert container.shell("findmnt -no OPTIONS /sessions").startswith("rw,nosuid,nodev")
    network = target.guest.root / "etc/systemd/network/80-dhcp.network"
    assert not network.exists(), "the network of a machine that runs is not ours"
    assert BUILD_USER in container.shell("ls /home"), "nothing was sealed"
    container.shell("userdel --remove plain; rm /etc/sudoers.d/plain")
    backups = Rule("etc/*-", "at times: accounts before the last change")
    lectured = Rule("var/lib/sudo/*", "at times: whom sudo has told of the dangers")
    assert_same_result(target.guest.root, backups, lectured)
    container.shell("serai create kept")
    assert container.shell("serai exec kept -- sh -c 'echo precious >file; id -un'") == "kept"


def test_a_batch_with_a_machine_that_fails_is_the_last_one(target: Target) -> None:
    """And a machine that was converged before is not changed."""
    inventory = target.work / "fleet.ini"
    here = f"ansible_host=127.0.0.1 ansible_user={BUILD_USER}"
    # Port 1 has no listener. Two names for one container: they do not meet, as the second is in a
    # batch that is not reached.
    lines = [f"one {here} ansible_port={target.guest.port}", f"two {here} ansible_port=1"]
    lines += [f"three {here} ansible_port={target.guest.port}"]
    inventory.write_text("\n".join(lines) + "\n")
    words = ["--inventory", str(inventory), "--serial", "2", *TOOLS]
    done = target.end(target.start(words))
    said = one_line(done)
    assert "1 of 3 failed, 1 not reached; two unreachable: nothing listens on that port" in said
    states = {name: row["state"] for name, row in done.hosts.items()}
    assert states == {"one": "ok", "two": "unreachable", "three": "not reached"}
    assert done.hosts["one"]["changed"] == 0, done.out
    assert len(done.hosts["one"]["tasks"]) > 50, "nobody has asked for less"
    assert "batch 1: one, two, 1 to follow" in done.out


def test_what_is_right_is_left_alone_if_asked_for(target: Target) -> None:
    done = target.provision("--fast", *TOOLS)
    assert done.status == 0, done.out + done.err
    assert len(done.hosts[target.host]["tasks"]) < 10
    target.container.shell("chmod 600 /etc/serai/session.toml")
    done = target.provision("--fast", *TOOLS)
    # The settings, and the handler that lets sessiond read them.
    assert done.hosts[target.host]["changed"] == 2, done.out
    assert target.container.shell("stat -c %a /etc/serai/session.toml") == "644"
