"""What programs can do in a folder of every kind of mount: the table in docs/folders.md.

A session for each kind, a folder for each session, and the real git, pip and npm. The folders of
the host that only a hypervisor can share are in tests/vm/image/vm/test_share.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from serai.image.container import peers
from serai.image.container.container import Container, booted
from serai.image.settings import Settings
from tests.conftest import ROOT
from tests.support import conformance

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

OWNER = 41000
PROGRAM = ROOT / "tests/support/conformance.py"
SECONDS = 600.0
LINUX = tuple(int(word) for word in os.uname().release.split(".")[:2])
BINDFS = frozenset({"fallocate", "nameless", "rename_exchange"})


@dataclass(frozen=True)
class Kind:
    """``folder`` of the container, mounted as ``mount``; there ``missing`` does not work."""

    folder: str
    mount: str
    missing: frozenset[str] = frozenset()


KINDS = {
    "home": Kind("", ""),
    "ext4": Kind("/mnt/ext4", "idmap"),
    "tmpfs": Kind("/mnt/tmpfs", "idmap", frozenset() if LINUX >= (6, 6) else frozenset({"xattr"})),
    "bindfs": Kind("/mnt/bindfs", "bindfs", BINDFS),
}


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """With the folders; what is on the build host's disk is so through /sessions."""
    with booted(peers.equipped(Settings.of()), tmp_path_factory.mktemp("folders")) as found:
        found.shell(f"""
            mkdir -m 700 /sessions/.shared /sessions/.shared/ext4 /sessions/.shared/bindfs
            mkdir -p /mnt/ext4 /mnt/tmpfs /mnt/bindfs
            for each in ext4 bindfs; do mount --bind /sessions/.shared/$each /mnt/$each; done
            mount -t tmpfs -o size=3G tmpfs /mnt/tmpfs
            chown {OWNER}:{OWNER} /mnt/*
        """)
        yield found


@pytest.mark.parametrize("name", KINDS)
def test_programs_work_in_a_folder(container: Container, name: str) -> None:
    kind = KINDS[name]
    container.shell(f"serai create {name}")
    inside = "mnt/workdir" if kind.folder else "."
    if kind.folder:
        container.shell(f"serai attach {name} workdir {kind.folder} --kind {kind.mount}")
    argv = ["serai", "exec", name, "--", "python3", "-", inside]
    said = container.run(*argv, stdin=PROGRAM.read_text(), timeout=SECONDS).stdout
    print(said)  # for the documentation
    done: dict[str, str] = json.loads(said)["done"]
    assert list(done) == [case.__name__ for case in conformance.CASES]
    problems = {case: how for case, how in done.items() if how != conformance.YES}
    assert set(problems) == kind.missing, problems
    if kind.folder:
        others = f"find {kind.folder} ! -uid {OWNER} -o ! -gid {OWNER}"
        assert container.shell(others) == ""
        assert container.shell(f"ls {kind.folder}/app/node_modules/.bin") == "thing"
    container.shell(f"serai remove {name}")
