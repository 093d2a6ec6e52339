"""Looks around inside a session and prints what it sees as one JSON object.

``doctor`` has ``python3 -I -c`` run this file as a payload: in the sandbox, on the standard library
alone, importing nothing of ours. It judges nothing. Its argument is a JSON object: ``parts`` names
what to look at, the rest is what the parts need to know. A part that fails is the reason, as text,
so a sandbox that is broken in one place is still seen in all others.
"""

from __future__ import annotations

import ctypes
import errno
import http.client
import json
import mmap
import os
import resource
import signal
import socket
import stat
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

Request = dict[str, Any]

SECCOMP_MODE_FILTER, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 2, 22, 38
RET_ALLOW, RET_TRACE = 0x7FFF0000, 0x7FF00000  # linux/seccomp.h; without a tracer: ENOSYS
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06  # linux/bpf_common.h
LIMITS = ("NOFILE", "NPROC", "STACK", "MEMLOCK", "CORE")
KINDS = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
LEAST = 3  # processes that a sandbox consists of
PATIENCE = 3.0  # seconds for a connection that should be refused at once
MACHINE_CODE = {
    "i386 getpid": "53b814000000cd805bc3",  # push rbx; mov eax, 20; int 0x80; pop rbx; ret
    "i386 socketcall": "53b86600000031db31c9cd805bc3",  # eax 102, ebx 0, ecx 0
    "x32 getpid": "b8270000400f05c3",  # mov eax, 0x40000027; syscall; ret
}


def text(path: str) -> str:
    return Path(path).read_text(errors="replace")


def tried(action: Callable[[], object]) -> str:
    """The name of the error that an action fails with, '' if it works."""
    try:
        action()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, type(error).__name__)
    return ""


def works(action: Callable[[], object]) -> bool:
    return tried(action) == ""


def bridge(_request: Request) -> dict[str, str]:
    """proc_pid_status(5) of the bridge's shell, which is PID 1.

    A payload's own is read by a program that leaves signals alone, which Python does not.
    """
    lines = text("/proc/1/status").splitlines()
    return {key: value.strip() for key, value in (line.split(":", 1) for line in lines)}


def process(_request: Request) -> dict[str, Any]:
    """What this process was given."""
    fields = text("/proc/self/stat").rpartition(") ")[2].split()
    mask = os.umask(0o022)
    os.umask(mask)
    open_ = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the folder's own is closed by now
            os.fstat(int(name))
            open_.append(int(name))
    # Those of PID 1 are masked; its children's were the same when they began.
    socats = text("/proc/1/task/1/children").split()[:1]
    environment = Path("/proc/self/environ").read_bytes().decode(errors="replace").split("\0")
    return {
        "descriptors": sorted(open_),
        "environment": dict(each.split("=", 1) for each in environment if "=" in each),
        "umask": mask,
        "leader": os.getsid(0) == os.getpid(),
        "terminal": int(fields[4]),
        "folder": os.getcwd(),
        "oom": [text(f"/proc/{pid}/oom_score_adj").strip() for pid in (*socats, "self")],
        "uid_map": text("/proc/self/uid_map").split(),
    }


def namespaces(_request: Request) -> dict[str, str]:
    return {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in KINDS}


# --- system calls


def calls(request: Request) -> dict[str, int]:
    """The errno of each call; ENOSYS where only our own filter stopped it."""
    answers: dict[str, int] = {}
    guarded = [row for row in request["calls"] if not row[3]]
    for rows, guard in ((guarded, True), ([row for row in request["calls"] if row[3]], False)):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            try:
                if guard:
                    catch({row[1] for row in rows})
                os.write(write, json.dumps([call(row[1], row[2]) for row in rows]).encode())
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            told = pipe.read()
        _, ended = os.waitpid(child, 0)
        if not told:
            raise RuntimeError(f"the process that tried them ended with {ended}")
        answers.update(zip((row[0] for row in rows), json.loads(told), strict=True))
    return answers


def call(number: int, arguments: list[int]) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(each) for each in arguments))
    return ctypes.get_errno() if result < 0 else 0


def catch(numbers: set[int]) -> None:
    """From now on these calls end with ENOSYS, unless an earlier filter says otherwise.

    seccomp(2): of several filters' answers the strictest counts, and ERRNO is stricter than TRACE.
    """
    code = [(LOAD, 0, 0, 0)]
    for place, number in enumerate(sorted(numbers)):
        code.append((EQUAL, len(numbers) - place, 0, number))
    code += [(RETURN, 0, 0, RET_ALLOW), (RETURN, 0, 0, RET_TRACE)]
    program = b"".join(struct.pack("<HBBI", *each) for each in code)
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(code), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0):
        raise OSError(ctypes.get_errno(), "no filter")


