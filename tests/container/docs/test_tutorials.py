"""The tutorials that take a booted system: the product engineer's, and the operator's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serai.image.container import container
from serai.image.container.container import USER, Guest, Machine
from serai.image.run import run
from serai.image.settings import Settings
from tests.conftest import ROOT
from tests.support import tutorials

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def test_the_product_engineers_tutorial(machine: Machine) -> None:
    tutorials.follow("product-engineer.md", "container", machine.shell)


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    """A machine that was provisioned some time ago: what a tutorial changes is little."""
    root = container.provisioned(Settings.of())
    run(["cp", "--archive", "--reflink=auto", root, tmp_path / "root"])
    guest = Guest(tmp_path / "root", tmp_path, ROOT)
    guest.prepare()
    with guest.booted():
        yield guest
    shutil.rmtree(guest.root)


def test_the_operators_tutorial(guest: Guest, tmp_path: Path) -> None:
    # What the reader's own ~/.ssh/config would say.
    ssh = tmp_path / "bin/ssh"
    ssh.parent.mkdir()
    options = f"-o UserKnownHostsFile={tmp_path}/known_hosts -o GlobalKnownHostsFile=none"
    ssh.write_text(f'#!/bin/sh\nexec /usr/bin/ssh {options} -o IdentitiesOnly=yes "$@"\n')
    ssh.chmod(0o755)
    environment = {
        **os.environ,
        "HOST": f"{USER}@127.0.0.1:{guest.port}",
        "KEY": str(guest.key.private),
        "PATH": f"{ssh.parent}:{sys.prefix}/bin:{os.environ['PATH']}",
        "SERAI_CACHE": str(tmp_path / "cache"),
    }

    def shell(commands: str) -> str:
        done = subprocess.run(
            ["/bin/bash", "-c", commands],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    tutorials.follow("operator.md", "operator", shell)
