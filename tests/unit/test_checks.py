"""Each check: green on good evidence, and red, alone, when the image is broken in its one point."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from serai.image import checks, definition
from serai.image.facts import Evidence
from serai.image.settings import Settings

GIB = 1 << 30
MIB = 1 << 20
IMAGE = definition.load(Settings.of({}, root=Path(__file__).parents[2]), "debian-12-amd64-standard")
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
    "type": checks.disks.ESP,
}


def a_machine(
    letter: str, root: str = "nvme0n1", sessions: str | None = "nvme1n1"
) -> dict[str, Any]:
    """A well machine; ``letter`` makes its identity."""
    partition = f"{root}p1" if root.startswith("nvme") else f"{root}1"
    disks = [
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
            "machine": "x86_64",
            "kernel": "6.1.0-40-amd64",
            "now": NOW,
            "timezone": "UTC",
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
        "disks": disks,
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
        "mode": checks.sessions.MODE,
        "owner": checks.sessions.OWNER,
        "ext4": {"bytes": 10 * GIB, "made": int(NOW) - 20, "uuid": "11" * 16, "label": "sessions"},
    }


def good() -> dict[str, Any]:
    """Evidence of a good image."""
    foreign = a_machine("b", root="vda", sessions=None)
    foreign["facts"]["boot"] = {
        "state": "degraded",
        "multi_user": "active",
        "failed": [checks.sessions.UNIT],
    }
    foreign["facts"]["sessions"]["journal"] = ["/dev/vdb holds ext4 'other': refused"]
    return {
        "image": IMAGE.model_dump(),
        "first": a_machine("a"),
        "second": a_machine("a"),
        "foreign": foreign,
        "alone": a_machine("c", sessions=None),
        "runtime": {
            "created": 0.5,
            "capabilities": ["0000000000000000"] * 5,
            "no_new_privileges": "1",
            "seccomp": "2",
            "filters": 3,
            "tree": ["1 0 bwrap", "2 1 bash", "3 2 socat", "4 2 socat", "9 0 ps"],
            "sessions": "rogue",
            "own": "secret",
            "reached": "",
            "past_gate": ["ENETUNREACH", "ENETUNREACH", "gaierror"],
            "sockets": ["/run/serai/gate/http.sock", "/run/serai/gate/socks.sock"],
            "versions": {
                name: version or "1.0" for name, version in checks.tools.wanted(IMAGE).items()
            },
            "uninvited": [],
            "documents": list(checks.tools.DOCUMENTS),
            "compiled": "compiled",
            "denied": 403,
            "denial": "allow it with: serai policy allow witness 127.0.0.1:80",
            "allowed": 200,
            "origin": "origin",
            "decisions": [False, True],
            "audit_whole": True,
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
            "policy_weight": 100,
            "weights": [100, 100],
            "light_usec": 900_000,
            "heavy_usec": 8_800_000,
            "busy_answer": "well",
            "busy_sessions": ["rogue", "witness"],
            "busy_seconds": 1.5,
            "hog": 137,
            "after_hog": "well",
            "bomb_refused": 40,
            "after_bomb": "well",
            "processes_left": 0,
            "archived_mode": 0,
            "kept": "kept",
            "sessions_left": [],
            "doctor_passed": 190,
            "doctor_failed": [],
            "same_daemon": True,
        },
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


def red(evidence: Evidence) -> list[str]:
    return [result.name for result in checks.judge(evidence, {}) if not result.ok]


# For each check, the ways in which an image breaks it. The last of a path's parts is a fact.
FIRST, SHIPPED = "first.facts", "shipped"
DISK, MOUNT = "first.facts.disks.0", "first.facts.sessions.mount"
BREAKS: dict[str, list[list[tuple[str, object]]]] = {
    "it reaches multi-user, no unit failed": [
        [(f"{FIRST}.boot.failed", ["networking.service"]), (f"{FIRST}.boot.state", "degraded")],
        [(f"{FIRST}.boot.multi_user", "inactive")],
        [(f"{FIRST}.boot.state", "starting")],
        [(f"{FIRST}.boot.failed", [checks.sessions.UNIT])],
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
        [("foreign.facts.boot.failed", [checks.sessions.UNIT, "ssh.service"])],
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
    "the host name is set and resolves": [
        [(f"{FIRST}.identity.hostname", "localhost")],
        [(f"{FIRST}.identity.hostname_file", "builder")],
        [(f"{FIRST}.identity.address", "")],
    ],
    "the clock is right and tells UTC": [
        [("first.clock", NOW - 3600)],
        [(f"{FIRST}.system.timezone", "CET")],
    ],
    "a session has the tools of the image's profile, in the versions named": [
        [("runtime.versions.pandoc", "")],
        [("runtime.versions.java", "11.0.29")],
        [("runtime.versions.gcc", "12.20.1")],
        [("runtime.versions.node", "22.20.1")],
        [("runtime.versions.npm", "")],
        [("runtime.versions", {})],
    ],
    "Go, Rust and Docker are there only if asked for": [[("runtime.uninvited", ["go"])]],
    "in a session docx, pptx and xlsx are made, printed and read, and C compiled": [
        [("runtime.documents", ["a book", "a paper"])],
        [("runtime.documents", ["ImportError('pptx')"])],
        [("runtime.compiled", "")],
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
    "a payload has no capability, and both filters": [
        [("runtime.capabilities", ["0000000000000000"] * 4 + ["0000000000000001"])],
        [("runtime.no_new_privileges", "0")],
        [("runtime.seccomp", "0")],
        [("runtime.filters", 1)],
    ],
    "a sandbox holds the bridge and the payload, and nothing else": [
        [("runtime.tree", ["1 0 bwrap", "2 1 bash", "3 2 socat", "9 0 ps"])],
        [("runtime.tree", ["1 0 systemd", "2 1 bash", "3 2 socat", "4 2 socat", "9 0 ps"])],
        [("runtime.tree", [])],
    ],
    "a session reaches no other session's files": [
        [("runtime.reached", "x\nsecret")],
        [("runtime.sessions", "rogue\nwitness")],
        [("runtime.own", "")],
    ],
    "a session has no way out past the gate": [
        [("runtime.past_gate", ["it works", "ENETUNREACH", "gaierror"])],
        [("runtime.past_gate", ["TimeoutError", "ENETUNREACH", "gaierror"])],
        [("runtime.past_gate", ["ENETUNREACH", "it works", "gaierror"])],
        [("runtime.past_gate", ["ENETUNREACH", "ENETUNREACH", "it works"])],
        [("runtime.sockets", ["/run/serai/control.sock"])],
        [("runtime.sockets", [])],
    ],
    "the gate denies what no rule allows, in words, and notes it down": [
        [("runtime.denied", 200)],
        [("runtime.denial", "no")],
        [("runtime.allowed", 403)],
        [("runtime.origin", "another")],
        [("runtime.decisions", [True])],
        [("runtime.audit_whole", False)],
    ],
    "a full session gets EDQUOT, and another one still writes": [
        [("runtime.quota", 0)],
        [("runtime.full", "it fits")],
        [("runtime.while_full", "")],
    ],
    "a folder of the machine's disk is the session's inside, its owner's outside": [
        [("runtime.mount", "bindfs")],
        [("runtime.inside_owners", ["nobody", "rogue"])],
        [("runtime.inside_owners", [])],
        [("runtime.outside_owner", 2000)],
    ],
    "the session switched away from is frozen and uses no CPU": [
        [("runtime.frozen", "ready")],
        [("runtime.frozen_usec", 500_000)],
        [("runtime.busy_usec", 0)],
    ],
    "a session has the policy's CPU weight": [
        [("runtime.weights", [100, 0])],
        [("runtime.weights", [10, 100])],
        [("runtime.weights", [])],
        [("runtime.policy_weight", 50)],
    ],
    "where sessions compete, a light one gets less CPU, and all answer": [
        [("runtime.light_usec", 4_900_000), ("runtime.heavy_usec", 4_900_000)],
        [("runtime.light_usec", 3_000_000)],
        [("runtime.light_usec", 0)],
        [("runtime.light_usec", 10), ("runtime.heavy_usec", 90)],
        [("runtime.busy_answer", "")],
        [("runtime.busy_sessions", ["witness"])],
    ],
    "a memory hog ends in its own session alone": [
        [("runtime.hog", 0)],
        [("runtime.after_hog", "")],
    ],
    "a fork bomb ends in its own session alone": [
        [("runtime.bomb_refused", 0)],
        [("runtime.after_bomb", "")],
        [("runtime.processes_left", 3)],
    ],
    "an archived session is locked, and comes back with its files": [
        [("runtime.archived_mode", 0o700)],
        [("runtime.kept", "")],
    ],
    "serai doctor finds nothing wrong": [
        [("runtime.doctor_failed", ["swap is off: /dev/vda2"])],
        [("runtime.doctor_passed", 79)],
    ],
    "a removed session is gone, and sessiond went through all of it": [
        [("runtime.sessions_left", ["rogue"])],
        [("runtime.same_daemon", False)],
    ],
    "the shipped file is what SHA256SUMS says": [[("digests.promised", "0" * 64)]],
    "booting it has not changed the shipped file": [[("digests.after", "0" * 64)]],
}


def test_there_are_checks_and_each_has_its_fault() -> None:
    names = [check.name for check in checks.CHECKS]
    assert names
    assert len(names) == len(set(names))
    assert set(BREAKS) == set(names)
    assert all(BREAKS.values())


def test_a_good_image_passes_every_check() -> None:
    results = checks.judge(broken(), {})
    assert [(result.name, result.detail) for result in results if not result.ok] == []
    assert len(results) == len(checks.CHECKS)


@pytest.mark.parametrize(
    ("name", "changes"),
    [(name, changes) for name, faults in BREAKS.items() for changes in faults],
    ids=[f"{name}-{number}" for name, faults in BREAKS.items() for number in range(len(faults))],
)
def test_a_fault_turns_its_check_red_and_no_other(
    name: str, changes: list[tuple[str, object]]
) -> None:
    assert red(broken(*changes)) == [name]


def test_what_was_found_is_told_in_words() -> None:
    told = {result.name: result for result in checks.judge(broken(), {"bwrap": 1.25})}
    assert told["bwrap runs as an ordinary user"].detail == "bubblewrap 0.8.0"
    assert told["bwrap runs as an ordinary user"].seconds == 1.2
    many = broken((f"{SHIPPED}.logs", [f"/var/log/{number}" for number in range(9)]))
    told = {result.name: result for result in checks.judge(many, {})}
    assert told["no logs are shipped"].detail == (
        "left: /var/log/0, /var/log/1, /var/log/2 and 6 more"
    )


def test_a_machine_that_does_not_come_up_is_failed_checks_with_the_reason() -> None:
    results = checks.judge(broken(("first", "no ssh; Kernel panic"), ("second", "no ssh")), {})
    dead = [result for result in results if not result.ok]
    assert any("Kernel panic" in result.detail for result in dead)
    # What the bytes alone show is judged all the same.
    assert "no logs are shipped" in {result.name for result in results if result.ok}


def test_without_any_evidence_nothing_passes() -> None:
    nothing = broken(*((part, "it was not reached") for part in good() if part != "image"))
    assert [result.name for result in checks.judge(nothing, {}) if result.ok] == []
    plain = nothing.model_copy(update={"image": IMAGE.model_copy(update={"variables": {}})})
    assert [result.name for result in checks.judge(plain, {}) if result.ok] == []


def test_a_profile_promises_no_more_than_it_has() -> None:
    bare = broken(
        *(("runtime.versions", {}), ("runtime.documents", []), ("runtime.compiled", "")),
        *(("image.variables", {}),),
    )
    assert red(bare) == []
    assert red(bare.model_copy(update={"image": IMAGE})) != []


def test_who_asks_for_packages_may_have_any_tool() -> None:
    asked = broken(
        ("image.variables", {"toolchain_packages": ["golang-go"]}),
        ("runtime.uninvited", ["go"]),
    )
    assert red(asked) == []


def test_an_image_that_chooses_other_limits_is_held_to_these() -> None:
    chosen = {**IMAGE.variables, "limits_nofile": 2048, "identity_locale": "en_GB.UTF-8"}
    changed = [("image.variables", chosen)]
    assert red(broken(*changed)) == ["a login has the limits and the locale"]
    seen = [(f"{FIRST}.login.limits.nofile", "2048"), (f"{FIRST}.login.locale", "en_GB.UTF-8")]
    assert red(broken(*changed, *seen)) == []
