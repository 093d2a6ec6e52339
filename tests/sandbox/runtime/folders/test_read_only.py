"""What a session may only read: read-only attachments, and uploads and skills in any case."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from serai.runtime.folders.path_roles import ROLES
from serai.runtime.sandbox import bwrap
from serai.runtime.settings import SessionSettings
from tests.support.attached_folders import KINDS, sh
from tests.support.fake_vm import Vm
from tests.support.sandbox import make_session, make_top, open_room

READERS = [name for name, role in ROLES.items() if not role.writable]
READ_ONLY = r"""
import ctypes, errno, json, mmap, os, shutil, sys
os.chdir(sys.argv[1])
above = os.path.dirname(sys.argv[1])
given = os.open("given", os.O_RDONLY)
libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, O_TMPFILE = -100, os.O_TMPFILE
ways = {
    "write": lambda: os.open("given", os.O_WRONLY),
    "append": lambda: os.open("given", os.O_WRONLY | os.O_APPEND),
    "truncate on open": lambda: os.open("given", os.O_RDONLY | os.O_TRUNC),
    "truncate": lambda: os.truncate("given", 0),
    "create": lambda: os.open("new", os.O_WRONLY | os.O_CREAT, 0o600),
    "nameless": lambda: os.open(".", os.O_WRONLY | O_TMPFILE, 0o600),
    "unlink": lambda: os.unlink("given"),
    "rename": lambda: os.rename("given", "other"),
    "rename out": lambda: os.rename("given", os.path.expanduser("~/given")),
    "link": lambda: os.link("given", "second"),
    "symlink": lambda: os.symlink("given", "second"),
    "mkdir": lambda: os.mkdir("sub"),
    "mkfifo": lambda: os.mkfifo("fifo"),
    "chmod": lambda: os.chmod("given", 0o777),
    "fchmod": lambda: os.fchmod(given, 0o777),
    "chown": lambda: os.chown("given", os.getuid(), os.getgid()),
    "utime": lambda: os.utime("given"),
    "utime of open": lambda: os.utime(given),
    "xattr": lambda: os.setxattr("given", "user.a", b"x"),
    "xattr of open": lambda: os.setxattr(given, "user.a", b"x"),
    "ftruncate": lambda: os.ftruncate(given, 0),
    "mmap": lambda: mmap.mmap(given, 5, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE),
    "reopen": lambda: os.open(f"/proc/self/fd/{given}", os.O_RDWR),
    "write to the mount point": lambda: os.chmod(".", 0o777),
    "remove the mount point": lambda: os.rmdir(sys.argv[1]),
    "rename the mount point": lambda: os.rename(sys.argv[1], sys.argv[1] + "2"),
    "unmount": lambda: libc.umount2(sys.argv[1].encode(), 2) == 0 or fail(),
    "remount": lambda: libc.mount(b"x", sys.argv[1].encode(), None, 4096 | 32, None) == 0 or fail(),
    "rename what is above": lambda: os.rename(above, f"{above}-moved"),
    "remove what is above": lambda: shutil.rmtree(above),
    "new namespace": lambda: libc.unshare(0x10000000 | 0x20000) == 0 or fail(),
}
def fail():
    raise OSError(ctypes.get_errno(), "")
done = {}
for way, do in ways.items():
    try:
        do()
        done[way] = "worked"
    except OSError as error:
        done[way] = errno.errorcode[error.errno]
    except Exception as error:
        done[way] = repr(error)