def foreign(_request: Request) -> dict[str, bool]:
    """Whether a system call by another ABI's way kills; there is none on arm64."""
    names = MACHINE_CODE if os.uname().machine == "x86_64" else {}
    return {name: killed(bytes.fromhex(names[name])) for name in names}


def killed(code: bytes) -> bool:
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        memory.write(code)
        place = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        ctypes.CFUNCTYPE(ctypes.c_long)(place)()
        os._exit(0)
    _, ended = os.waitpid(child, 0)
    return os.WIFSIGNALED(ended) and os.WTERMSIG(ended) == signal.SIGSYS


# --- network


def network(request: Request) -> dict[str, Any]:
    """Ways out, each by the error that it ends with."""

    def connect(host: str, port: int) -> Callable[[], object]:
        return lambda: socket.create_connection((host, port), PATIENCE).close()

    def knock(path: str) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)

    def datagram() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"x", ("198.51.100.1", 53))

    tables = [text(f"/proc/net/{name}").splitlines()[1:] for name in ("tcp", "tcp6")]
    rows = [row.split() for table in tables for row in table]
    v6 = [line.split() for line in text("/proc/net/ipv6_route").splitlines()]
    return {
        "interfaces": [
            line.split(":")[0].strip() for line in text("/proc/net/dev").splitlines()[2:]
        ],
        "routes": text("/proc/net/route").splitlines()[1:]
        + [row[0] for row in v6 if row[-1] != "lo"],
        "listening": sorted({int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"}),
        "tcp": tried(connect("192.0.2.1", 80)),
        "tcp6": tried(connect("2001:db8::1", 80)),
        "metadata": tried(connect("169.254.169.254", 80)),
        "udp": tried(datagram),
        "lookup": tried(lambda: socket.getaddrinfo("example.com", 80)),
        "raw": tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)),
        "vm": tried(connect("127.0.0.1", request["port"])),
        "bridge": [tried(connect("127.0.0.1", port)) for port in request["bridge"]],
        "gate": [tried(partial(knock, path)) for path in request["gate"]],
    }


def gate(request: Request) -> dict[str, Any]:
    """The origin, a server of the VM's own, asked for by HTTP and by SOCKS."""
    host, port = request["origin"]
    http_port, socks_port = request["bridge"]
    client = http.client.HTTPConnection("127.0.0.1", http_port, timeout=20)
    client.request("GET", f"http://{host}:{port}/")
    answer = client.getresponse()
    with socket.create_connection(("127.0.0.1", socks_port), 20) as sock:
        sock.sendall(b"\x05\x01\x00")
        sock.recv(2)
        sock.sendall(b"\x05\x01\x00\x01" + socket.inet_aton(host) + struct.pack(">H", port))
        code = sock.recv(10)[1]
    return {"http": answer.status, "text": answer.read(4000).decode(), "socks": code}


# --- files


def files(request: Request) -> dict[str, Any]:
    """What is there, what may be written, and what gives something away."""
    own = Path(request["home"])
    return {
        "read_only": {
            path: bool(os.statvfs(path).f_flag & os.ST_RDONLY)
            for path in request["read_only"]
            if os.path.exists(path)
        },
        "writable": {path: works(partial(write, path)) for path in [*request["private"], str(own)]},
        "listing": {path: listing(path) for path in ["/", *request["private"], *request["fixed"]]},
        "devices": devices(),
        "sockets": sockets(
            ["/run", "/etc", "/var", "/opt", "/tmp", "/dev", "/home", "/root", str(own)]
        ),
        "readable": [path for path in request["secrets"] if works(partial(read, path))],
        "switches": [path for path in request["switches"] if works(partial(open_to_write, path))],
        "hostname": os.uname().nodename,
        "cgroup": text("/proc/self/cgroup").split(),
        "users": text("/run/serai/users/passwd") + text("/run/serai/users/group"),
        "hosts": text("/etc/hosts"),
    }


def listing(path: str) -> list[str] | str:
    try:
        return sorted(os.listdir(path))
    except OSError as error:
        return type(error).__name__


def write(folder: str) -> None:
    path = os.path.join(folder, ".doctor")
    with open(path, "w") as file:
        file.write("x")
    os.unlink(path)


def read(path: str) -> None:
    with open(path, "rb") as file:
        file.read(1)


def open_to_write(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY))


def devices() -> list[str]:
    found = []
    for top, _, names in os.walk("/dev"):
        kinds = {name: os.lstat(os.path.join(top, name)).st_mode for name in names}
        found += [os.path.join(top, name) for name in names if not stat.S_ISLNK(kinds[name])]
    return sorted(name for name in found if not name.startswith("/dev/pts/") or "ptmx" in name)


