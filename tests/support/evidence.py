"""What verify-image finds out of a good image, and the same with other facts in it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from serai.image.definition import definition
from serai.image.definition.tools import promised
from serai.image.settings import Settings
from serai.image.verify.checks import disks, sessions_disk, tools
from serai.image.verify.facts import BootFacts, Evidence

GIB = 1 << 30
MIB = 1 << 20
HERE = Settings.of({}, root=Path(__file__).parents[2])
IMAGE = definition.load(HERE, "debian-12-amd64-standard")
PROMISED = promised(HERE, IMAGE)
KEY = "ssh-ed25519 AAAASEEDED serai"
NOW = 1_800_000_000.0
ROOT_PARTITION = {
    "number": 1,
    "start": 100 * MIB,
    "bytes": 10 * GIB - 101 * MIB,
    "fstype": "ext4",
    "type": "0fc63daf-8483-4772-8e79-3d69d8477de4",
}
ESP_PARTITION = {
    "number": 15,
    "start": MIB,
    "bytes": 99 * MIB,
    "fstype": "vfat",
    "type": disks.ESP,
}


def a_machine(
    letter: str, root: str = "nvme0n1", sessions: str | None = "nvme1n1"
) -> dict[str, Any]:
    """A well machine; ``letter`` makes its identity."""
    partition = f"{root}p1" if root.startswith("nvme") else f"{root}1"
    root_disks = [
        {
            "name": root,
            "bytes": 10 * GIB,
            "table": "gpt",
            "fstype": "",
            "partitions": [ROOT_PARTITION, ESP_PARTITION],
        }
    ]
    facts = {
        "boot": {"state": "running", "multi_user": "active", "failed": []},
        "system": {
            "distribution": "debian",
            "release": "12",
            "image": "debian-12-amd64-standard",
            "version": "0.1.0-00000000",
            "machine": "x86_64",
            "kernel": "6.1.0-40-amd64",
            "now": NOW,
            "timezone": "Etc/UTC",
            "swaps": [],
            "packages": 300,
            "root_bytes": 10 * GIB,
            "root_used": GIB,
        },
        "identity": {
            "machine_id": letter * 32,
            "host_keys": {"ssh-ed25519": letter * 64, "ssh-rsa": letter * 64},
            "hostname": "serai",
            "hostname_file": "serai",
            "address": "127.0.1.1",
        },
        "apt": {
            "codename": "bookworm",
            "usual": ["packages.example"],
            "sources": [
                "http://deb.example/debian bookworm main",
                "http://deb.example/debian bookworm-updates main",
                "http://deb.example/debian-security bookworm-security main",
            ],
        },
        "listening": ["tcp 0.0.0.0:22", "tcp [::]:22", "udp 10.0.2.15%enp0s2:68"],
        "disks": root_disks,
        "root": {
            "device": partition,
            "disk": root,
            "partition": 1,
            "device_bytes": ROOT_PARTITION["bytes"],
            "fstype": "ext4",
            "source": f"/dev/{partition}",
            "options": ["rw", "relatime"],
            "mode": 0o755,
            "owner": "0:0",
            "ext4": {
                "bytes": ROOT_PARTITION["bytes"],
                "made": 1_700_000_000,
                "uuid": "00" * 16,
                "label": "root",
            },
        },
        "sessions": {"mount": None, "mark": "", "journal": []},
        "accounts": {
            "people": [],
            "authorized_keys": {"/root/.ssh/authorized_keys": [KEY]},
            "passwords": [],
        },
        "journal_boots": 1,
        "login": {
            "limits": {"nofile": "524288", "nproc": "14813", "stack": "8192", "memlock": "8192"},
            "locale": "C.UTF-8",
        },
        "bwrap": {
            "status": 0,
            "output": "pid=2 uid=1000",
            "uid": 1000,
            "version": "bubblewrap 0.8.0",
            "mode": 0o755,
            "capabilities": False,
        },
        "socat": {"status": 0, "output": "through", "version": "socat version 1.7.4.4"},
        "took": {"boot": 5.0},
    }
    if sessions:
        facts["sessions"] = {"mount": a_sessions_mount(sessions), "mark": "token", "journal": []}
    return {"facts": facts, "seconds": 60.0, "clock": NOW + 1, "key": KEY}


def another_boot(
    letter: str, root: str = "nvme0n1", sessions: str | None = "nvme1n1"
) -> dict[str, Any]:
    """What is asked of a well machine in each boot but the first."""
    facts = a_machine(letter, root, sessions)["facts"]
    return {"facts": {part: facts[part] for part in BootFacts.model_fields}, "seconds": 60.0}


def a_sessions_mount(device: str) -> dict[str, Any]:
    """The sessions disk as it must be mounted."""
    return {
        "device": device,
        "disk": device,
        "partition": 0,
        "device_bytes": 10 * GIB,
        "fstype": "ext4",
        "source": f"/dev/{device}",
        "options": ["rw", "nosuid", "nodev", "relatime"],
        "mode": sessions_disk.MODE,
        "owner": sessions_disk.OWNER,
        "ext4": {"bytes": 10 * GIB, "made": int(NOW) - 20, "uuid": "11" * 16, "label": "sessions"},
    }


def good() -> dict[str, Any]:
    """Evidence of a good image."""
    foreign = another_boot("b", root="vda", sessions=None)
    foreign["facts"]["boot"] = {
        "state": "degraded",
        "multi_user": "active",
        "failed": [sessions_disk.UNIT],
    }
    foreign["facts"]["sessions"]["journal"] = ["/dev/vdb holds ext4 'other': refused"]
    return {
        "image": IMAGE.model_dump(),
        "promised": PROMISED,
        "first": a_machine("a"),
        "second": another_boot("a"),
        "foreign": foreign,
        "alone": another_boot("c", sessions=None),
        "exercise": {
            "versions": {name: version or "1.0" for name, version in PROMISED.items()},
            "uninvited": [],
            "documents": list(tools.DOCUMENTS),
            "compiled": "compiled",
            "quota": 8 * MIB,
            "full": "EDQUOT",
            "while_full": "well",
            "attached": 0.01,
            "mount": "idmap",
            "inside_owners": ["rogue", "rogue"],
            "outside_owner": 4242,
            "busy_usec": 900_000,
            "frozen": "frozen",
            "frozen_usec": 0,
            "thawed": 0.01,
            "light_usec": 900_000,
            "heavy_usec": 8_800_000,
            "busy_answer": "well",
            "busy_sessions": ["rogue", "witness"],
            "busy_seconds": 1.5,
            "hog": 137,
            "hog_told": True,
            "hog_spared": True,
            "after_hog": "well",
            "bomb_refused": 40,
            "after_bomb": "well",
            "processes_left": 0,
            "sessions_left": [],
            "doctor_passed": 190,
            "doctor_failed": [],
            "same_daemon": True,
        },
        "own": [],
        "shipped": {
            "machine_id": "uninitialized",
            "dbus_machine_id": "",
            "host_keys": [],
            "logs": [],
            "homes": [],
            "apt": [],
            "cloud_init": [],
            "temporary": [],
            "random_seeds": [],
            "mentions": [],
            "sudoers": [],
        },
        "digests": {"promised": "d" * 64, "before": "d" * 64, "after": "d" * 64},
        "foreign_disk": {"before": "e" * 64, "after": "e" * 64},
    }


def broken(*changes: tuple[str, object]) -> Evidence:
    """Good evidence with values put at dotted paths; a number in a path is a list's index."""
    evidence = copy.deepcopy(good())
    for path, value in changes:
        *folders, last = path.split(".")
        place: Any = evidence
        for folder in folders:
            place = place[int(folder)] if isinstance(place, list) else place[folder]
        assert last in place, f"{path} is no fact"
        place[last] = value
    return Evidence.model_validate(evidence)