print(json.dumps(done))
"""


REFUSED = {"EROFS", "EBUSY", "EPERM", "EACCES", "EBADF", "EINVAL", "EXDEV", "ENOSYS", "EOPNOTSUPP"}


@pytest.mark.parametrize("kind", KINDS)
def test_read_only_is_so_for_every_way_of_changing(
    vm: Vm, name: str, share: Path, kind: str
) -> None:
    vm.call("attach", name=name, role="uploads", path=str(share), kind=kind)
    before = (share / "given").stat()
    folder = str(vm.paths.home(name) / "mnt/uploads")
    with vm.client() as client:
        done = client.exec(name, ["python3", "-c", READ_ONLY, folder])
    assert done.status == 0, done
    ways = json.loads(done.stdout)
    assert {way: how for way, how in ways.items() if how not in REFUSED} == {}
    after = (share / "given").stat()
    assert os.listdir(share) == ["given"] and (share / "given").read_text() == "given"
    assert (before.st_mode, before.st_mtime, before.st_uid) == (
        after.st_mode,
        after.st_mtime,
        after.st_uid,
    )


def test_uploads_are_read_only_unless_asked_for(vm: Vm, name: str, share: Path) -> None:
    vm.call("attach", name=name, role="uploads", path=str(share))
    assert sh(vm, name, "echo x >mnt/uploads/x").status != 0
    vm.call("attach", name=name, role="uploads", path=str(share), writable=True)
    assert sh(vm, name, "echo x >mnt/uploads/x").status == 0
    vm.call("attach", name=name, role="outputs", path=str(share), writable=False)
    assert sh(vm, name, "echo x >mnt/outputs/y").status != 0


def worked(vm: Vm, name: str, folder: str) -> dict[str, str]:
    """The ways of changing what is at ``folder``, in a session's home, that were not refused."""
    with vm.client() as client:
        done = client.exec(name, ["python3", "-c", READ_ONLY, str(vm.paths.home(name) / folder)])
    assert done.status == 0, done
    return {way: how for way, how in json.loads(done.stdout).items() if how not in REFUSED}


@pytest.mark.parametrize("role", READERS)
def test_what_a_session_may_only_read_is_read_only_without_a_directory_from_outside(
    vm: Vm, name: str, share: Path, role: str
) -> None:
    folder = ROLES[role].folder
    with vm.client() as client:
        client.put(name, role, "given", b"given")
        assert sh(vm, name, f"cat {folder}/given").stdout == b"given"
        assert worked(vm, name, folder) == {}
        client.put(name, role, "given", b"again")
        client.put(name, role, "made/by/put", b"again")
    assert sh(vm, name, f"cat {folder}/given {folder}/made/by/put").stdout == b"again" * 2
    told = {each["role"]: each["writable"] for each in vm.call("hints", name=name)["roles"]}
    assert not told[role] and told["outputs"]
    assert vm.call("show", name=name)["folders"] == []
    # What comes from outside lies upon it, and leaves it as it was.
    for kind in KINDS:
        vm.call("attach", name=name, role=role, path=str(share), kind=kind, writable=True)
        assert sh(vm, name, f"echo x >{folder}/{kind}; cat {folder}/given").stdout == b"given"
        vm.call("detach", name=name, role=role)
    assert worked(vm, name, folder) == {}
    vm.call("stop", name=name)
    vm.call("reopen", name=name)
    assert worked(vm, name, folder) == {}


def test_without_mounts_of_their_own_a_session_replaces_them() -> None:
    with make_top() as top:
        session = make_session(top, "red", 40095)
        options = bwrap.arguments(SessionSettings(), session)
        for path in (str(session.home / each) for each in bwrap.PINNED):
            at = options.index(path)
            del options[at - 1 : at + 2]
        with open_room(session, options=options) as weak:
            script = "echo x >mnt/uploads/x; mv mnt m; mkdir -p mnt/.skills/skills; ls m/uploads"
            assert weak.run(["sh", "-ec", script]).output == "x\n"


def test_a_home_that_leads_elsewhere_is_mended_before_it_is_mounted(vm: Vm, name: str) -> None:
    """A session of an earlier release could make it so."""
    home = vm.paths.home(name)
    vm.call("stop", name=name)
    (vm.root / "private").mkdir(exist_ok=True)
    (vm.root / "private/secret").touch()
    for folder in ("mnt/uploads", "mnt/.skills"):
        shutil.rmtree(home / folder)
        (home / folder).symlink_to(vm.root / "private")
    (home / "mnt").chmod(0)
    vm.call("reopen", name=name)
    assert sh(vm, name, "ls mnt/uploads mnt/.skills/skills").stdout == (
        b"mnt/.skills/skills:\n\nmnt/uploads:\n"
    )
    assert sh(vm, name, "echo x >mnt/outputs/x; cat mnt/outputs/x").stdout == b"x\n"


def test_without_mending_bubblewrap_follows_a_symlink_in_the_vm() -> None:
    """A relative one leads to the VM's /tmp outside, and inside to the private one."""
    with make_top() as top, tempfile.NamedTemporaryFile(dir="/tmp") as secret:
        session = make_session(top, "red", 40096)
        folder = session.home / "mnt/uploads"
        folder.rmdir()
        folder.symlink_to("../" * (len(folder.parts) - 2) + "tmp")
        with open_room(session) as weak:
            assert Path(secret.name).name in weak.run(["ls", "/tmp"]).output.split()
