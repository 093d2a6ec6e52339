"""A container that `invoke provision` is run against, over ssh, as against any machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serai.image import ansible
from serai.image.build.playbook import BUILD_USER
from serai.image.container import roots
from serai.image.container.ansible_host import AnsibleHost
from serai.image.container.container import Container
from serai.image.run import run
from serai.image.settings import Settings
from tests.conftest import ROOT
from tests.support import chosen

MARKER = "/var/lib/serai/provisioning"
DAEMONS = "systemctl show -P MainPID serai-sessiond serai-gate"
# What `invoke provision` does by itself; 0.1 did not.
MITOGEN = {
    name: value
    for name, value in ansible.build_environment(ROOT).items()
    if name.startswith("ANSIBLE_STRATEGY")
}


@dataclass
class Done:
    """How a run went; ``hosts`` are the rows of its report."""

    status: int
    out: str
    err: str
    hosts: dict[str, dict[str, Any]]


@dataclass
class Target:
    """The container, and what it takes to provision it."""

    guest: AnsibleHost
    container: Container
    work: Path
    checkout: Path = ROOT

    @property
    def host(self) -> str:
        return f"{BUILD_USER}@127.0.0.1:{self.guest.port}"

    @property
    def plain(self) -> str:
        """As a user of whom sudo asks a password."""
        return f"plain@127.0.0.1:{self.guest.port}"

    def know(self) -> None:
        """Note the container's host key, which 0.1 does not ask about with mitogen."""
        (key,) = (self.guest.root / "etc/ssh").glob("ssh_host_ed25519_key.pub")
        name = f"[127.0.0.1]:{self.guest.port}"
        (self.work / "known_hosts").write_text(f"{name} {key.read_text()}")

    def start(self, arguments: Sequence[str], *, key: Path | None = None) -> subprocess.Popen[str]:
        known = self.work / "known_hosts"
        report = self.work / "report.json"
        report.unlink(missing_ok=True)
        argv = [sys.executable, "-m", "invoke", "provision", *arguments, "--json", str(report)]
        argv += ["--key", str(key or self.guest.key.private)]
        ssh = f"-o UserKnownHostsFile={known} -o IdentitiesOnly=yes -o GlobalKnownHostsFile=none"
        return subprocess.Popen(
            argv,
            cwd=self.checkout,
            env={
                **os.environ,
                "PYTHONPATH": str(self.checkout / "src"),
                "ANSIBLE_SSH_COMMON_ARGS": ssh,
                "SERAI_CACHE": str(self.work / "cache"),
                **({} if self.checkout == ROOT else MITOGEN),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, process: subprocess.Popen[str]) -> Done:
        out, err = process.communicate()
        report = self.work / "report.json"
        rows = json.loads(report.read_text())["hosts"] if report.exists() else []
        return Done(process.returncode, out, err, {row["host"]: row for row in rows})

    def provision(self, *arguments: str, key: Path | None = None, host: str = "") -> Done:
        words = ["--host", host or self.host, *arguments]
        return self.end(self.start(words, key=key))


@contextmanager
def fresh(folder: Path) -> Iterator[Target]:
    """A booted Debian with nothing of Serai."""
    root = roots.base(Settings.of(), chosen.IMAGE)
    run(["cp", "--archive", "--reflink=auto", root, folder / "root"])
    guest = AnsibleHost(folder / "root", folder, ROOT)
    guest.prepare()
    with guest.booted() as container:
        yield Target(guest, container, folder)
    shutil.rmtree(guest.root)  # half a gigabyte, which pytest would keep three times over


def one_line(done: Done) -> str:
    """The line with which it failed."""
    assert done.status == 1, done.out + done.err
    lines = [line for line in done.err.splitlines() if line.startswith("serai: ")]
    assert len(lines) == 1, done.err
    assert "Traceback" not in done.err
    return lines[0]
