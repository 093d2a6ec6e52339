"""Folders of the VM in running sessions: real sandboxes, a real daemon, real mounts."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import jsonschema
import pytest

from serai.common import errors
from serai.common.errors import SeraiError
from serai.runtime.folders import hints, mounts
from serai.runtime.sandbox import cgroups
from tests.support.attached_folders import KINDS, OWNER, sh
from tests.support.fake_vm import Vm
from tests.support.sandbox import build_filters
from tests.support.waiting import wait_for


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_session_writes_belongs_to_the_folders_owner(
    vm: Vm, name: str, share: Path, kind: str
) -> None:
    shown = vm.call("attach", name=name, role="outputs", path=str(share), kind=kind)
    assert [(each["role"], each["mount"]) for each in shown["folders"]] == [("outputs", kind)]
    done = sh(
        vm,
        name,
        "cd mnt/outputs; stat -c '%u %a' . given; echo new >new; mkdir sub; stat -c %u new; id -u",
    )
    assert done.status == 0, done
    uid = str(shown["uid"])
    assert done.stdout.decode().split() == [uid, "755", uid, "644", uid, uid]
    for path in (share / "new", share / "sub"):
        assert (path.stat().st_uid, path.stat().st_gid) == (OWNER, OWNER)
    assert (share / "new").read_text() == "new\n"
    vm.call("detach", name=name, role="outputs")
    assert sh(vm, name, "ls mnt/outputs").stdout == b""
    assert (share / "new").exists()
    assert not list(vm.cgroup.glob(f"{name}.*"))


@pytest.mark.parametrize("kind", KINDS)
def test_no_device_and_no_setuid_program_counts(vm: Vm, name: str, share: Path, kind: str) -> None:
    os.mknod(share / "zero", 0o20666, os.makedev(1, 5))
    (share / "zero").chmod(0o666)
    (share / "id").write_bytes(Path("/usr/bin/id").read_bytes())
    (share / "id").chmod(0o4755)
    vm.call("attach", name=name, role="outputs", path=str(share), kind=kind)
    done = sh(vm, name, "head -c1 mnt/outputs/zero; mnt/outputs/id -u; id -u")
    uids = done.stdout.decode().split()
    assert len(uids) == 2 and uids[0] == uids[1]
    assert b"Permission denied" in done.stderr


WATCH = """\
import ctypes, os
libc = ctypes.CDLL(None)
fd = libc.inotify_init1(0)
assert libc.inotify_add_watch(fd, b"mnt/outputs", 0x100) > 0
open("watches", "w").close()
seen = b""
while b"last" not in seen:
    seen += os.read(fd, 4096)
print("outside" if b"outside" in seen else "nothing")
"""


@pytest.mark.parametrize(("kind", "seen"), [("idmap", "outside"), ("bindfs", "nothing")])
def test_what_watchers_see_of_changes_from_outside(
    vm: Vm, name: str, share: Path, kind: str, seen: str
) -> None:
    """As docs/folders.md says: inotify(7) knows nothing of what a FUSE file system's lower does."""
    vm.call("attach", name=name, role="outputs", path=str(share), kind=kind)
    watcher = subprocess.Popen(
        vm.command("exec", name, "--", "python3", "-c", WATCH), env=vm.env, stdout=subprocess.PIPE
    )
    wait_for((vm.root / "sessions" / name / "watches").exists)
    (share / "outside").touch()
    assert sh(vm, name, "ls mnt/outputs; touch mnt/outputs/last").status == 0
    out, _ = watcher.communicate(timeout=60)
    assert out.decode() == f"{seen}\n"
    vm.call("detach", name=name, role="outputs")


