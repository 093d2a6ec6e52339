"""Certificates under a real systemd: the gate writes them, and only their session reads them."""

from __future__ import annotations

import os

import pytest

from serai.common.paths import CERTIFICATES
from serai.image.container.container import Container

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def test_the_gate_writes_and_one_session_reads(container: Container) -> None:
    container.shell("serai create one && serai create two")
    try:
        container.shell("serai policy allow one 'example.com GET'")
        own = container.shell(
            "serai list --json | jq -r '.sessions[] | select(.name==\"one\").uid'"
        )
        found = container.shell(f"stat -c '%a %U %g' {CERTIFICATES}/one {CERTIFICATES}/one/*")
        assert found.splitlines() == [
            f"2750 serai-gate {own}",
            *[f"644 serai-gate {own}"] * 2,
        ]
        inside = f"openssl verify -CAfile $SSL_CERT_FILE {CERTIFICATES}/ca.pem && ls /run/serai"
        said = container.run("serai", "exec", "one", "--", "sh", "-c", inside).stdout
        assert said.split() == [
            f"{CERTIFICATES}/ca.pem:",
            "OK",
            *("certificates", "gate", "hints", "users"),
        ]
        assert (
            container.shell(
                "serai exec two -- sh -c 'echo $SSL_CERT_FILE; ls " + CERTIFICATES + "'"
            )
            == ""
        )
        other = ["setpriv", f"--reuid={int(own) + 1}", f"--regid={int(own) + 1}", "--clear-groups"]
        assert container.run(*other, "ls", f"{CERTIFICATES}/one", check=False).returncode != 0
        container.shell("systemctl restart serai-gate && systemctl restart serai-sessiond")
        said = container.run("serai", "exec", "one", "--", "sh", "-c", inside).stdout
        assert f"{CERTIFICATES}/ca.pem: OK" in said
        assert container.shell("ls -A /run/serai-gate/tls") == ""
    finally:
        container.shell("serai remove one && serai remove two")
    assert container.shell(f"ls {CERTIFICATES}") == ""
