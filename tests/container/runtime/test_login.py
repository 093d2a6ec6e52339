"""Nobody becomes a session's user outside the sandbox, whatever the session put into its home."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from serai.image.container.container import DEADLINE, Container
from tests.support.waiting import wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

PORT = 2022
KEYS = (
    "mkdir -m 700 .ssh && ssh-keygen -qt ed25519 -N '' -f .ssh/key"
    " && cp .ssh/key.pub .ssh/authorized_keys"
)
OPTIONS = "-v -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -p 2022"


@pytest.fixture(scope="module")
def lax(container: Container) -> Iterator[Container]:
    """The session ``planted``, and an sshd that asks no PAM, as some administrators have it."""
    container.shell("serai create planted")
    container.shell(f'serai exec planted -- sh -c "{KEYS}"')
    container.shell(
        "ssh-keygen -A; mkdir -p /run/sshd;"
        f" /usr/sbin/sshd -p {PORT} -o ListenAddress=127.0.0.1 -o UsePAM=no -o PidFile=/run/lax.pid"
    )
    # It goes into the background before it listens, and writes the file after that: sshd(8).
    wait_for(lambda: container.shell("cat /run/lax.pid", check=False), DEADLINE)
    yield container
    container.shell("kill $(cat /run/lax.pid); serai remove planted")


def test_a_host_reaches_the_vm_and_its_sessions_over_ssh(lax: Container) -> None:
    """With the real ssh, from where nothing but the command is used of the VM."""
    lax.shell(
        "mkdir -pm 700 /root/.ssh && ssh-keygen -qt ed25519 -N '' -f /root/.ssh/host"
        " && cat /root/.ssh/host.pub >>/root/.ssh/authorized_keys"
    )
    program = f"SERAI_SSH='ssh {OPTIONS.removeprefix('-v ')} -o LogLevel=ERROR -i /root/.ssh/host'"
    serai = f"{program} serai --vm ssh://root@127.0.0.1:{PORT}"
    said = lax.shell(f"echo in | {serai} exec planted -- sh -c 'cat; exit 7' 2>&1; echo $?")
    assert said.split() == ["in", "7"]
    job = lax.shell(f"{serai} start planted -- sh -c 'echo out; exit 3'").strip()
    assert lax.shell(f"{serai} wait {job}; echo $?; {serai} logs {job}").split() == ["3", "out"]


def let_in(container: Container) -> bool:
    key = "-i /sessions/planted/.ssh/key"
    said = container.shell(f"ssh {OPTIONS} {key} planted@127.0.0.1 true 2>&1 || true")
    assert "Offering public key" in said, said
    return "Authenticated to" in said


def test_no_session_s_user_logs_in_over_ssh(lax: Container) -> None:
    assert not let_in(lax)
    assert lax.run("su", "-", "planted", "-c", "true", check=False).returncode != 0


def test_with_a_shell_that_exists_it_would(lax: Container) -> None:
    """nologin exists: it refuses a command, but not what needs none, such as forwarding."""
    users = "/run/serai/users/passwd"
    lax.shell(f"cp {users} /run/kept; sed -i s:/nonexistent:/usr/sbin/nologin: {users}")
    try:
        assert let_in(lax)
    finally:
        lax.shell(f"cp /run/kept {users}")
