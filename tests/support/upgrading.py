"""A machine on the disk of sessions of an older one, from an image in which things are wrong.

One boot shows three things: that an upgrade finds all sessions, though a unit of the new image
fails, what `invoke boot` does with a command and files, and which checks real faults turn red.
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serai.image import offline
from serai.image.definition.definition import Image
from serai.image.guest import probe
from serai.image.run import run
from serai.image.verify.facts import ProbeFacts
from serai.image.vm.vm import VM

TOLD = Path(__file__).with_name("kept_sessions.py")
BEFORE = """
set -e
serai create kept --label task=42 && serai create stored
echo precious | serai exec kept -- sh -c 'umask 027; cat >file'
echo archived | serai exec stored -- sh -c 'cat >file'
serai policy allow kept example.org:443
serai exec kept -- curl --silent --output /dev/null http://denied.example/ || true
serai archive stored
sync
"""
AFTER = """
exec 3>&1 >&2
serai audit --verify && serai switch kept && serai reopen stored && serai create newcomer
exec >&3
for name in kept stored; do serai exec $name -- cat file; done
id -u stored; id -u newcomer
"""
BROKEN_UNIT = """[Unit]
Description=A service that fails
[Service]
Type=oneshot
ExecStart=/bin/false
"""
STRANGER = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQ stranger\n"
STATUS = 7
# `invoke boot --sessions DISK --copy PATH --run COMMAND --disk virtio`, but of any image's disk.
BOOT = """
import sys
from pathlib import Path
from serai.image.definition import definition
from serai.image.vm.boot import boot
from serai.image.settings import Settings
settings = Settings.of()
name, disk, sessions, path, command = sys.argv[1:]
image = definition.load(settings, name)
more = {"sessions": Path(sessions), "copy": [Path(path)], "bus": "virtio"}
sys.exit(boot(settings, image, Path(disk), run=command, **more))
"""


@dataclass(frozen=True)
class Upgraded:
    """What the older machine told, and how the boot of the newer one went.

    ``faulty`` is the newer one's disk, ``wrote`` whether it was written to. What the newer one
    printed: ``said``, of the boot; what is told of sessions; ``used``, of using them; the facts.
    """

    before: dict[str, Any]
    faulty: Path
    wrote: bool
    status: int
    stderr: str
    said: list[str]
    after: dict[str, Any]
    used: list[str]
    facts: ProbeFacts


def upgraded(image: Image, disk: Path, older: VM, sessions: Path, work: Path) -> Upgraded:
    """Live two sessions in ``older``, switch it off, and boot ``disk`` with faults in its place."""
    older.ssh.run(BEFORE, timeout=600)
    before = json.loads(older.ssh.run("python3 -", stdin=TOLD.read_text(), timeout=600).stdout)
    assert older.shutdown()

    faulty = with_faults(image, disk, work)
    folder = work / "a folder"
    folder.mkdir()
    (folder / "file").write_text("carried\n")
    (folder / "used.sh").write_text(AFTER)
    for program in (Path(str(probe.__file__)), TOLD):
        (folder / program.name).write_text(program.read_text())
    key = "grep -o 'ssh-ed25519.*' /var/lib/cloud/instance/user-data.txt"
    command = f"cd {shlex.quote(folder.name)}; cat file; id -un; systemctl is-system-running; {key}"
    command += f"; python3 {TOLD.name}; sh used.sh; python3 probe.py; echo aside >&2"
    command += f"; exit {STATUS}"
    untouched = faulty.stat().st_mtime_ns
    words: list[str | Path] = [image.name, faulty, sessions, folder, command]
    done = run([sys.executable, "-c", BOOT, *words], check=False)
    lines = done.stdout.splitlines()
    assert len(lines) >= 10, done.stdout + done.stderr
    lines = lines[-10:]
    return Upgraded(
        before=before,
        faulty=faulty,
        wrote=faulty.stat().st_mtime_ns != untouched,
        status=done.returncode,
        stderr=done.stderr,
        said=lines[:4],
        after=json.loads(lines[4]),
        used=lines[5:9],
        facts=ProbeFacts.model_validate_json(lines[9]),
    )


def with_faults(image: Image, built: Path, work: Path) -> Path:
    """A copy of the image's disk with faults written into its root file system; debugfs(8)."""
    raw, disk = work / "disk.raw", work / "disk.qcow2"
    run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", built, raw])
    with offline.opened(built, work) as root:
        passwd = root.read("/etc/passwd")
        offset = root.offset
    commands = [
        _put(work, "/etc/systemd/system/broken.service", BROKEN_UNIT),
        "symlink /etc/systemd/system/multi-user.target.wants/broken.service ../broken.service",
        "rm /etc/passwd",
        _put(work, "/etc/passwd", passwd + "serai-build:x:1234:100::/nonexistent:/bin/sh\n"),
        # A newer bwrap does not run so, and then no session does.
        *(["set_inode_field /usr/bin/bwrap mode 0104755"] if image.release == "12" else []),
        _put(work, "/var/log/build.log", "built by somebody\n"),
        "mkdir /root/.ssh",
        _put(work, "/root/.ssh/authorized_keys", STRANGER),
    ]
    run(["debugfs", "-w", "-f", "-", f"{raw}?offset={offset}"], stdin="\n".join(commands) + "\n")
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk])
    raw.unlink()
    return disk


def _put(folder: Path, path: str, content: str) -> str:
    """The debugfs command that makes a file with this content."""
    source = folder / path.replace("/", "_")
    source.write_text(content)
    source.chmod(0o644)
    return f"write {source} {path}"
