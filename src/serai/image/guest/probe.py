"""Gathers facts inside a booted image and prints them as one JSON object.

``verify`` sends this file over ssh to ``python3 - [TOKEN]``, as root, once a boot: it runs in the
image, on Python 3.10 and the standard library alone, and imports nothing of ours. It judges
nothing; ``facts.ProbeFacts`` is the shape of what it prints, and with ``--boot`` as its argument
``facts.BootFacts``: what may differ from boot to boot. TOKEN is written to a file on the disk of
sessions, to be found again after a reboot. The overlay that it runs in is thrown away.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import pwd
import re
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MARK = "/sessions/.verify"
USER = "verify-user"
WHOLE_BOOT = 600.0  # seconds until every job of the boot must have ended
OF_A_BOOT = "--boot"


def said(*argv: str, timeout: float = 60, user: str | None = None) -> tuple[int, str]:
    """Exit status and output of a program, both streams; 127 if it is not there."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            cwd="/",
        )
    except FileNotFoundError:
        return 127, f"{argv[0]} is not there"
    except subprocess.TimeoutExpired:
        return 124, f"{argv[0]} did not end within {timeout:g} s"
    return done.returncode, done.stdout.strip()


def text(path: str) -> str:
    """A file's text without the white space around it, '' if it is not there."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return ""


def boot() -> dict[str, Any]:
    """systemctl(1): the state once every job of the boot has ended."""
    _, state = said("systemctl", "is-system-running", "--wait", timeout=WHOLE_BOOT)
    _, failed = said("systemctl", "list-units", "--failed", "--plain", "--no-legend", "--no-pager")
    _, multi_user = said("systemctl", "is-active", "multi-user.target")
    return {
        "state": state,
        "multi_user": multi_user,
        "failed": [line.split()[0] for line in failed.splitlines() if line],
    }


def system() -> dict[str, Any]:
    """Distribution, image, kernel, clock and swap."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    _, packages = said("dpkg-query", "-W", "-f", "${db:Status-Status}\n")
    room = os.statvfs("/")
    return {
        "distribution": release.get("ID", ""),
        "release": release.get("VERSION_ID", ""),
        "image": release.get("IMAGE_ID", ""),
        "version": release.get("IMAGE_VERSION", ""),
        "machine": os.uname().machine,
        "kernel": os.uname().release,
        "now": time.time(),
        "timezone": timezone(),
        "swaps": [line.split()[0] for line in text("/proc/swaps").splitlines()[1:]],
        "packages": packages.split().count("installed"),
        "root_bytes": room.f_blocks * room.f_frsize,
        "root_used": (room.f_blocks - room.f_bfree) * room.f_frsize,
    }


def timezone() -> str:
    """The name of the time zone that the system tells its programs; none if there is no such."""
    place = Path("/etc/localtime")
    if not place.is_symlink() or not place.exists():
        return ""
    return str(place.readlink()).partition("/zoneinfo/")[2]


def identity() -> dict[str, Any]:
    """What must be this VM's own."""
    keys = {}
    for path in Path("/etc/ssh").glob("ssh_host_*_key.pub"):
        kind, key = text(str(path)).split()[:2]
        keys[kind] = hashlib.sha256(key.encode()).hexdigest()
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError:
        address = ""
    return {
        "machine_id": text("/etc/machine-id"),
        "host_keys": keys,
        "hostname": name,
        "hostname_file": text("/etc/hostname"),
        "address": address,
    }


def superblock(device: str) -> dict[str, Any] | None:
    """The ext4 superblock (kernel doc filesystems/ext4/super), None for anything else."""
    try:
        with Path(device).open("rb") as stream:
            stream.seek(1024)
            block = stream.read(1024)
    except OSError:
        return None
    if len(block) < 1024 or block[0x38:0x3A] != b"\x53\xef":  # noqa: PLR2004
        return None
    (blocks,) = struct.unpack_from("<I", block, 0x4)
    (log_size,) = struct.unpack_from("<I", block, 0x18)
    (made,) = struct.unpack_from("<I", block, 0x108)
    return {
        "bytes": blocks * (1024 << log_size),
        "made": made,
        "uuid": block[0x68:0x78].hex(),
        "label": block[0x78:0x88].rstrip(b"\0").decode(errors="replace"),
    }