SET_ID = """\
cp /usr/bin/id mnt/outputs/id
chmod 6755 mnt/outputs/id; chmod u+s mnt/outputs/id; chmod g+s mnt/outputs/id
python3 - <<'.'
import ctypes, os
libc = ctypes.CDLL(None)
os.chdir("mnt/outputs")
libc.syscall(452, -100, b"id", 0o6755, 0)
for number, mode in enumerate((0o6777, 0o4777, 0o2777)):
    libc.open(b"made%d" % number, os.O_CREAT | os.O_WRONLY, mode)
    libc.creat(b"created%d" % number, mode)
    libc.mknod(b"node%d" % number, 0o100000 | mode, 0)
    libc.mkdir(b"folder%d" % number, mode)
    how = (ctypes.c_uint64 * 3)(os.O_CREAT | os.O_WRONLY, mode, 0)
    libc.syscall(437, -100, b"new%d" % number, ctypes.byref(how), 24)
    unnamed = libc.open(b".", os.O_TMPFILE | os.O_WRONLY, mode)
    libc.linkat(-100, b"/proc/self/fd/%d" % unnamed, -100, b"linked%d" % number, 0x400)
libc.mknod(b"whiteout", 0o020666, 0)
.
touch mnt/outputs/end
"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("owner", [OWNER, 0])
def test_a_session_leaves_no_set_user_id_program_outside(
    vm: Vm, name: str, share: Path, kind: str, owner: int
) -> None:
    """Outside the mode counts, and the file is the directory's owner's."""
    os.chown(share, owner, owner)
    vm.call("attach", name=name, role="outputs", path=str(share), kind=kind)
    sh(vm, name, SET_ID)
    assert (share / "end").stat().st_uid == (share / "id").stat().st_uid == owner
    modes = {path.name: path.lstat().st_mode for path in share.iterdir()}
    assert not [path for path, mode in modes.items() if mode & (stat.S_ISUID | stat.S_ISGID)]
    assert not [path for path, mode in modes.items() if stat.S_ISCHR(mode) or stat.S_ISBLK(mode)]


def test_it_is_the_filter_that_keeps_the_bits_away(vm: Vm, name: str, share: Path) -> None:
    """The counterpart: with a filter that lacks the rules, both kinds of mounts let the bits out.

    bindfs has an option --chmod-filter, but it ignores these bits.
    """
    baseline = vm.paths.filters() / "baseline.bpf"
    strong, left = baseline.read_bytes(), {}
    try:
        baseline.write_bytes(build_filters("set-id")[0])
        vm.kill()
        vm.start()
        for kind in KINDS:
            vm.call("attach", name=name, role="outputs", path=str(share), kind=kind)
            sh(vm, name, f"cp /usr/bin/id mnt/outputs/{kind}; chmod 6755 mnt/outputs/{kind}")
            left[kind] = (share / kind).stat().st_mode & 0o4000
            vm.call("detach", name=name, role="outputs")
    finally:
        baseline.write_bytes(strong)
        vm.kill()
        vm.start()
    assert left == dict.fromkeys(KINDS, 0o4000)


def test_files_of_others_are_nobodys_inside(vm: Vm, name: str, share: Path) -> None:
    (share / "roots").write_text("root's")
    (share / "roots").chmod(0o640)
    vm.call("attach", name=name, role="outputs", path=str(share), kind="idmap")
    done = sh(
        vm, name, "stat -c %u mnt/outputs/roots; cat mnt/outputs/roots; chmod 666 mnt/outputs/roots"
    )
    assert done.stdout.decode().split() == ["65534"]
    assert (share / "roots").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("kind", KINDS)
def test_busy_is_told_and_nothing_hangs(vm: Vm, name: str, share: Path, kind: str) -> None:
    vm.call("attach", name=name, role="outputs", path=str(share), kind=kind)
    with vm.client() as client:
        started = client.call(
            "exec",
            name=name,
            argv=["/bin/sleep", "1000"],
            detach=True,
            stdio="null",
            cwd=str(vm.paths.home(name) / "mnt/outputs"),
        )
    with pytest.raises(SeraiError, match="busy") as caught:
        vm.call("detach", name=name, role="outputs")
    assert caught.value.code == errors.BUSY
    assert sh(vm, name, "cat mnt/outputs/given").stdout == b"given"
    assert [each["mount"] for each in vm.call("show", name=name)["folders"]] == [kind]
    # Another one in its place is refused too, and the first one stays.
    other = share / "other"
    other.mkdir()
    with pytest.raises(SeraiError, match="busy"):
        vm.call("attach", name=name, role="outputs", path=str(other), kind=kind)
    assert vm.call("show", name=name)["folders"][0]["path"] == str(share)
    os.kill(started["pid"], 9)
    wait_for(lambda: not Path(f"/proc/{started['pid']}").exists())
    assert vm.call("detach", name=name, role="outputs")["folders"] == []


def test_a_workdir_is_for_good(vm: Vm, name: str, share: Path) -> None:
    (share / "other").mkdir()
    vm.call("attach", name=name, role="workdir", path=str(share))
    vm.call("attach", name=name, role="workdir", path=str(share))
    for _ in range(2):
        with pytest.raises(SeraiError, match="already, for good") as caught:
            vm.call("attach", name=name, role="workdir", path=str(share / "other"))
        assert caught.value.code == errors.CONFLICT
        if vm.call("show", name=name)["folders"]:
            vm.call("detach", name=name, role="workdir")
    vm.call("attach", name=name, role="workdir", path=str(share))
    assert sh(vm, name, "cat mnt/workdir/given").stdout == b"given"


def test_other_roles_can_be_changed(vm: Vm, name: str, share: Path) -> None:
    (share / "other").mkdir()
    (share / "other/there").touch()
    for role, folder in (
        ("outputs", "outputs"),
        ("skills", ".skills/skills"),
        ("config", ".claude"),
    ):
        vm.call("attach", name=name, role=role, path=str(share))
        vm.call("attach", name=name, role=role, path=str(share / "other"))
        assert sh(vm, name, f"ls mnt/{folder}").stdout == b"there\n"
    assert len(vm.call("show", name=name)["folders"]) == 3


def test_roles_that_take_no_folder(vm: Vm, name: str, share: Path) -> None:
    for role in ("home", "tmp", "etc", ""):
        with pytest.raises(SeraiError):
            vm.call("attach", name=name, role=role, path=str(share))
    with pytest.raises(SeraiError, match="nothing is attached"):
        vm.call("detach", name=name, role="outputs")


@pytest.mark.parametrize("kind", KINDS)
def test_folders_come_back_with_the_session(vm: Vm, name: str, share: Path, kind: str) -> None:
    vm.call("attach", name=name, role="outputs", path=str(share), kind=kind)
    for way in (("stop", "reopen"), ("archive", "reopen"), ("stop", "switch")):
        for method in way:
            vm.call(method, name=name)
            if method != way[1]:
                assert not list(vm.cgroup.glob(f"{name}*")), "something serves a stopped session"
        assert sh(vm, name, "cat mnt/outputs/given").stdout == b"given", way
    vm.call("stop", name=name)
    (share / "other").mkdir()
    vm.call("attach", name=name, role="outputs", path=str(share / "other"), kind=kind)
    vm.call("reopen", name=name)
    assert sh(vm, name, "ls mnt/outputs").stdout == b""
    vm.call("stop", name=name)
    vm.call("detach", name=name, role="outputs")
    assert vm.call("reopen", name=name)["folders"] == []


@pytest.mark.parametrize("kind", KINDS)
def test_killing_the_daemon_loses_no_folder(vm: Vm, name: str, share: Path, kind: str) -> None:
    vm.call("attach", name=name, role="outputs", path=str(share), kind=kind)
    vm.kill()
    vm.start()
    assert [each["mount"] for each in vm.call("show", name=name)["folders"]] == [kind]
    assert sh(vm, name, "cat mnt/outputs/given").stdout == b"given"
    vm.call("detach", name=name, role="outputs")


def test_a_folder_that_is_gone_does_not_keep_the_session_from_starting(
    vm: Vm, name: str, share: Path
) -> None:
    vm.call("attach", name=name, role="outputs", path=str(share))
    vm.call("stop", name=name)
    share.rename(share.with_name("away"))
    (folder,) = vm.call("reopen", name=name)["folders"]
    assert folder["mount"] is None and "No such file" in folder["problem"]
    (told,) = [each for each in vm.call("hints", name=name)["roles"] if each["role"] == "outputs"]
    assert not told["available"] and "No such file" in told["problem"]
    share.with_name("away").rename(share)
    vm.call("attach", name=name, role="outputs", path=str(share))
    assert sh(vm, name, "cat mnt/outputs/given").stdout == b"given"


def test_sessions_see_their_own_folders_only(vm: Vm, name: str, share: Path) -> None:
    other = vm.call("create")["name"]
    for each in (name, other):
        (share / each).mkdir()
        os.chown(share / each, OWNER, OWNER)
        vm.call("attach", name=each, role="outputs", path=str(share / each))
        sh(vm, each, 'echo x >"mnt/outputs/$1"', each)
    for each in (name, other):
        assert sh(vm, each, "ls mnt/outputs; ls mnt/outputs/..").stdout.decode().split() == [
            each,
            "outputs",
            "uploads",
        ]
    vm.call("remove", name=other)


def test_nothing_is_mounted_in_the_vm(vm: Vm, name: str, share: Path) -> None:
    for role, kind in (("outputs", "idmap"), ("uploads", "bindfs")):
        vm.call("attach", name=name, role=role, path=str(share), kind=kind)
    assert vm.daemon is not None
    for pid in ("self", str(vm.daemon.pid)):
        mounts = Path(f"/proc/{pid}/mountinfo").read_text()
        assert "fuse" not in mounts.split() and str(vm.root) not in mounts


def test_a_bindfs_that_died_is_an_error_and_not_a_hang(vm: Vm, name: str, share: Path) -> None:
    vm.call("attach", name=name, role="outputs", path=str(share), kind="bindfs")
    (group,) = vm.cgroup.glob(f"{name}.*")
    (group / "cgroup.kill").write_text("1")
    wait_for(lambda: not cgroups.members(group))
    assert b"not connected" in sh(vm, name, "cat mnt/outputs/given").stderr
    assert vm.call("detach", name=name, role="outputs")["folders"] == []
    vm.call("attach", name=name, role="outputs", path=str(share), kind="bindfs")
    assert sh(vm, name, "cat mnt/outputs/given").stdout == b"given"


def test_a_frozen_session_can_lose_and_get_folders(vm: Vm, name: str, share: Path) -> None:
    vm.call("attach", name=name, role="outputs", path=str(share), kind="bindfs")
    vm.call("switch", name=name)
    other = vm.call("create")["name"]
    vm.call("switch", name=other)
    assert vm.sessions()[name]["state"] == "frozen"
    vm.call("detach", name=name, role="outputs")
    vm.call("attach", name=name, role="uploads", path=str(share))
    vm.call("switch", name=name)
    assert sh(vm, name, "cat mnt/uploads/given; ls mnt/outputs").stdout == b"given"
    vm.call("remove", name=other)


@pytest.mark.parametrize("kind", KINDS)
def test_put_and_get_go_to_the_attached_folder(vm: Vm, name: str, share: Path, kind: str) -> None:
    vm.call("attach", name=name, role="uploads", path=str(share), kind=kind)
    with vm.client() as client:
        client.put(name, "uploads", "new", b"from outside")
        assert client.get(name, "uploads", "given") == b"given"
    assert (share / "new").stat().st_uid == OWNER
    assert sh(vm, name, "cat mnt/uploads/new").stdout == b"from outside"


def test_hints_are_inside_and_change_with_the_folders(vm: Vm, name: str, share: Path) -> None:
    schema = json.loads((hints.DATA / "hints.schema.json").read_text())

    def told() -> dict[str, dict[str, object]]:
        done = sh(vm, name, 'cat "$SERAI_HINTS"; echo x 2>&- >>"$SERAI_HINTS" && echo WRITTEN')
        inside = json.loads(done.stdout)
        jsonschema.validate(inside, schema)
        assert inside == vm.call("hints", name=name)
        return {each["role"]: each for each in inside["roles"]}

    assert "workdir" not in told()
    assert told()["uploads"]["attached"] is False
    vm.call("attach", name=name, role="workdir", path=str(share), host_path="/Users/ann/Köln")
    mine = told()["workdir"]
    assert mine["path"] == str(vm.paths.home(name) / "mnt/workdir")
    assert (mine["vm_path"], mine["host_path"]) == (str(share), "/Users/ann/Köln")
    assert mine["writable"] and mine["available"]
    vm.call("attach", name=name, role="uploads", path=str(share))
    assert told()["uploads"]["writable"] is False
    vm.call("detach", name=name, role="workdir")
    assert "workdir" not in told()


def test_the_prompt_can_be_a_products_own(vm: Vm, name: str, share: Path) -> None:
    vm.call("attach", name=name, role="workdir", path=str(share), host_path="/Users/ann/work")
    shown = vm.serai("hints", name, "--format", "prompt")
    assert '"/Users/ann/work"' in shown.stdout, shown
    vm.paths.hints.write_text("{{ session }} has {{ roles | length }} roles")
    assert vm.serai("hints", name, "--format", "prompt").stdout == f"{name} has 7 roles\n"
    vm.paths.hints.unlink()
    assert json.loads(vm.serai("hints", name).stdout)["session"] == name


def test_the_commands(vm: Vm, name: str, share: Path) -> None:
    assert vm.serai("attach", name, "uploads", str(share), "--rw").returncode == 0
    assert f"uploads: {share} (rw, idmap)" in vm.serai("show", name).stdout
    refused = vm.serai("attach", name, "outputs", "/etc")
    assert refused.returncode == 1 and "may not be attached" in refused.stderr
    assert vm.serai("detach", name, "uploads").returncode == 0
    assert "uploads:" not in vm.serai("show", name).stdout


def test_a_folder_of_roots_gives_no_rights_of_roots(vm: Vm, name: str, share: Path) -> None:
    os.chown(share, 0, 0)
    (share / "given").chmod(0o600)  # OWNER's, and the folder is root's
    vm.call("attach", name=name, role="outputs", path=str(share))
    with vm.client() as client:
        client.put(name, "outputs", "new", b"new")
        with pytest.raises(SeraiError, match="Permission denied"):
            client.get(name, "outputs", "given")
    assert (share / "new").stat().st_uid == 0
    done = sh(
        vm, name, "cp /bin/true mnt/outputs/t; chmod 4755 mnt/outputs/t; cat mnt/outputs/given"
    )
    assert b"Permission denied" in done.stderr


def test_a_server_that_ended_is_not_waited_for() -> None:
    """As where there is no /dev/fuse."""
    ended = subprocess.Popen(["/bin/true"])
    ended.wait()
    sandbox = mounts.Sandbox(os.getpid(), "/", 0)
    with pytest.raises(SeraiError, match="bindfs ended"):
        mounts.by_bindfs(ended.pid, "/target", sandbox, "folder", writable=True)
