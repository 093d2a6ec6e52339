"""Without an option of bubblewrap's its checks are red, and no others."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from serai.runtime.sandbox import bwrap
from tests.support.sandbox import Room
from tests.support.weak_sandbox import CHECKS, Options, Vm, red, with_options


def drop(*options: str) -> Callable[[Options], Options]:
    """Leave out an option with its arguments, which are consecutive."""

    def change(given: Options) -> Options:
        place = next(
            at for at in range(len(given)) if tuple(given[at : at + len(options)]) == options
        )
        return given[:place] + given[place + len(options) :]

    return change


def swap(old: Sequence[str], new: Sequence[str]) -> Callable[[Options], Options]:
    """Put other options in the place of some."""

    def change(given: Options) -> Options:
        place = next(
            at for at in range(len(given)) if tuple(given[at : at + len(old)]) == tuple(old)
        )
        return [*given[:place], *new, *given[place + len(old) :]]

    return change


def add(*options: str) -> Callable[[Options], Options]:
    """Before the root becomes read-only."""
    return swap(("--remount-ro", "/"), (*options, "--remount-ro", "/"))


OPTIONS: dict[str, tuple[Callable[[Options], Options], set[str]]] = {
    "VM's ipc": (
        drop("--unshare-ipc"),
        {"a payload has its own ipc namespace", "the VM's shared memory is out of reach"},
    ),
    "VM's name": (
        lambda given: drop("--unshare-uts")(drop("--hostname", "serai")(given)),
        {"a payload has its own uts namespace", "the host name is that of the settings"},
    ),
    "another name": (
        swap(("--hostname", "serai"), ("--hostname", "other")),
        {"the host name is that of the settings"},
    ),
    "VM's cgroup": (
        drop("--unshare-cgroup"),
        {"a payload has its own cgroup namespace", "the cgroup's path discloses nothing"},
    ),
    "root writable": (drop("--remount-ro", "/"), {"/ is read-only"}),
    "dev writable": (drop("--remount-ro", "/dev"), {"/dev is read-only"}),
    **{
        f"{path} writable": (
            swap(("--ro-bind-try", path, path), ("--bind", path, path)),
            {f"{path} is read-only"},
        )
        for path in ("/usr", "/etc", "/sys/devices/system/cpu")
    },
    "gate writable": (
        swap(("--ro-bind", "{gate}", "/run/serai/gate"), ("--bind", "{gate}", "/run/serai/gate")),
        {"/run/serai/gate is read-only"},
    ),
    "users writable": (
        swap(("--ro-bind", "{users}"), ("--bind", "{users}")),
        {"/run/serai/users is read-only"},
    ),
    "hints writable": (
        swap(("--ro-bind", "{hints}"), ("--bind", "{hints}")),
        {"/run/serai/hints is read-only"},
    ),
    "hosts writable": (
        swap(("--ro-bind", "{hosts}"), ("--bind", "{hosts}")),
        {"/etc/hosts is read-only"},
    ),
    "VM's hosts": (
        drop("--ro-bind", "{hosts}", "/etc/hosts"),
        {"the hosts file is the session's own"},
    ),
    **{
        f"VM's {path}": (add("--bind", "{full}", path), {f"{path} is the session's own"})
        for path in ("/tmp", "/var/tmp", "/home", "/root")
    },
    "VM's shm": (
        swap(("--remount-ro", "/dev"), ("--bind", "{full}", "/dev/shm", "--remount-ro", "/dev")),
        # What lies there is found as a file in /dev as well.
        {"/dev/shm is the session's own", "devices are the harmless ones"},
    ),
    "read-only tmp": (add("--remount-ro", "/tmp"), {"/tmp is the session's own"}),
    "more in run": (add("--dir", "/run/other"), {"/run shows serai only"}),
    "more in run/serai": (
        add("--dir", "/run/serai/sessions"),
        {"/run/serai shows certificates and gate and hints and users only"},
    ),
    "more in sys": (add("--dir", "/sys/kernel"), {"/sys shows devices only"}),
    "more in root": (add("--dir", "/mnt"), {"/ shows only what a session needs"}),
    "read-only home": (
        swap(("--bind", "{home}", "{home}"), ("--ro-bind", "{home}", "{home}")),
        {"a session can write its home"},
    ),
    "writable uploads": (
        swap(("--ro-bind", "{home}/mnt/uploads"), ("--bind", "{home}/mnt/uploads")),
        {"a session can only read its uploads and skills"},
    ),
    "uploads to replace": (
        drop("--bind", "{home}/mnt", "{home}/mnt"),
        {"a session can only read its uploads and skills"},
    ),
    "one more device": (
        swap(
            ("--remount-ro", "/dev"),
            ("--dev-bind", "/dev/null", "/dev/kmsg", "--remount-ro", "/dev"),
        ),
        {"devices are the harmless ones"},
    ),
    "socket": (
        add("--dir", "/run/serai", "--ro-bind", "{folder}", "/run/serai/users/../gate"),
        {"no Unix socket of the VM is visible"},
    ),
    "socket in root": (
        add("--ro-bind", "{folder}", "/root/mnt"),
        {
            "no Unix socket of the VM is visible",
            "/root is the session's own",
            "nothing outside the settings is mounted",
        },
    ),
    "secret": (
        add("--ro-bind", "{open}", "/etc/shadow"),
        {"the VM's secrets are unreadable", "nothing outside the settings is mounted"},
    ),
    "switch": (
        add("--bind", "{open}", "/proc/sys/vm/drop_caches"),
        {"the kernel's switches are out of reach", "nothing outside the settings is mounted"},
    ),
    "mount": (
        add("--ro-bind", "/srv", "/var/lib/dpkg/info"),
        {"nothing outside the settings is mounted"},
    ),
    "device mount": (
        swap(("--bind", "{home}", "{home}"), ("--dev-bind", "{home}", "{home}")),
        {"no mount lets set-user-ID programs or devices work"},
    ),
    "other's name": (add("--dir", "{other}"), {"only the session's own home is visible"}),
    "other's home": (
        add("--ro-bind", "{other}", "{other}"),
        {
            "only the session's own home is visible",
            "another session's files are out of reach",
            "nothing outside the settings is mounted",
            "no process or descriptor leads to another session",
        },
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_without_a_wall_its_checks_alone_are_red(vm: Vm, tmp_path: Path, name: str) -> None:
    change, wanted = OPTIONS[name]
    full = vm.top / "full"
    full.mkdir(exist_ok=True)
    full.chmod(0o777)
    (full / "of-the-vm").touch()
    opened = vm.top / "open"
    opened.write_text("")
    opened.chmod(0o666)
    folder = vm.top / "sockets"
    folder.mkdir(exist_ok=True)
    places = {
        "gate": vm.session.gate,
        "users": vm.session.state / "users",
        "hints": vm.session.state / "hints",
        "hosts": vm.session.state / "hosts",
        "home": vm.session.home,
        "other": vm.secret.parent,
        "full": full,
        "open": opened,
        "folder": folder,
    }
    marked = {str(path): f"{{{key}}}" for key, path in places.items()}
    marked |= {f"{vm.session.home}/{name}": f"{{home}}/{name}" for name in bwrap.PINNED}
    real = {mark: path for path, mark in marked.items()}

    def changed(given: Options) -> Options:
        return [real.get(each, each) for each in change([marked.get(each, each) for each in given])]

    with socket.socket(socket.AF_UNIX) as server:
        (folder / "service.sock").unlink(missing_ok=True)
        server.bind(str(folder / "service.sock"))
        found = with_options(vm, changed)
    assert set(found) == wanted, found


def test_in_the_vm_s_network_all_of_the_network_is_red(vm: Vm) -> None:
    found = set(with_options(vm, drop("--unshare-net")))
    must = {"a payload has its own net namespace", "the VM's own services are out of reach"}
    assert must | {"there is no interface but the loopback", "only the bridge listens"} <= found
    # What the build host's own network gives an answer to differs.
    network = {check.name for check in CHECKS if check.part == "network"}
    assert found <= network | {"a payload has its own net namespace"}


def test_users_of_others_are_seen(vm: Vm, room: Room) -> None:
    passwd = vm.session.state / "users/passwd"
    before = passwd.read_text()
    passwd.write_text(before + "other:x:1:1::/:/bin/sh\n")
    try:
        assert set(red(vm, room)) == {"the list of users has only the session's user"}
    finally:
        passwd.write_text(before)
