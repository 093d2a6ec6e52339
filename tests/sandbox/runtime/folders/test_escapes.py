"""No folder leads out of what was meant, whatever becomes of the paths to it and in it."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serai.common.errors import SeraiError
from serai.runtime.client import Client
from serai.runtime.sandbox import cgroups
from tests.support.attached_folders import KINDS, OWNER, sh
from tests.support.fake_vm import Vm
from tests.support.waiting import wait_for

BAD_PATHS = {
    "/etc": "may not be attached",
    "/": "may not be attached",
    "/sessions": "may not be attached",
    "{share}/../../sessions": "may not be attached",
    "{root}/sharex": "may not be attached",
    "relative": "may not be attached",
    "{share}/nothing": "No such file",
    "{share}/given": "no directory",
    "{share}/link": "symlink",
    "{share}/link/x": "symlink",
    "{share}/fifo": "no directory",
}


@pytest.mark.parametrize("path", BAD_PATHS)
def test_what_cannot_be_attached(vm: Vm, name: str, share: Path, path: str) -> None:
    (share / "link").symlink_to("/etc")
    os.mkfifo(share / "fifo")
    with pytest.raises(SeraiError, match=BAD_PATHS[path]):
        vm.call("attach", name=name, role="outputs", path=path.format(share=share, root=vm.root))
    assert vm.call("show", name=name)["folders"] == []


def test_no_session_moves_a_mount_point_or_what_is_above_it(vm: Vm, name: str, share: Path) -> None:
    vm.call("attach", name=name, role="outputs", path=str(share))
    for moved in ("mnt", "mnt/outputs"):
        done = sh(vm, name, 'mv "$1" elsewhere', moved)
        assert b"busy" in done.stderr, done
    vm.call("detach", name=name, role="outputs")


def test_a_mount_that_is_gone_is_told(vm: Vm, name: str, share: Path) -> None:
    vm.call("attach", name=name, role="outputs", path=str(share))
    inside = ["nsenter", "-m", "-t", str(cgroups.members(vm.cgroup / name)[-1])]
    subprocess.run([*inside, "umount", vm.paths.home(name) / "mnt/outputs"], check=True)
    with pytest.raises(SeraiError, match="moved it"):
        vm.call("detach", name=name, role="outputs")
    vm.call("stop", name=name)
    vm.call("detach", name=name, role="outputs")


def test_a_mount_point_that_is_a_symlink_is_refused(vm: Vm, name: str, share: Path) -> None:
    for target in ("/", "/etc", "..", "/proc/self/root"):
        assert sh(vm, name, 'rm -rf mnt/outputs; ln -s "$1" mnt/outputs', target).status == 0
        with pytest.raises(SeraiError, match="symlink"):
            vm.call("attach", name=name, role="outputs", path=str(share))
    assert vm.call("show", name=name)["folders"] == []
    sh(vm, name, "rm mnt/outputs; rmdir mnt/.claude")
    for role in ("outputs", "config"):
        vm.call("attach", name=name, role=role, path=str(share))
    assert sh(vm, name, "cat mnt/outputs/given mnt/.claude/given").stdout == b"givengiven"


SWAP = """
import os, sys, time
os.chdir("mnt/outputs")
os.mkdir("swap"); open("swap/secret", "w").write("mine"); os.symlink(sys.argv[1], "other")
end = time.monotonic() + 4
if os.fork():
    while time.monotonic() < end:
        for one, two in (("swap", "kept"), ("other", "swap"), ("swap", "other"), ("kept", "swap")):
            os.rename(one, two)
    os.wait()
else:
    stolen = 0
    while time.monotonic() < end:
        try:
            with open("swap/secret") as file:
                stolen += file.read() != "mine"
            with open("swap/planted", "w") as file:
                file.write("x")
        except OSError:
            pass
    print(stolen)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_racing_with_symlinks_inside_does_not_lead_out(
    vm: Vm, name: str, share: Path, kind: str
) -> None:
    outside = vm.root / f"outside-{kind}"
    outside.mkdir()
    outside.chmod(0o777)
    (outside / "secret").write_text("the VM's")
    vm.call("attach", name=name, role="outputs", path=str(share), kind=kind)
    with Client(vm.paths.control, timeout=60) as client:
        done = client.exec(name, ["python3", "-c", SWAP, str(outside)])
    assert done.stdout == b"0\n", done
    assert os.listdir(outside) == ["secret"]


# argv[1] is a folder by bindfs: a folder in it is held open while it becomes a symlink outside, and
# bindfs, which knows it by its path, is asked for a file in it.
HELD = """
import errno, os, sys, time
os.chdir(sys.argv[1])
held = os.open("held", os.O_PATH | os.O_DIRECTORY)
open("ready", "w").close()
while not os.path.exists("swapped"):
    time.sleep(0.01)
try:
    print(open(os.open("secret", os.O_RDONLY, dir_fd=held)).read())
except OSError as error:
    print(errno.errorcode[error.errno])
"""


def swap_held(folder: Path, outside: Path) -> None:
    """Swap as another session could that has the same folder."""
    wait_for((folder / "ready").exists)
    (folder / "held").rename(folder / "kept")
    (folder / "held").symlink_to(outside)
    (folder / "swapped").touch()


@pytest.fixture
def outside(vm: Vm, share: Path) -> Path:
    """A folder beside the share, in which the VM keeps a secret."""
    (share / "held").mkdir()
    os.chown(share / "held", OWNER, OWNER)
    folder = vm.root / f"outside-{share.name}"
    folder.mkdir()
    (folder / "secret").write_text("the VM's")
    return folder


def test_bindfs_does_not_follow_what_became_a_symlink(
    vm: Vm, name: str, share: Path, outside: Path
) -> None:
    vm.call("attach", name=name, role="outputs", path=str(share), kind="bindfs")
    with Client(vm.paths.control, timeout=60) as client, ThreadPoolExecutor() as pool:
        swapped = pool.submit(swap_held, share, outside)
        done = client.exec(name, ["python3", "-c", HELD, "mnt/outputs"])
        swapped.result()
    assert done.stdout == b"ENOENT\n", done


def test_bindfs_without_its_small_root_would_follow_it(vm: Vm, share: Path, outside: Path) -> None:
    """The measure taken away: the attack is a real one."""
    target = vm.root / "target"
    target.mkdir()
    # In a mount namespace of its own, out of which bindfs is told to end.
    script = 'bindfs "$1" "$2" && python3 -c "$3" "$2"; umount -l "$2"'
    words = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh"]
    words += [str(share), str(target), HELD]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as attack:
        swap_held(share, outside)
        assert attack.communicate(timeout=60)[0] == "the VM's\n"
