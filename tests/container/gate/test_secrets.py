"""Secrets under a real systemd: the VM's key, the gate's unit, and what others see of them."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from serai.image.container.container import Container

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

VALUE = "sk-ant-" + "0123456789" * 4
KEYS = "/var/lib/serai/keys"


def secrets(container: Container) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(container.shell("serai secret list --json"))["secrets"]
    return found


def restart(container: Container) -> str:
    """Start the gate again; returns what it and root's program for the key say."""
    cursor = container.shell("journalctl --show-cursor --lines 0 --quiet | sed 's/-- cursor: //'")
    container.shell("systemctl restart serai-gate && serai list >/dev/null")
    container.shell("journalctl --sync")
    return container.shell(f"journalctl --unit serai-gate --after-cursor '{cursor}' --output cat")


def keep(container: Container, name: str) -> None:
    container.run("serai", "secret", "set", name, stdin=VALUE + "\n")


def test_a_secret_is_kept_by_the_real_gate(container: Container) -> None:
    said = container.shell("journalctl --unit serai-gate --output cat")
    assert f"the VM's key is made, and kept in {KEYS}/gate.cred, encrypted by systemd" in said
    keep(container, "one")
    said = restart(container)
    assert f"the VM's key is in {KEYS}/gate.cred, encrypted by systemd" in said
    assert [(each["name"], each["problem"]) for each in secrets(container)] == [("one", None)]
    places = "/sessions/.serai /var/lib/serai /run/serai-gate /run/serai /var/log /etc/serai"
    found = container.shell(f"grep -rlF {VALUE} {places}", check=False)
    assert found == ""


def test_the_key_is_the_gates_for_a_moment_and_roots_at_rest(container: Container) -> None:
    restart(container)
    assert container.shell("ls /run/serai-gate | grep -x key", check=False) == ""
    shown = container.shell(f"stat -c '%a %U' {KEYS} {KEYS}/gate.cred /sessions/.serai/secrets")
    assert shown.splitlines() == ["700 root", "600 root", "700 serai-gate"]
    as_gate = container.run(
        *("setpriv", "--reuid=serai-gate", "--clear-groups", "cat", f"{KEYS}/gate.cred"),
        check=False,
    )
    assert as_gate.returncode != 0


def test_neither_daemon_leaves_a_core_dump_and_sessions_have_their_own_limit(
    container: Container,
) -> None:
    for unit, most in (("serai-gate", "1"), ("serai-sessiond", "unlimited")):
        limits = container.shell(f"cat /proc/$(systemctl show -P MainPID {unit})/limits")
        (core,) = [line.split() for line in limits.splitlines() if "core file" in line]
        assert core[4:6] == ["1", most], unit
    container.shell("sed -i '1i [limits]\\ncore = 4096' /etc/serai/session.toml")
    try:
        container.shell("systemctl restart serai-sessiond && serai create dumps")
        assert container.shell("serai exec dumps -- sh -c 'ulimit -c'") == "8"  # of 512 bytes
    finally:
        container.shell("sed -i 1,2d /etc/serai/session.toml && serai remove dumps")
        container.shell("systemctl restart serai-sessiond")


def test_a_key_that_cannot_be_read_keeps_no_gate_from_starting(container: Container) -> None:
    keep(container, "one")
    container.shell("mv /usr/bin/systemd-creds /usr/bin/away")
    try:
        said = restart(container)
        assert "the gate gets no key, so there are no secrets: " in said
        assert "there is no systemd-creds" in said
        done = container.run("serai", "secret", "set", "two", stdin=VALUE, check=False)
        assert done.returncode == 1
        assert "the gate has no key of this VM" in done.stderr
        assert container.shell("serai create lives && serai remove lives") == "lives"
    finally:
        container.shell("mv /usr/bin/away /usr/bin/systemd-creds")
    restart(container)
    assert [(each["name"], each["problem"]) for each in secrets(container)] == [("one", None)]


def test_without_systemd_creds_the_key_is_a_plain_file(container: Container) -> None:
    """As with systemd 249. It is another key, so what was kept with the first one is told."""
    keep(container, "one")
    container.shell(f"mv /usr/bin/systemd-creds /usr/bin/away && mv {KEYS} {KEYS}.away")
    try:
        said = restart(container)
        assert f"kept in {KEYS}/gate.key as it is: there is no systemd-creds" in said
        assert container.shell(f"stat -c '%a %U %s' {KEYS}/gate.key") == "600 root 32"
        (told,) = secrets(container)
        assert "set it again" in told["problem"]
        keep(container, "two")
        restart(container)
        assert {each["name"]: each["problem"] for each in secrets(container)}["two"] is None
    finally:
        container.shell(
            f"mv /usr/bin/away /usr/bin/systemd-creds; rm -r {KEYS}; mv {KEYS}.away {KEYS}"
        )
        restart(container)


def test_another_identity_takes_another_key(container: Container) -> None:
    """systemd forgets its own key then. It comes last: the journal is another one from here on."""
    keep(container, "one")
    again = "systemctl restart serai-gate && serai list >/dev/null"
    container.shell("systemd-id128 new >/etc/machine-id")
    container.shell(again)
    done = container.run("serai", "secret", "list", check=False)
    assert "the gate has no key of this VM" in done.stderr
    done = container.run("/usr/lib/serai/gate-key", check=False)
    assert done.returncode == 1
    assert f"{KEYS}/gate.cred: systemd-creds decrypt says: " in done.stderr
    assert "or remove it: the next start makes another key" in done.stderr
    container.shell(f"rm {KEYS}/gate.cred")
    container.shell(again)
    assert "set it again" in {each["name"]: each["problem"] for each in secrets(container)}["one"]
    keep(container, "one")
    container.shell(again)
    assert {each["name"]: each["problem"] for each in secrets(container)}["one"] is None
