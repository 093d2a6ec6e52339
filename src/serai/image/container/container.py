"""A machine at native speed: Debian with systemd in a container, provisioned by the image's roles.

What an image is can be tried here in seconds, but for its kernel, its disks and its boot loader.
The container's systemd runs on a cgroup v2 hierarchy of its own, without controllers where the
build host's are bound to v1: processes are found, frozen and killed as in an image, but limits
(memory, tasks, CPU) do not hold. Needs root. systemd-nspawn(1), systemd's docs/CONTAINER_INTERFACE.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from serai.common import proc
from serai.image import ansible, cache, console, digest
from serai.image.build import layers
from serai.image.errors import BuildError
from serai.image.run import (
    Argument,
    last_lines,
    run,
    run_visibly,
    search_path,
    started,
    with_pdeathsig,
)
from serai.image.settings import Settings
from serai.image.vm import seed

USER = "serai-build"
SUITE = "bookworm"
PACKAGES = (
    *("dbus", "kmod", "libpam-systemd", "openssh-server", "procps", "python3-apt", "sudo"),
    *("systemd-sysv", "udev"),
)
PLAYBOOK = Path("playbooks/image.yml")
# What a machine chooses: where there is no build user nothing is sealed, and the smallest profile
# that installs something, as the standard one takes 1.3 GB.
VARIABLES = ("seal_build_user=nobody-builds-here", "toolchain_profile=minimal")
DEADLINE = 180.0  # seconds for a boot or a shutdown, which take seconds on an idle host

_CGROUPS = Path("/sys/fs/cgroup")
_POWER_OFF = 60.0  # seconds
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# In a mount namespace of its own: the build host's mounts are not touched, and go with the machine.
# The cgroup is the root of what the machine sees: its systemd manages nothing of the host's.
_START = """
set -eu
cgroup=$1 root=$2 writable=$3 sessions=$4
shift 4
mkdir "$cgroup"
echo $$ >"$cgroup/cgroup.procs"
if [ -n "$writable" ]; then
    mount -t overlay -o "lowerdir=$root,upperdir=$writable/upper,workdir=$writable/work" \
        overlay "$writable/root"
    root=$writable/root
fi
if [ -n "$sessions" ]; then
    mkdir -p "$root/sessions"
    mount --bind "$sessions" "$sessions"
    mount -o remount,bind,nosuid,nodev "$sessions"
    set -- "$@" "--bind=$sessions:/sessions"
fi
exec systemd-nspawn "--directory=$root" "$@"
"""

# The kernel is the build host's, and so are its settings. Not masked: who applies his own is to
# succeed, as in any container where this unit is left out.
_SETTINGS = "/run/systemd/system/systemd-sysctl.service.d/host.conf"


@dataclass(frozen=True)
class Machine:
    """A booted machine; ``pid`` is its PID 1 as the host knows it, ``process`` systemd-nspawn."""

    pid: int
    console: Path
    process: subprocess.Popen[bytes]

    def argv(self, command: Sequence[Argument]) -> list[Argument]:
        """The command line that runs ``command`` inside as root, with this process's descriptors.

        Straight into the namespaces (nsenter(1)), so that no network and no daemon is needed.
        """
        enter = ["nsenter", f"--target={self.pid}", "--root", "--wd"]
        enter += ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
        clean = ["env", "-i", f"PATH={_PATH}", "HOME=/root", "LANG=C.UTF-8", "USER=root"]
        return [*enter, "--", *clean, *command]

    def run(
        self,
        *command: Argument,
        check: bool = True,
        stdin: str | None = None,
        timeout: float = DEADLINE,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. Raises BuildError if it fails, with what it said."""
        done = run(self.argv(command), check=False, stdin=stdin, timeout=timeout)
        if check and done.returncode != 0:
            said = last_lines(done.stderr or done.stdout, 20)
            raise BuildError(f"{' '.join(map(str, command))}: status {done.returncode}: {said}")
        return done

    def shell(self, script: str, *, check: bool = True, timeout: float = DEADLINE) -> str:
        """What a shell script writes to stdout, without the white space around it."""
        return self.run("bash", "-c", script, check=check, timeout=timeout).stdout.strip()

    def stream(self, command: str) -> int:
        """Run a shell command on our own terminal; its exit status."""
        return run_visibly(self.argv(["bash", "-c", f"cd /root && {command}"]))

    def copy(self, paths: Sequence[Path]) -> None:
        """Copy files and folders to /root."""
        for path in paths:
            whole = path.resolve()
            pack = subprocess.Popen(
                with_pdeathsig(["tar", "-C", whole.parent, "-cf", "-", whole.name]),
                stdout=subprocess.PIPE,
            )
            unpack = with_pdeathsig(
                self.argv(["tar", "-C", "/root", "--no-same-owner", "-xf", "-"])
            )
            with pack:
                done = subprocess.run(unpack, stdin=pack.stdout, check=False)
            if pack.returncode or done.returncode:
                raise BuildError(f"{path} cannot be copied into the machine")

    def log(self) -> str:
        """What the machine said on its console."""
        return self.console.read_text(errors="replace")


