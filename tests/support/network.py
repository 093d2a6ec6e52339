"""A small internet for tests: network namespaces with public addresses, and a DNS server.

Nothing of it is on the test machine's own network, nor does it change its mounts.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.waiting import wait_for

CLONE_NEWNET = 0x40000000
# A and AAAA, RFC 1035 and 3596.
TYPES = {1: 4, 28: 6}

# The gate's side of the cable: it has 11.0.0.1 and 2a00::1, and the resolver of its own.
SCRIPT = """
set -e
ip link set lo up
ip link add name cable type veth peer name eth0 netns "$1"
ip address add 11.0.0.1/24 dev cable
ip -6 address add 2a00::1/64 dev cable nodad
ip link set cable up
nsenter --target "$1" --net sh -ec '
    ip link set lo up
    ip address add 11.0.0.2/24 dev eth0
    ip -6 address add 2a00::2/64 dev eth0 nodad
    ip link set eth0 up
'
mount --bind "$2" /etc/resolv.conf
shift 2
exec "$@"
"""


@contextmanager
def inside(pid: int) -> Iterator[None]:
    """This thread is in the network of another process; its sockets stay there for good."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as own, open(f"/proc/{pid}/ns/net") as other:  # noqa: PTH123
        assert libc.setns(other.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        try:
            yield
        finally:
            assert libc.setns(own.fileno(), CLONE_NEWNET) == 0


@contextmanager
def outside(folder: Path) -> Iterator[tuple[int, list[str]]]:
    """A network to be reached; its process, and the command that starts another one next to it.

    That one has its names from a DNS server that must be on its 127.0.0.1.
    """
    resolv = folder / "resolv.conf"
    resolv.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:20\n")
    process = subprocess.Popen(["/usr/bin/unshare", "--net", "sleep", "infinity"])
    try:
        own = Path("/proc/self/ns/net").readlink()
        wait_for(lambda: Path(f"/proc/{process.pid}/ns/net").readlink() != own)
        unshare = ["unshare", "--net", "--mount", "--propagation", "private"]
        yield process.pid, [*unshare, "sh", "-c", SCRIPT, "sh", str(process.pid), str(resolv)]
    finally:
        process.kill()
        process.wait()


def dns(pid: int) -> socket.socket:
    """Where a DNS server for the process ``pid``, which runs by now, has to listen."""
    with inside(pid):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 53))
    return udp


class Names:
    """A DNS server. ``answers`` has the addresses of a name, one list a look-up of it, the last
    of which is said again and again; a name that is not in it is answered never. ``asked`` has a
    question once, however often a resolver that waits for its answer asks again.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.answers: dict[str, list[list[str]]] = {}
        self.asked: list[tuple[str, int]] = []
        self._said: dict[bytes, bytes] = {}
        self._sock = sock
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._thread.join()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                query, client = self._sock.recvfrom(512)
                if not query:
                    return
                if query not in self._said:  # it has a number that the next look-up has not
                    self._said[query] = self._answer(query)
                if answer := self._said[query]:
                    self._sock.sendto(answer, client)

    def _answer(self, query: bytes) -> bytes:
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        question = query[12 : at + 5]
        name, kind = ".".join(labels), int.from_bytes(query[at + 1 : at + 3], "big")
        turn = self.asked.count((name, kind))
        self.asked.append((name, kind))
        if name not in self.answers:
            return b""
        each = self.answers[name]
        found = [ipaddress.ip_address(a) for a in each[min(turn, len(each) - 1)]]
        packed = [a.packed for a in found if TYPES.get(kind) == a.version]
        records = b"".join(
            b"\xc0\x0c" + kind.to_bytes(2, "big") + b"\0\1\0\0\0\0\0" + bytes([len(p)]) + p
            for p in packed
        )
        return query[:2] + b"\x81\x80\0\1\0" + bytes([len(packed)]) + bytes(4) + question + records
