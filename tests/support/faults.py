"""For each check of verify-image, the ways in which an image breaks it.

Each way is a list of changes to a good image's evidence: a path, whose last part is a fact, and
what is found there instead.
"""

from __future__ import annotations

from serai.image.verify.checks import sessions_disk
from tests.support.evidence import (
    ESP_PARTITION,
    GIB,
    KEY,
    MIB,
    NOW,
    ROOT_PARTITION,
    a_sessions_mount,
)

FIRST, SHIPPED = "first.facts", "shipped"
DISK, MOUNT = "first.facts.disks.0", "first.facts.sessions.mount"
BREAKS: dict[str, list[list[tuple[str, object]]]] = {
    "it reaches multi-user, no unit failed": [
        [(f"{FIRST}.boot.failed", ["networking.service"]), (f"{FIRST}.boot.state", "degraded")],
        [(f"{FIRST}.boot.multi_user", "inactive")],
        [(f"{FIRST}.boot.state", "starting")],
        [(f"{FIRST}.boot.failed", [sessions_disk.UNIT])],
    ],
    "it reboots, no unit failed": [
        [("second.facts.boot.failed", ["ssh.service"])],
        [("second.facts.boot.multi_user", "failed")],
    ],
    "it boots without the sessions disk": [
        [("alone", "QEMU ended with 1")],
        [("alone.facts.boot.failed", ["sessions.mount"])],
        [("alone.facts.boot.multi_user", "inactive")],
        [("alone.facts.sessions.mount", a_sessions_mount("vda"))],
    ],
    "it boots from NVMe and from virtio-blk": [
        [("foreign.facts.root.device", "nvme0n1p1")],
        [("first.facts.root.device", "sda1")],
    ],
    "it is the distribution and architecture that its name says": [
        [(f"{FIRST}.system.distribution", "ubuntu")],
        [(f"{FIRST}.system.release", "11")],
        [(f"{FIRST}.system.machine", "aarch64")],
    ],
    "the root disk is GPT and as large as defined": [
        [(f"{DISK}.table", "dos")],
        [(f"{DISK}.partitions", [ROOT_PARTITION, ESP_PARTITION, {**ESP_PARTITION, "number": 2}])],
        [(f"{DISK}.bytes", 10 * GIB - MIB)],
    ],
    "root is ext4 on partition 1": [
        [(f"{FIRST}.root.fstype", "xfs")],
        [(f"{FIRST}.root.partition", 2)],
    ],
    "the ESP is vfat on partition 15, about 98 MiB": [
        [(f"{DISK}.partitions", [ROOT_PARTITION])],
        [(f"{DISK}.partitions", [ROOT_PARTITION, {**ESP_PARTITION, "fstype": ""}])],
        [(f"{DISK}.partitions", [ROOT_PARTITION, {**ESP_PARTITION, "type": "ebd0"}])],
        [(f"{DISK}.partitions", [ROOT_PARTITION, {**ESP_PARTITION, "bytes": 512 * MIB}])],
    ],
    "root has grown to the disk's end": [
        [(f"{DISK}.partitions", [{**ROOT_PARTITION, "bytes": 2 * GIB}, ESP_PARTITION])],
        [(f"{FIRST}.root.ext4.bytes", 2 * GIB)],
        [(f"{FIRST}.root.ext4", None)],
    ],
    "/sessions is ext4 'sessions' on the second disk": [
        [(f"{MOUNT}.fstype", "xfs")],
        [(f"{MOUNT}.ext4.label", "data")],
        [(f"{MOUNT}.disk", "nvme0n1")],
    ],
    "/sessions fills its disk": [[(f"{MOUNT}.ext4.bytes", 8 * GIB)]],
    "/sessions is mounted nosuid,nodev and writable": [
        [(f"{MOUNT}.options", [option for option in ("rw", "nosuid", "nodev") if option != gone])]
        for gone in ("rw", "nosuid", "nodev")
    ],
    "/sessions is root's": [[(f"{MOUNT}.mode", 0o1777)], [(f"{MOUNT}.owner", "1000:1000")]],
    "/sessions is formatted on the first boot": [[(f"{MOUNT}.ext4.made", int(NOW) - 3600)]],
    "/sessions keeps its files over a reboot": [
        [("second.facts.sessions.mark", "")],
        [("first.facts.sessions.mark", ""), ("second.facts.sessions.mark", "")],
        [("second.facts.sessions.mount.ext4.uuid", "22" * 16)],
        [("second.facts.sessions.mount", None)],
    ],
    "a second disk that holds something else is refused": [
        [("foreign.facts.sessions.mount", a_sessions_mount("vdb"))],
        [("foreign.facts.boot.failed", [sessions_disk.UNIT, "ssh.service"])],
        [("foreign.facts.boot.multi_user", "inactive")],
    ],
    "the journal says why that disk is refused": [
        [("foreign.facts.sessions.journal", [])],
        [("foreign.facts.sessions.journal", ["sessions.mount: refused", "/dev/vdb: exit code 1"])],
    ],
    "that disk is left untouched": [
        [("foreign_disk.after", "f" * 64)],
        [("foreign_disk", "mke2fs is not installed")],
    ],
    "every machine gets its own machine-id, and keeps it": [
        [("foreign.facts.identity.machine_id", "a" * 32)],
        [("second.facts.identity.machine_id", "d" * 32)],
        [("first.facts.identity.machine_id", ""), ("second.facts.identity.machine_id", "")],
    ],
    "every machine gets its own ssh host keys, and keeps them": [
        [("foreign.facts.identity.host_keys", {"ssh-rsa": "a" * 64})],
        [("second.facts.identity.host_keys", {"ssh-ed25519": "d" * 64})],
        [("first.facts.identity.host_keys", {}), ("second.facts.identity.host_keys", {})],
    ],
    "the host name is the image's and resolves": [
        [(f"{FIRST}.identity.hostname", "localhost")],
        [(f"{FIRST}.identity.hostname_file", "builder")],
        [(f"{FIRST}.identity.address", "")],
        # the image chose another one
        [(f"{FIRST}.identity.hostname", "other"), (f"{FIRST}.identity.hostname_file", "other")],
        [("image.variables", {"toolchain_profile": "standard", "identity_hostname": "acme"})],
    ],
    "it says which image it is": [
        [(f"{FIRST}.system.image", "")],
        [(f"{FIRST}.system.image", "debian-12-amd64")],
        [(f"{FIRST}.system.version", "")],
    ],
    "apt has the release, its updates and its security updates": [
        [(f"{FIRST}.apt.sources", ["http://mirror.example/debian bookworm main"])],
        [(f"{FIRST}.apt.sources", [])],
        [(f"{FIRST}.apt.sources", ["E: The list of sources could not be read."])],
        [(f"{FIRST}.apt.codename", "trixie")],
        [("image.base.mirror", "http://deb.example/debian")],
        [("image.base.security_mirror", "http://deb.example/debian-security/")],
        [("image.base.mirror", "deb http://deb.example/debian bookworm main")],
    ],
    "nothing can be reached from outside but ssh": [
        [(f"{FIRST}.listening", ["tcp 0.0.0.0:22", "udp 0.0.0.0:5355"])],
        [(f"{FIRST}.listening", ["tcp [::]:3128"])],
        [(f"{FIRST}.listening", ["by sshd-unix-local.socket", "tcp 0.0.0.0:22"])],
    ],
    "the clock is right and in the image's time zone": [
        [("first.clock", NOW - 3600)],
        [(f"{FIRST}.system.timezone", "Europe/Berlin")],
        [(f"{FIRST}.system.timezone", "")],
        [("image.variables", {"toolchain_profile": "standard", "identity_timezone": "CET"})],
    ],
    "a session has the tools of the image's profile, in the versions named": [
        [("exercise.versions.pandoc", "")],
        [("exercise.versions.java", "11.0.29")],
        [("exercise.versions.gcc", "12.20.1")],
        [("exercise.versions.node", "22.20.1")],
        [("exercise.versions.npm", "")],
        [("exercise.versions", {})],
    ],
    "Go, Rust and Docker are there only if asked for": [[("exercise.uninvited", ["go"])]],
    "in a session docx, pptx and xlsx are made, printed and read, and C compiled": [
        [("exercise.documents", ["a book", "a paper"])],
        [("exercise.documents", ["ImportError('pptx')"])],
        [("exercise.compiled", "")],
    ],
    "a login has the limits and the locale": [
        [(f"{FIRST}.login.limits.nofile", "1024")],
        [(f"{FIRST}.login.limits.nproc", "7000")],
        [(f"{FIRST}.login.limits.stack", "unlimited")],
        [(f"{FIRST}.login.limits.memlock", "64")],
        [(f"{FIRST}.login.limits", {})],
        [(f"{FIRST}.login.locale", "POSIX")],
    ],
    "swap is off": [[(f"{FIRST}.system.swaps", ["/swapfile"])]],
    "bwrap runs as an ordinary user": [
        [(f"{FIRST}.bwrap.status", 1)],
        [(f"{FIRST}.bwrap.output", "pid=2 uid=0")],
        [(f"{FIRST}.bwrap.output", "")],
    ],
    "bwrap has no rights of its own": [
        [(f"{FIRST}.bwrap.mode", 0o4755)],
        [(f"{FIRST}.bwrap.mode", 0o2755)],
        [(f"{FIRST}.bwrap.mode", 0)],
        [(f"{FIRST}.bwrap.capabilities", True)],
    ],
    "socat carries data": [
        [(f"{FIRST}.socat.status", 127)],
        [(f"{FIRST}.socat.output", "")],
    ],
    "nothing is left of the build's user": [
        [(f"{SHIPPED}.mentions", ["/etc/passwd-"])],
        [(f"{FIRST}.accounts.people", ["serai-build"])],
    ],
    "only the seeded key lets somebody in": [
        [
            (
                f"{FIRST}.accounts.authorized_keys",
                {"/root/.ssh/authorized_keys": [KEY, "ssh-rsa B x"]},
            )
        ]
    ],
    "no password opens an account": [[(f"{FIRST}.accounts.passwords", ["root"])]],
    "nobody from the build may become root": [
        [(f"{SHIPPED}.sudoers", ["/etc/sudoers.d/90-cloud-init-users"])]
    ],
    "no machine-id is shipped": [
        [(f"{SHIPPED}.machine_id", "a" * 32)],
        [(f"{SHIPPED}.dbus_machine_id", "a" * 32)],
    ],
    "no ssh host key is shipped": [
        [(f"{SHIPPED}.host_keys", ["/etc/ssh/ssh_host_ed25519_key"])],
    ],
    "no random seed is shipped": [
        [(f"{SHIPPED}.random_seeds", ["/var/lib/systemd/random-seed"])],
    ],
    "no state of cloud-init is shipped": [
        [(f"{SHIPPED}.cloud_init", ["/var/lib/cloud/instance"])],
    ],
    "no shell history, key or file of the build is in a home": [
        [(f"{SHIPPED}.homes", ["/root/.bash_history"])],
    ],
    "no apt lists or packages are shipped": [[(f"{SHIPPED}.apt", ["/var/lib/apt/lists/x"])]],
    "no logs are shipped": [[(f"{SHIPPED}.logs", ["/var/log/dpkg.log"])]],
    "the journal knows of this boot only": [
        [(f"{FIRST}.journal_boots", 2)],
        [(f"{FIRST}.journal_boots", 0)],
    ],
    "no temporary files are shipped": [[(f"{SHIPPED}.temporary", ["/tmp/packer-shell"])]],
    "a full session gets EDQUOT, and another one still writes": [
        [("exercise.quota", 0)],
        [("exercise.full", "it fits")],
        [("exercise.while_full", "")],
    ],
    "a folder of the VM's disk is the session's inside, its owner's outside": [
        [("exercise.mount", "bindfs")],
        [("exercise.inside_owners", ["nobody", "rogue"])],
        [("exercise.inside_owners", [])],
        [("exercise.outside_owner", 2000)],
    ],
    "the session switched away from is frozen and uses no CPU": [
        [("exercise.frozen", "ready")],
        [("exercise.frozen_usec", 500_000)],
        [("exercise.busy_usec", 0)],
    ],
    "where sessions compete, a light one gets less CPU, and all answer": [
        [("exercise.light_usec", 4_900_000), ("exercise.heavy_usec", 4_900_000)],
        [("exercise.light_usec", 3_000_000)],
        [("exercise.light_usec", 0)],
        [("exercise.light_usec", 10), ("exercise.heavy_usec", 90)],
        [("exercise.busy_answer", "")],
        [("exercise.busy_sessions", ["witness"])],
    ],
    "a memory hog ends alone, and says why": [
        [("exercise.hog", 0)],
        [("exercise.hog", -1)],
        [("exercise.hog_told", False)],
        [("exercise.hog_spared", False)],
        [("exercise.after_hog", "")],
    ],
    "a fork bomb ends in its own session alone": [
        [("exercise.bomb_refused", 0)],
        [("exercise.after_bomb", "")],
        [("exercise.processes_left", 3)],
    ],
    "serai doctor finds nothing wrong": [
        [("exercise.doctor_failed", ["swap is off: /dev/vda2"])],
        [("exercise.doctor_passed", 179)],
    ],
    "what misbehaved can be removed, and sessiond went through all of it": [
        [("exercise.sessions_left", ["rogue"])],
        [("exercise.same_daemon", False)],
    ],
    "the shipped file is what SHA256SUMS says": [[("digests.promised", "0" * 64)]],
    "booting it has not changed the shipped file": [[("digests.after", "0" * 64)]],
}
