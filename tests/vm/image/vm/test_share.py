"""Folders of this host in two sessions of a booted image: whose is what they write, and what works.

The machine has a 9p share for each session, one that is read-only, and a virtiofs one where this
host has virtiofsd.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from serai.runtime.sessions.supervising.supervisor import folder_unit
from tests.conftest import ROOT
from tests.support import conformance
from tests.support.sharing import OWNER, VIRTIOFS, Shared

PROGRAM = ROOT / "tests/support/conformance.py"
# An emulated machine is slow: the sizes of the table in docs/folders.md are tried by hand.
SIZES = ["--many", "30", "--large", "4"]
# What no folder by bindfs can do; and what 9p without bindfs can.
BINDFS = {"fallocate", "nameless", "rename_exchange"}
MISSING = {"9p": BINDFS, "virtiofs": BINDFS | {"xattr"}}
BARE = {"map_shared": False, "map_private": True, "sqlite": True, "sqlite_wal": False}
# The rehearsal has no toolchain.
ABSENT = set(conformance.PROGRAMS)
WRITE = """
cd mnt/workdir && umask 022 && cat old && echo new >file && mkdir folder && echo x >folder/x
printf '#!/bin/sh\\n' >script && chmod 750 script && ln -s file link && mv folder/x folder/y
stat -c %U old file folder script link | sort -u
"""


def test_every_share_is_mounted_by_its_tag(shared: Shared) -> None:
    told = shared.vm.ssh.run("findmnt --json -t 9p,virtiofs -o TARGET,FSTYPE,OPTIONS").stdout
    mounts = {each["target"]: each for each in json.loads(told)["filesystems"]}
    assert set(mounts) == {f"/mnt/host/{tag}" for tag in shared.folders}
    for path, mount in mounts.items():
        options = mount["options"].split(",")
        assert {"nosuid", "nodev"} <= set(options)
        assert ("ro" in options) == (path == "/mnt/host/uploads")
        assert mount["fstype"] == ("virtiofs" if path == f"/mnt/host/{VIRTIOFS}" else "9p")


@pytest.mark.parametrize(("name", "tag"), [("one", "first"), ("two", "second")])
def test_what_a_session_writes_is_the_owners_on_the_host(
    shared: Shared, name: str, tag: str
) -> None:
    said = shared.serai("exec", name, "--", "sh", "-c", WRITE)
    assert said == f"from the host\n{name}\n"
    folder = shared.folders[tag]
    found = {path.relative_to(folder).as_posix(): path.lstat() for path in folder.rglob("*")}
    assert {path: (stat.S_IFMT(it.st_mode), it.st_mode & 0o7777) for path, it in found.items()} == {
        "old": (stat.S_IFREG, 0o644),
        "file": (stat.S_IFREG, 0o644),
        "folder": (stat.S_IFDIR, 0o755),
        "folder/y": (stat.S_IFREG, 0o644),
        "script": (stat.S_IFREG, 0o750),
        "link": (stat.S_IFLNK, 0o777),
    }
    assert {(it.st_uid, it.st_gid) for it in found.values()} == {(OWNER, OWNER)}
    assert (folder / "link").read_text() == "new\n"


def test_what_the_host_changes_is_seen(shared: Shared) -> None:
    for text in ("once\n", "and again, longer\n"):
        (shared.folders["first"] / "changing").write_text(text)
        assert shared.serai("exec", "one", "--", "cat", "mnt/workdir/changing") == text


def test_no_session_sees_the_shares_of_the_other(shared: Shared) -> None:
    (shared.folders["second"] / "secret").write_text("secret")
    reach = "cat /mnt/host/second/secret mnt/workdir/../../../two/mnt/workdir/secret /mnt/*/*/*"
    assert (
        "secret" not in shared.vm.ssh.run(f"serai exec one -- sh -c '{reach}'", check=False).stdout
    )


def test_a_read_only_share_is_that_for_all(shared: Shared) -> None:
    shared.serai("attach", "one", "uploads", "/mnt/host/uploads", "--rw")
    assert shared.serai("exec", "one", "--", "cat", "mnt/uploads/old") == "from the host\n"
    assert "Read-only" in shared.refused("serai exec one -- touch mnt/uploads/new")
    # The host's own word, whatever the VM's root does.
    remount = "mount -o remount,rw /mnt/host/uploads; touch /mnt/host/uploads/new"
    assert "Read-only" in shared.refused(remount)
    assert os.listdir(shared.folders["uploads"]) == ["old"]


@pytest.mark.parametrize("kind", MISSING)
def test_programs_work_in_a_share(shared: Shared, kind: str, tmp_path: Path) -> None:
    if kind == "virtiofs" and VIRTIOFS not in shared.folders:
        pytest.skip("this host has no virtiofsd")
    role, tag = ("workdir", "first") if kind == "9p" else ("config", VIRTIOFS)
    if kind == "virtiofs":
        shared.serai("attach", "one", role, f"/mnt/host/{tag}")
    mounts = json.loads(shared.serai("show", "one", "--json"))["folders"]
    assert {each["role"]: each["mount"] for each in mounts}[role] == "bindfs"
    inside = {"workdir": "mnt/workdir", "config": "mnt/.claude"}[role]
    begin = 'mkdir "$0/tried" && exec python3 - "$0/tried" "$@"'
    argv = ["exec", "one", "--", "sh", "-c", begin, inside, *SIZES]
    said = json.loads(shared.serai(*argv, stdin=PROGRAM.read_text()))
    print(said)  # for the table in the documentation
    done = said["done"]
    assert list(done) == [case.__name__ for case in conformance.CASES]
    assert {case for case, how in done.items() if how.startswith(conformance.ABSENT)} == ABSENT
    assert {case for case, how in done.items() if how.startswith("no:")} == MISSING[kind], done
    seen_by_the_host(shared.folders[tag] / "tried", tmp_path / "copy")


def seen_by_the_host(tried: Path, copy: Path) -> None:
    """What the programs left behind has arrived, also what they wrote to memory only."""
    data = (tried / "mapped").read_bytes()
    assert (data[0:5], data[4096:4101]) == (b"there", b"hello")
    shutil.copy(tried / "wal.sqlite", copy)  # who opens a database writes beside it
    with closing(sqlite3.connect(copy)) as database:
        count = (conformance.WRITERS * conformance.ROWS,)
        assert database.execute("SELECT count(*) FROM t").fetchone() == count
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert {path.lstat().st_uid for path in tried.rglob("*")} == {OWNER}


def test_without_bindfs_9p_shares_no_memory(shared: Shared) -> None:
    """Root of the machine, whom this happens to, is told so; sessions have bindfs' page cache."""
    there = "mkdir /mnt/host/second/bare && python3 - /mnt/host/second/bare --only "
    run = shared.vm.ssh.run(there + " ".join(BARE), stdin=PROGRAM.read_text(), timeout=300)
    done = json.loads(run.stdout)["done"]
    assert {case: how == conformance.YES for case, how in done.items()} == BARE, done


def test_killing_the_daemon_while_it_attaches_leaves_no_stale_mount(shared: Shared) -> None:
    folders = "systemctl list-units --all --plain --no-legend 'serai-folder*' | wc -l"
    ssh = shared.vm.ssh
    before = ssh.run(f"findmnt --list --noheadings -o TARGET; {folders}").stdout
    ssh.run(
        "serai attach two outputs /mnt/host/second & until systemctl is-active -q "
        f"{folder_unit('two', 'outputs')}; do sleep 0.01; done; "
        "systemctl kill -s KILL serai-sessiond; ! wait $!; "
        "timeout 60 sh -c 'until serai show two >/dev/null 2>&1; do sleep 0.1; done'"
    )
    found = {
        each["role"]: each for each in json.loads(shared.serai("show", "two", "--json"))["folders"]
    }
    assert found["outputs"]["mount"] == "bindfs"
    assert shared.serai("exec", "two", "--", "cat", "mnt/outputs/old") == "from the host\n"
    shared.serai("detach", "two", "outputs")
    assert ssh.run(f"findmnt --list --noheadings -o TARGET; {folders}").stdout == before
