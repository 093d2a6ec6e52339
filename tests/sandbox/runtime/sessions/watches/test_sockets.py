"""A session that pins the kernel's memory is stopped, by sessiond and the kernel's own table."""

from __future__ import annotations

from pathlib import Path

import pytest

from serai.runtime.sandbox import cgroups
from tests.support.fake_vm import Vm, opened
from tests.support.waiting import wait_for

WEAK = """
from serai.runtime.sessions.watches import sockets
sockets.scarce = lambda meminfo: {scarce}
sockets.MOST = 1 << 20
"""
"""A daemon that looks at sessions at any time, or at none, and for which little is much."""

HOG = """
import resource, socket, struct, time
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
message = struct.pack("=IHHII", 16 + 32000, 16, 5, 1, 0) + bytes(32000)  # RTM_NEWLINK, refused
ends = []
for number in range(40):
    end = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    end.setblocking(False)
    ends.append(end)
    try:
        for _ in range(20): end.send(message)
    except BlockingIOError: pass
print("full", flush=True)
time.sleep(999)
"""

INTERFACES = """
import ctypes
found = ctypes.c_void_p()
libc = ctypes.CDLL(None)
for _ in range(200):
    assert libc.getifaddrs(ctypes.byref(found)) == 0
    libc.freeifaddrs(found)
print("listed")
"""


@pytest.mark.parametrize("scarce", [True, False])
def test_unread_netlink_messages_end_a_session_when_memory_is_scarce(scarce: bool) -> None:
    with opened() as vm:
        vm.start(weaken=WEAK.format(scarce=scarce))
        name = vm.call("create")["name"]
        listed = vm.serai("exec", name, "--", "python3", "-c", INTERFACES)
        assert listed.stdout == "listed\n", listed.stderr
        job = vm.serai("start", name, "--", "python3", "-c", HOG).stdout.strip()
        if not scarce:
            wait_for(lambda: vm.serai("logs", job).stdout == "full\n")
            assert waiting(vm, name) > 1 << 20
            assert vm.sessions()[name]["state"] == "ready"
            return
        wait_for(lambda: vm.sessions()[name]["state"] == "stopped")
        assert "sockets nobody read" in vm.serai("show", name).stdout
        assert vm.call("create")["state"] == "ready"


def waiting(vm: Vm, name: str) -> int:
    """Bytes that wait in a session's netlink sockets."""
    pid = cgroups.members(vm.payloads(name)[0])[0]
    rows = [line.split() for line in Path(f"/proc/{pid}/net/netlink").read_text().splitlines()]
    return sum(int(row[4]) for row in rows[1:])
