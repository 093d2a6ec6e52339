"""The standing attacker in a booted container: nothing gets through, and it would notice."""

from __future__ import annotations

import os

import pytest

from serai.image.commands.attack import FOLDER
from serai.image.container.container import Container
from serai.image.guest.attack.attacks import ATTACKS

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

STEPS = "/usr/lib/serai/python/serai/runtime/sessions/steps"
# A login shell for sessions' users; what is compiled is not compared with its source.
WEAKEN = f"""
set -e
sed -i 's#/nonexistent#/bin/bash#' {STEPS}/users.py
rm {STEPS}/__pycache__/users.*.pyc
systemctl restart serai-sessiond
"""


def attacked(container: Container, source: str, name: str = "") -> list[str]:
    """The lines of the attacker, whose sessions are made ``cold`` or are from the ``pool``."""
    container.copy([FOLDER])
    argv = ["env", "-C", "/root", "python3", "-m", FOLDER.name, "sockets", source, name]
    done = container.run(*argv, check=False, timeout=600)
    assert (done.returncode == 0) == ("got through" not in done.stdout)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_no_attack_gets_through(container: Container) -> None:
    """In sessions of the pool; 'invoke attack --in container' has those that are made cold."""
    lines = attacked(container, "pool")
    assert [line for line in lines if not line.endswith(" held")] == []
    assert len(lines) == len(ATTACKS)
    assert container.shell("serai list --json") == '{"sessions": []}'


def test_without_its_measure_an_attack_gets_through(container: Container) -> None:
    container.shell(WEAKEN)
    (line,) = attacked(container, "cold", "logins outside")
    assert "got through: \"it ran: ['/tmp/serai-attack" in line
