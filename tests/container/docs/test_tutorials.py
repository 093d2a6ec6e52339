"""The tutorials that take a booted system: the product engineer's, and the operator's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serai.common import files
from serai.image.build.playbook import BUILD_USER
from serai.image.container import roots
from serai.image.container.ansible_host import AnsibleHost
from serai.image.container.container import Container
from serai.image.run import run
from serai.image.settings import Settings
from tests.conftest import ROOT
from tests.support import tutorials

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def test_the_product_engineers_tutorial(container: Container) -> None:
    tutorials.follow("product-engineer.md", "container", container.shell)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[AnsibleHost]:
    """A container that was provisioned some time ago: what a tutorial changes is little.

    With a version that is not this one's, by its name.
    """
    root = roots.provisioned(Settings.of())
    run(["cp", "--archive", "--reflink=auto", root, tmp_path / "root"])
    link = tmp_path / "root/usr/lib/serai/python"
    link.resolve().rename(link.with_name("python-0123456789abcdef"))
    files.link(link, "python-0123456789abcdef")
    host = AnsibleHost(tmp_path / "root", tmp_path, ROOT)
    host.prepare()
    with host.booted():
        yield host
    shutil.rmtree(host.root)


def test_the_operators_tutorial(host: AnsibleHost, tmp_path: Path) -> None:
    # What the reader's own ~/.ssh/config would say.
    ssh = tmp_path / "bin/ssh"
    ssh.parent.mkdir()
    options = f"-o UserKnownHostsFile={tmp_path}/known_hosts -o GlobalKnownHostsFile=none"
    ssh.write_text(f'#!/bin/sh\nexec /usr/bin/ssh {options} -o IdentitiesOnly=yes "$@"\n')
    ssh.chmod(0o755)
    environment = {
        **os.environ,
        "HOST": f"{BUILD_USER}@127.0.0.1:{host.port}",
        "KEY": str(host.key.private),
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