@contextmanager
def booted(
    root: Path, work: Path, *, keep_changes: bool = False, sessions: bool = True
) -> Iterator[Machine]:
    """Boot the root folder ``root`` until its systemd has started everything; see ``provisioned``.

    Its changes go to a folder in ``work`` that is removed afterwards, or with ``keep_changes`` into
    ``root`` itself, where the machine then is on the host's network and can be logged in to. With
    ``sessions`` a folder of ``work`` is mounted at /sessions, as a sessions disk is.

    Raises BuildError if it does not come up.
    """
    writable, disk = work / "writable", work / "sessions"
    for folder in [*(writable / part for part in ("upper", "work", "root")), disk]:
        folder.mkdir(parents=True, exist_ok=True)
    disk.chmod(0o711)
    log = work / "console.log"
    hierarchy = _CGROUPS if (_CGROUPS / "cgroup.procs").exists() else _CGROUPS / "unified"
    cgroup = hierarchy / f"serai-machine-{os.getpid()}-{time.monotonic_ns()}"
    for left in hierarchy.glob("serai-machine-*"):
        if "populated 0" in (left / "cgroup.events").read_text():
            _remove_cgroup(left)  # of a machine that was killed with its owner
    options = ["--quiet", "--boot", "--register=no", "--keep-unit", "--private-users=no"]
    options += ["--link-journal=no", "--capability=all"]
    # Newer than the container's list: without it quotas are forbidden where they are only missing.
    options += ["--system-call-filter=quotactl_fd"]
    settings = work / "sysctl.conf"
    settings.write_text("[Unit]\nConditionVirtualization=!container\n")
    options += [f"--bind-ro={settings.absolute()}:{_SETTINGS}"]
    options += ["--drop-capability=CAP_NET_ADMIN"] if keep_changes else ["--private-network"]
    places = [cgroup, root, "" if keep_changes else writable, disk if sessions else ""]
    start = ["sh", "-c", _START, "sh", *places, *options]
    # A PID namespace ends with its first process: killed at once or not, we leave nothing running.
    alone = ["--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc"]
    argv = ["unshare", *alone, "--", *start]
    environment = {
        # Without it a sandbox inside cannot mount its own /proc.
        "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "yes",
        "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
    }
    try:
        with started(argv, log=log, env=environment) as process:
            try:
                machine = Machine(_first_process(process, log), log, process)
                # In a VM it is there as soon as somebody opens it; systemd-tmpfiles-setup-dev(8).
                machine.shell("[ -e /dev/fuse ] || mknod --mode=666 /dev/fuse c 10 229")
                yield machine
            finally:
                # unshare(1) passes no signal on, and systemd-nspawn(1) powers off at SIGTERM.
                for nspawn in proc.children(process.pid):
                    with suppress(ProcessLookupError):
                        os.kill(nspawn, signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_POWER_OFF)
    finally:
        _remove_cgroup(cgroup)
        shutil.rmtree(writable, ignore_errors=True)
        shutil.rmtree(disk, ignore_errors=True)


