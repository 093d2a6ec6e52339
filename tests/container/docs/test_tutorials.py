"""The tutorials that take a booted system: the product engineer's, and the operator's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from serai.common import files
from serai.image.build.playbook import BUILD_USER
from serai.image.container import roots
from serai.image.container.ansible_host import AnsibleHost
from serai.image.container.container import Container
from serai.image.fleet import loopback
from serai.image.run import run
from serai.image.settings import Settings
from serai.image.vm import seed
from tests.conftest import ROOT
from tests.support import nats_servers, tutorials

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
    place = f"{BUILD_USER}@127.0.0.1:{host.port}"
    shell = reader(tmp_path, HOST=place, KEY=str(host.key.private))
    tutorials.follow("operator.md", "operator", shell)


def reader(work: Path, **variables: str) -> Callable[[str], str]:
    """A shell with what the reader's own ~/.ssh/config would say."""
    ssh = work / "bin/ssh"
    ssh.parent.mkdir()
    options = f"-o UserKnownHostsFile={work}/known_hosts -o GlobalKnownHostsFile=none"
    ssh.write_text(f'#!/bin/sh\nexec /usr/bin/ssh {options} -o IdentitiesOnly=yes "$@"\n')
    ssh.chmod(0o755)
    environment = {
        **os.environ,
        **variables,
        "PATH": f"{ssh.parent}:{sys.prefix}/bin:{os.environ['PATH']}",
        "SERAI_CACHE": str(work / "cache"),
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

    return shell


def test_the_fleets_tutorial(tmp_path: Path) -> None:
    """The servers are started between its boxes: they take hosts of their own, as in the page."""
    servers = loopback.unused(3)
    key = seed.new_key(tmp_path)
    folder = tmp_path / "fleet"
    chosen = {"LOGIN": BUILD_USER}
    chosen |= {f"NATS_{number}": f"127.0.0.1:{port}" for number, port in enumerate(servers, 1)}
    with ExitStack() as stack:
        for number in (1, 2, 3):
            root = tmp_path / f"vm-{number}/root"
            root.parent.mkdir()
            run(["cp", "--archive", "--reflink=auto", roots.provisioned(Settings.of()), root])
            host = AnsibleHost(root, root.parent, ROOT)
            host.key = key
            host.prepare()
            stack.callback(shutil.rmtree, root)
            stack.enter_context(host.booted(sessions=True))
            chosen |= {f"HOST_{number}": "127.0.0.1", f"PORT_{number}": str(host.port)}
        shell = reader(tmp_path, KEY=str(key.private), FLEET=str(folder), **chosen)

        def with_servers(commands: str) -> str:
            said = shell(commands)
            if "--server" in commands:
                stack.enter_context(nats_servers.placed(folder, servers, tmp_path / "etc"))
            return said

        tutorials.follow("operator-fleet.md", "fleet", with_servers)
