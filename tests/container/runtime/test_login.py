"""Nobody becomes a session's user outside the sandbox, whatever the session put into its home."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from serai.image.container.container import Container

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
    yield container
    container.shell("kill $(cat /run/lax.pid); serai remove planted")


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