def apt(*options: str) -> dict[str, Any]:
    """What apt would fetch lists of, as it resolves its configuration (apt-get(8))."""
    form = "$(SITE) $(RELEASE) $(COMPONENT)"
    # An image has no lists, without which apt names no target but so.
    asked = ("indextargets", "--no-release-info", "--format", form, "Identifier: Packages")
    _, told = said("apt-get", *options, *asked)
    codename = [line for line in text("/etc/os-release").splitlines()
                if line.startswith("VERSION_CODENAME=")]  # fmt: skip
    return {
        "codename": "".join(codename).partition("=")[2].strip('"'),
        "sources": sorted(set(told.splitlines())),
        # Of the mirrors that cloud-init takes by default.
        "usual": sorted(set(re.findall(r"https?://([^/\s:]+)", text("/etc/cloud/cloud.cfg")))),
    }


def listening() -> list[str]:
    """Protocol and address of each socket that somebody outside can reach (ss(8)).

    And the sockets by which systemd has sshd listen elsewhere (systemd-ssh-generator(8)).
    """
    _, told = said("ss", "--no-header", "--listening", "--tcp", "--udp", "--numeric")
    found = {(line.split()[0], line.split()[4]) for line in told.splitlines() if line}
    inside = ("127.", "[::1]", "[::ffff:127.")
    reached = [f"{kind} {address}" for kind, address in found if not address.startswith(inside)]
    _, units = said(
        "systemctl", "list-units", "--plain", "--no-legend", "--no-pager", "sshd-*.socket"
    )
    return sorted([*reached, *(f"by {line.split()[0]}" for line in units.splitlines() if line)])


def disks() -> list[dict[str, Any]]:
    """Every real disk with its partitions."""
    # A partition's START is no column of util-linux 2.37: sysfs has it.
    columns = "NAME,TYPE,SIZE,FSTYPE,PTTYPE,PARTTYPE"
    _, listed = said("lsblk", "--json", "--bytes", "--output", columns)
    found = []
    for device in json.loads(listed)["blockdevices"]:
        if device["type"] != "disk" or not int(device["size"]):
            continue
        found.append(
            {
                "name": device["name"],
                "bytes": int(device["size"]),
                "table": device["pttype"] or "",
                "fstype": device["fstype"] or "",
                "partitions": [partition(child) for child in device.get("children", [])],
            }
        )
    return found


def partition(child: dict[str, Any]) -> dict[str, Any]:
    """A partition as lsblk(8) and sysfs tell it."""
    folder = f"/sys/class/block/{child['name']}"
    return {
        "number": int(text(f"{folder}/partition") or 0),
        "start": int(text(f"{folder}/start") or 0) * 512,
        "bytes": int(child["size"]),
        "fstype": child["fstype"] or "",
        "type": child["parttype"] or "",
    }


def mounted(path: str) -> dict[str, Any] | None:
    """The last mount at ``path`` (proc_pid_mountinfo(5)), None if there is none."""
    found = None
    for line in text("/proc/self/mountinfo").splitlines():
        before, after = line.split(" - ", 1)
        _, _, number, _, point, options, *_ = before.split()
        if point == path:
            fstype, source, _ = after.split(" ", 2)
            found = number, fstype, source, options
    if found is None:
        return None
    number, fstype, source, options = found
    folder = Path(f"/sys/dev/block/{number}").resolve()
    device = folder.name
    # sysfs has a partition's folder in its disk's.
    disk = folder.parent.name if (folder / "partition").exists() else device
    status = Path(path).stat()
    return {
        "device": device,
        "disk": disk,
        "partition": int(text(f"/sys/class/block/{device}/partition") or 0),
        "device_bytes": int(text(f"/sys/class/block/{device}/size") or 0) * 512,
        "fstype": fstype,
        "source": source,
        "options": options.split(","),
        "mode": stat.S_IMODE(status.st_mode),
        "owner": f"{status.st_uid}:{status.st_gid}",
        "ext4": superblock(f"/dev/{device}") if fstype == "ext4" else None,
    }


def sessions(token: str) -> dict[str, Any]:
    """The mount at /sessions, what it is worth across a reboot, and what the journal says of it."""
    mount = mounted("/sessions")
    if mount and token:
        with Path(MARK).open("w", encoding="utf-8") as stream:
            stream.write(token)
            stream.flush()
            os.fsync(stream.fileno())
    _, journal = said("journalctl", "--boot", "--no-pager", "--quiet", "--output=short-monotonic")
    return {
        "mount": mount,
        "mark": text(MARK) if mount else "",
        "journal": [line for line in journal.splitlines() if "session" in line.lower()][:80],
    }


