from __future__ import annotations

import os
import subprocess
from pathlib import Path

from serai.common import proc

MOUNTINFO = """\
25 30 0:23 / /proc rw,nosuid shared:11 - proc proc rw
36 25 98:0 /a\\040b /sessions/x/mnt/a\\040b\\134c ro master:1 - fuse.bindfs /dev/b ro,user_id=0
40 25 0:9 / /sys/fs/cgroup/systemd rw - cgroup  rw,name=systemd
"""


def test_a_mount_is_read_with_its_options_and_the_file_systems() -> None:
    first, second, third = proc.mounts(MOUNTINFO)
    assert (first.device, first.place, first.kind) == ("0:23", "/proc", "proc")
    assert first.options == ("rw", "nosuid")
    assert second.place == "/sessions/x/mnt/a b\\c"
    assert second.kind == "fuse.bindfs"
    assert "ro" in second.super_options
    assert third.source == ""
    assert "name=systemd" in third.super_options


def test_a_place_may_hold_what_python_takes_for_the_end_of_a_line() -> None:
    (mount,) = proc.mounts("36 25 98:0 / /mnt/a\x0bb\u2028c rw - ext4 /dev/sda rw\n")
    assert mount.place == "/mnt/a\x0bb\u2028c"


def test_this_process_sees_what_is_mounted_here() -> None:
    mounts = proc.mounts_of()
    assert "/proc" in [each.place for each in mounts]
    assert len(mounts) == len(Path("/proc/self/mountinfo").read_bytes().splitlines())


def test_children_are_found_and_one_that_is_gone_has_none() -> None:
    child = subprocess.Popen(["/bin/sleep", "60"])
    try:
        assert child.pid in proc.children(os.getpid())
    finally:
        child.kill()
        child.wait()
    assert proc.children(child.pid) == []


def test_sockets_are_counted() -> None:
    text = "sockets: used 4\nTCP: inuse 2 orphan 0 tw 0 alloc 9 mem 0\nUDP: inuse 3 mem 0\n"
    assert proc.sockets(text) == 2
    assert proc.sockets("sockets: used 4\n") == 0


def test_the_memory_of_a_process_is_less_than_all_that_it_maps() -> None:
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    assert 1 << 20 < proc.pss("self") <= resident + (16 << 20)