def sockets(tops: list[str]) -> list[str]:
    found = []
    for start in tops:
        for top, _, names in os.walk(start):
            for path in (os.path.join(top, name) for name in names):
                with suppress(OSError):
                    if stat.S_ISSOCK(os.lstat(path).st_mode):
                        found.append(path)
    return sorted(set(found))


def mounts(_request: Request) -> list[list[str]]:
    """proc_pid_mountinfo(5): place, options and kind."""
    rows = [line.split(" - ") for line in text("/proc/self/mountinfo").splitlines()]
    return [[before.split()[4], before.split()[5], after.split()[0]] for before, after in rows]


# --- other sessions


def others(request: Request) -> dict[str, Any]:
    """Ways to another session, whose file ``secret`` everybody may read."""
    home, secret = request["home"], request["secret"]
    beside = f"../{Path(secret).parent.name}/{Path(secret).name}"
    link, hard = f"{home}/.doctor-link", f"{home}/.doctor-hard"
    with suppress(OSError):
        os.symlink(secret, link)
    with suppress(OSError):
        os.link(secret, hard)
    direct = {"path": secret, "..": f"{home}/{beside}", "symlink": link, "hard link": hard}
    direct["from above"] = f"{home}/../../../../../../..{secret}"
    pids = [pid for pid in os.listdir("/proc") if pid.isdigit()]
    through = [
        (f"{way} of {pid}", f"/proc/{pid}/{way}{end}")
        for pid in pids
        for way in ("root", "cwd", *(f"fd/{number}" for number in descriptors(pid)))
        for end in (secret, f"/{beside}", "")
    ]
    marked = request["mark"]
    found = {
        "beside": listing(str(Path(home).parent)),
        "direct": [way for way, path in direct.items() if holds(path, marked)],
        "through": sorted({way for way, path in through if holds(path, marked)}),
        "processes": processes(),
        "traced": traced(pids),
        "memory": segment(request["key"]),
    }
    for path in (link, hard):
        with suppress(OSError):
            os.unlink(path)
    return found


def descriptors(pid: str) -> list[str]:
    """Those of a process that may lead somewhere: not its input and output."""
    try:
        found = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return []
    return [number for number in found if int(number) > 2]  # noqa: PLR2004


def holds(path: str, mark: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return mark.encode() in os.read(descriptor, 4096)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def processes() -> list[list[str]]:
    """Everything but this process, once what the bridge did for an earlier payload is over."""
    end = time.monotonic() + PATIENCE
    while True:
        rows = [row for row in map(row_of, filter(str.isdigit, os.listdir("/proc"))) if row]
        if len(rows) <= LEAST or time.monotonic() > end:
            return rows
        time.sleep(0.02)


def row_of(pid: str) -> list[str]:
    try:
        before, _, after = text(f"/proc/{pid}/stat").rpartition(")")
    except OSError:
        return []
    return [pid, after.split()[1], before.partition("(")[2]] if int(pid) != os.getpid() else []


def traced(pids: list[str]) -> list[str]:
    """Processes that this one did not start and can look into, and write to."""
    found = []
    for pid in (pid for pid in pids if int(pid) != os.getpid()):
        for name, flags in (("mem", os.O_RDWR), ("environ", os.O_RDONLY), ("fd/1", os.O_RDONLY)):
            with suppress(OSError):
                os.close(os.open(f"/proc/{pid}/{name}", flags))
                found.append(f"{pid} {name}")
    return found


def segment(key: int) -> bool:
    """Whether the VM's shared memory is there; shmget(2)."""
    return bool(ctypes.CDLL(None).shmget(key, 0, 0) >= 0)


def limits(_request: Request) -> dict[str, list[int]]:
    return {name: list(resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))) for name in LIMITS}


PARTS: dict[str, Callable[[Request], Any]] = {
    "bridge": bridge,
    "process": process,
    "namespaces": namespaces,
    "calls": calls,
    "foreign": foreign,
    "files": files,
    "mounts": mounts,
    "others": others,
    "limits": limits,
    # Last: a connection leaves processes of the bridge's for a moment.
    "network": network,
    "gate": gate,
}


def main() -> None:
    request = json.loads(sys.argv[1])
    found: dict[str, Any] = {}
    took: dict[str, float] = {}
    for name in request["parts"]:
        begin = time.monotonic()
        try:
            found[name] = PARTS[name](request)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
        took[name] = round(time.monotonic() - begin, 3)
    print(json.dumps({"found": found, "took": took}))


if __name__ == "__main__":
    main()