def accounts() -> dict[str, Any]:
    """People's accounts, who may come in, and with what."""
    people = [entry for entry in pwd.getpwall() if 1000 <= entry.pw_uid < 60000]  # noqa: PLR2004
    homes = {Path(entry.pw_dir) for entry in people} | {Path("/root"), *Path("/home").glob("*")}
    keys = {}
    for home in sorted(homes):
        for path in (home / ".ssh").glob("authorized_keys*"):
            lines = [line for line in text(str(path)).splitlines() if line[:1] not in "#"]
            if lines:
                keys[str(path)] = lines
    shadow = [line.split(":") for line in text("/etc/shadow").splitlines()]
    return {
        "people": [entry.pw_name for entry in people],
        "authorized_keys": keys,
        "passwords": [entry[0] for entry in shadow if entry[1][:1] not in ("!", "*")],
    }


def journal_boots() -> int:
    """How many boots the journal holds (journalctl(1))."""
    _, listed = said("journalctl", "--list-boots", "--no-pager", "--quiet")
    return sum(1 for line in listed.splitlines() if line.split()[0].lstrip("-").isdigit())


@contextmanager
def person() -> Iterator[None]:
    """An ordinary user, for as long as the block."""
    said("useradd", "--create-home", USER)
    try:
        yield
    finally:
        said("userdel", "--remove", USER)


def login() -> dict[str, Any]:
    """What an ordinary user's login gets: limits by PAM, as bash's ulimit tells them."""
    with person():
        _, told = said(
            *(
                "runuser",
                "--shell=/bin/bash",
                "--command=ulimit -n; ulimit -u; ulimit -s; ulimit -l",
            ),
            USER,
        )
    locale = [line.partition("=")[2] for line in text("/etc/default/locale").splitlines()
              if line.startswith("LANG=")]  # fmt: skip
    return {
        "limits": dict(zip(("nofile", "nproc", "stack", "memlock"), told.split(), strict=False)),
        "locale": "".join(locale).strip('"'),
    }


def bwrap() -> dict[str, Any]:
    """bubblewrap as a user without any right makes every namespace and runs a program in it."""
    with person():
        status, output, uid = bwrapped()
    path = Path("/usr/bin/bwrap")
    try:
        mode, attributes = stat.S_IMODE(path.stat().st_mode), os.listxattr(path)
    except FileNotFoundError:
        mode, attributes = 0, []
    return {
        "status": status,
        "output": output,
        "uid": int(uid) if uid.isdigit() else -1,
        "version": said("bwrap", "--version")[1],
        "mode": mode,
        "capabilities": "security.capability" in attributes,
    }


def bwrapped() -> tuple[int, str, str]:
    """Status and output of a sandbox of the user's, and the user's number."""
    status, output = said(
        "bwrap",
        *("--unshare-all", "--die-with-parent", "--new-session"),
        *("--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"),  # noqa: S108
        *("sh", "-c", "echo pid=$$ uid=$(id -u)"),
        user=USER,
    )
    return status, output, said("id", "-u", USER)[1]


def socat() -> dict[str, Any]:
    """socat carries a line through a pair of its addresses."""
    status, output = said("socat", "-u", "EXEC:echo through", "STDOUT")
    _, version = said("socat", "-V")
    lines = [line for line in version.splitlines() if line.startswith("socat version")]
    return {"status": status, "output": output, "version": " ".join("".join(lines).split()[:3])}


def main() -> None:
    """Print what was found and how long each part took."""
    argument = sys.argv[1] if len(sys.argv) > 1 else ""
    token = "" if argument == OF_A_BOOT else argument
    parts: dict[str, Callable[[], Any]] = {
        "boot": boot,
        "identity": identity,
        "root": lambda: mounted("/"),
        "sessions": lambda: sessions(token),
    }
    rest: dict[str, Callable[[], Any]] = {
        "system": system,
        "apt": apt,
        "listening": listening,
        "disks": disks,
        "accounts": accounts,
        "journal_boots": journal_boots,
        "login": login,
        "bwrap": bwrap,
        "socat": socat,
    }
    if argument != OF_A_BOOT:
        parts.update(rest)
    found: dict[str, Any] = {}
    took: dict[str, float] = {}
    for name, gather in parts.items():
        begin = time.monotonic()
        found[name] = gather()
        took[name] = round(time.monotonic() - begin, 3)
    print(json.dumps({**found, "took": took}))


if __name__ == "__main__":
    main()