def _first_process(process: subprocess.Popen[bytes], log: Path) -> int:
    """PID 1 of the machine, once it has started everything; raises BuildError if it does not."""
    deadline = time.monotonic() + DEADLINE
    while process.poll() is None and time.monotonic() < deadline:
        for pid in [
            first for nspawn in proc.children(process.pid) for first in proc.children(nspawn)
        ]:
            machine = Machine(pid, log, process)
            # The first process is ours until it executes systemd: then it must not be entered.
            if _executes(pid) != "systemd":
                continue
            state = machine.run("systemctl", "is-system-running", "--wait", check=False).stdout
            if state.strip() in ("running", "degraded"):
                return pid
        time.sleep(0.1)
    said = last_lines(log.read_text(errors="replace"))
    raise BuildError(f"the machine does not come up: {said}", log=log)


def _executes(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/exe").readlink().name
    return ""


def _remove_cgroup(cgroup: Path) -> None:
    """Remove the machine's cgroups, which are empty as soon as its last process is gone."""
    deadline = time.monotonic() + 10
    while cgroup.exists() and time.monotonic() < deadline:
        for folder, _, _ in os.walk(cgroup, topdown=False):
            with suppress(OSError):
                Path(folder).rmdir()
        time.sleep(0.01)


# --- roots


def base(settings: Settings) -> Path:
    """A Debian with systemd and the build user, as the base of an image has it; from the cache."""
    recipe = {"suite": SUITE, "packages": PACKAGES, "mirror": settings.mirror, "hook": _hook()}
    folder = settings.cache / "machines" / "base" / digest.of_value(recipe)[:16]
    if not folder.exists():
        with making(settings, folder), cache.whole(folder) as made:
            argv = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase"]
            argv += [f"--include={','.join(PACKAGES)}", f"--customize-hook={_hook()}"]
            source = [settings.mirror] if settings.mirror else []
            run([*argv, SUITE, made / "root", *source])
        cache.prune(folder.parent, keep=1)
    return folder / "root"


def provisioned(settings: Settings, archive: str = "") -> Path:
    """The same after the image's playbook, but not sealed; from the cache, layer by layer.

    Its packages are of the day when it was made. ``archive``, any text, is for who needs another
    one that is made now.
    """
    root = base(settings)
    for layer in layers.read(settings):
        recipe = {"below": root.parent.name, "layer": layer.digests, "variables": VARIABLES}
        recipe |= {"archive": archive} if archive else {}
        home = settings.cache / "machines" / layer.name
        folder = home / digest.of_value(recipe)[:16]
        if not folder.exists():
            with making(settings, folder):
                _apply(settings, layer.name, root, folder)
            cache.prune(home, keep=2)
        root = folder / "root"
    return root


def _apply(settings: Settings, layer: str, below: Path, target: Path) -> None:
    with cache.whole(target) as made, tempfile.TemporaryDirectory(prefix="serai-") as work:
        run(["cp", "--archive", "--reflink=auto", below, made / "root"])
        guest = Guest(made / "root", Path(work), settings.root)
        guest.prepare()
        with guest.booted():
            guest.play("--tags", layer, "--extra-vars", " ".join(VARIABLES))
        guest.forget()


@contextmanager
def making(settings: Settings, folder: Path) -> Iterator[None]:
    """Nobody else makes a root meanwhile; what a killed process left half-made is gone."""
    with cache.locked(settings.cache / "machines" / ".lock"):
        cache.sweep(folder.parent)
        with console.step(f"machine: {folder.parent.name}"):
            yield


def _hook() -> str:
    return f"""set -e; cd "$1"
        chroot . useradd --create-home --shell /bin/bash {USER}
        echo '{USER} ALL=(ALL) NOPASSWD:ALL' >etc/sudoers.d/90-cloud-init-users
        echo machine >etc/hostname; echo 127.0.1.1 machine >>etc/hosts"""


class Guest:
    """A root folder that is changed by booting it: ssh on a port of 127.0.0.1, and Ansible."""

    def __init__(self, root: Path, work: Path, checkout: Path) -> None:
        self.root, self.work, self.checkout = root, work, checkout
        self.port = _free_port()
        self.key = seed.new_key(work)
        self.console = work / "console.log"

    @property
    def _sshd(self) -> Path:
        return self.root / "etc/ssh/sshd_config.d/machine.conf"

    def prepare(self) -> None:
        """Let the build user in."""
        self._sshd.write_text(f"Port {self.port}\nListenAddress 127.0.0.1\n")
        self.allow(USER, self.root / "home" / USER)

    def allow(self, user: str, home: Path) -> None:
        """Let ``user`` in, whose home is ``home``."""
        login = home / ".ssh"
        login.mkdir(mode=0o700, exist_ok=True)
        (login / "authorized_keys").write_text(self.key.public + "\n")
        run(["chroot", self.root, "chown", "-R", f"{user}:", f"/{login.relative_to(self.root)}"])

    def forget(self) -> None:
        """Take away what ``prepare`` put there."""
        self._sshd.unlink()
        shutil.rmtree(self.root / "home" / USER / ".ssh")

    @contextmanager
    def booted(self, user: str = USER) -> Iterator[Machine]:
        """The machine runs, and ``user`` can log in."""
        with booted(self.root, self.work, keep_changes=True, sessions=False) as machine:
            deadline = time.monotonic() + DEADLINE
            while (said := self.ssh(user, "true", check=False)).returncode != 0:
                if machine.process.poll() is not None or time.monotonic() > deadline:
                    raise BuildError(f"nobody can log in: {said.stderr}", log=self.console)
                time.sleep(0.2)
            yield machine

    def ssh(
        self, user: str, command: str, *, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command over ssh."""
        argv = ["ssh", *self._options(), "-p", str(self.port), f"{user}@127.0.0.1", command]
        return run(argv, check=check, timeout=DEADLINE)

    def play(self, *arguments: str) -> dict[str, int]:
        """Run the playbook; the sums of its recap. Raises BuildError if a task fails."""
        inventory = self.work / "inventory"
        inventory.write_text(
            f"guest ansible_host=127.0.0.1 ansible_port={self.port} ansible_user={USER} "
            f"ansible_ssh_common_args='{' '.join(self._options())}'\n"
        )
        argv: list[Argument] = [
            "ansible-playbook",
            "--inventory",
            inventory,
            self.checkout / PLAYBOOK,
            *arguments,
        ]
        environment = {**ansible.build_environment(self.checkout), "PATH": search_path()}
        done = run(argv, env=environment, check=False)
        recap = re.search(r"^guest +: (.*)$", done.stdout, re.MULTILINE)
        if done.returncode != 0 or not recap:
            raise BuildError(f"the playbook failed: {last_lines(done.stdout + done.stderr, 12)}")
        return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", recap[1])}

    def _options(self) -> list[str]:
        settings = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null"]
        settings += ["IdentitiesOnly=yes", "ConnectTimeout=5", "LogLevel=ERROR", "BatchMode=yes"]
        words = (word for setting in settings for word in ("-o", setting))
        return ["-i", str(self.key.private), *words]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


# --- what `invoke machine` does


def machine(settings: Settings, *, command: str | None, copy: Sequence[Path], keep: bool) -> int:
    """Boot a throwaway machine, copy ``copy`` to /root, run ``command``; returns its exit status.

    Without ``command``, or with ``keep``, a shell follows on our terminal. Raises BuildError.
    """
    for path in copy:
        if not path.exists():
            raise BuildError(f"there is no {path} to copy into the machine")
    if os.geteuid() != 0:
        raise BuildError("a machine needs root", hint="run it with sudo")
    root = provisioned(settings)
    status = 0
    with (
        tempfile.TemporaryDirectory(prefix="serai-machine-") as work,
        booted(root, Path(work)) as made,
    ):
        made.copy(copy)
        if command is not None:
            status = made.stream(command)
        if keep or command is None:
            console.say("a shell in the machine; it is thrown away when the shell ends")
            made.stream("exec bash -l")
    return status
