"""A booted container: systemd in it as in a VM, at native speed, under systemd-nspawn(1).

The container's systemd runs on a cgroup v2 hierarchy of its own, without controllers where the
build host's are bound to v1: processes are found, frozen and killed as in an image, but limits
(memory, tasks, CPU) do not hold. Needs root. See systemd's docs/CONTAINER_INTERFACE.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from serai.common import proc
from serai.image.errors import BuildError
from serai.image.run import Argument, last_lines, run, run_visibly, started, with_pdeathsig

DEADLINE = 180.0  # seconds for a boot or a shutdown, which take seconds on an idle host

_CGROUPS = Path("/sys/fs/cgroup")
_PREFIX = "serai-container-"
_POWER_OFF = 60.0  # seconds
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# In a mount namespace of its own: the build host's mounts are not touched, and go with it.
# The cgroup is the root of what the container sees: its systemd manages nothing of the host's.
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
class Container:
    """A booted container; ``pid`` is its PID 1 as the host knows it, ``process`` systemd-nspawn."""

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
                raise BuildError(f"{path} cannot be copied into the container")

    def log(self) -> str:
        """What the container said on its console."""
        return self.console.read_text(errors="replace")


@contextmanager
def booted(
    root: Path,
    work: Path,
    *,
    keep_changes: bool = False,
    sessions: bool = True,
    settled: bool = True,
    again: bool = False,
) -> Iterator[Container]:
    """Boot the root folder ``root`` until its systemd has started everything; see ``provisioned``.

    Its changes go to a folder in ``work`` that is removed afterwards, or with ``keep_changes`` into
    ``root`` itself, where the container then is on the host's network and can be logged in to. To
    be booted ``again`` they stay in ``work``, and it is on the host's network too. With
    ``sessions`` a folder of ``work`` is mounted at /sessions, as a sessions disk is. Unless it has
    to be ``settled``, it is there as soon as its systemd begins.

    Raises BuildError if it does not come up.
    """
    writable, disk = work / "writable", work / "sessions"
    for folder in [*(writable / part for part in ("upper", "work", "root")), disk]:
        folder.mkdir(parents=True, exist_ok=True)
    disk.chmod(0o711)
    log = work / "console.log"
    hierarchy = _CGROUPS if (_CGROUPS / "cgroup.procs").exists() else _CGROUPS / "unified"
    cgroup = hierarchy / f"{_PREFIX}{os.getpid()}-{time.monotonic_ns()}"
    _remove_left(hierarchy)
    options = ["--quiet", "--boot", "--register=no", "--keep-unit", "--private-users=no"]
    options += ["--link-journal=no", "--capability=all"]
    # Newer than the container's list: without it quotas are forbidden where they are only missing.
    options += ["--system-call-filter=quotactl_fd"]
    settings = work / "sysctl.conf"
    settings.write_text("[Unit]\nConditionVirtualization=!container\n")
    options += [f"--bind-ro={settings.absolute()}:{_SETTINGS}"]
    on_host = ["--drop-capability=CAP_NET_ADMIN"]
    options += on_host if keep_changes or again else ["--private-network"]
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
                container = Container(_first_process(process, log, settled=settled), log, process)
                # In a VM it is there as soon as somebody opens it; systemd-tmpfiles-setup-dev(8).
                container.shell("[ -e /dev/fuse ] || mknod --mode=666 /dev/fuse c 10 229")
                yield container
            finally:
                # unshare(1) passes no signal on, and systemd-nspawn(1) powers off at SIGTERM.
                for nspawn in proc.children(process.pid):
                    with suppress(ProcessLookupError):
                        os.kill(nspawn, signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_POWER_OFF)
    finally:
        _remove_cgroup(cgroup)
        for folder in () if again else (writable, disk):
            shutil.rmtree(folder, ignore_errors=True)


def _first_process(process: subprocess.Popen[bytes], log: Path, *, settled: bool) -> int:
    """PID 1 of the container, once it has started everything; raises BuildError if it does not.

    Unless it has to be ``settled``, as soon as it is systemd.
    """
    deadline = time.monotonic() + DEADLINE
    while process.poll() is None and time.monotonic() < deadline:
        for pid in [
            first for nspawn in proc.children(process.pid) for first in proc.children(nspawn)
        ]:
            container = Container(pid, log, process)
            # The first process is ours until it executes systemd: then it must not be entered.
            if _executes(pid) != "systemd":
                continue
            if not settled:
                return pid
            state = container.run("systemctl", "is-system-running", "--wait", check=False).stdout
            if state.strip() in ("running", "degraded"):
                return pid
        time.sleep(0.1)
    said = last_lines(log.read_text(errors="replace"))
    raise BuildError(f"the container does not come up: {said}", log=log)


def _executes(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/exe").readlink().name
    return ""


def _remove_left(hierarchy: Path) -> None:
    """Remove the cgroups of containers that were killed with their owners.

    One that is empty and has an owner may be a container's that is just being started.
    """
    for left in hierarchy.glob(f"{_PREFIX}*"):
        owner = left.name.removeprefix(_PREFIX).partition("-")[0]
        with suppress(FileNotFoundError):  # somebody else removed it
            empty = "populated 0" in (left / "cgroup.events").read_text()
            if empty and not Path("/proc", owner).exists():
                _remove_cgroup(left)


def _remove_cgroup(cgroup: Path) -> None:
    """Remove the container's cgroups, which are empty as soon as its last process is gone."""
    deadline = time.monotonic() + 10
    while cgroup.exists() and time.monotonic() < deadline:
        for folder, _, _ in os.walk(cgroup, topdown=False):
            with suppress(OSError):
                Path(folder).rmdir()
        time.sleep(0.01)
