"""What a disk is refused for: each rule with a disk that breaks just that one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serai.image.build.builds import Finished
from serai.image.definition import definition
from serai.image.definition.definition import Budget
from serai.image.release import inspect
from serai.image.release.inspect import Disk, Refusal
from serai.image.release.tree import Entry
from serai.image.settings import Settings
from tests.support.disks import CLEAN, a_disk, clean, put

LIMIT = Budget(image_mib=10, root_mib=100)
GOOD = Disk(
    entries=[
        Entry(".", "d", 0o755, 0, 0),
        Entry("tmp", "d", 0o1777, 0, 0),
        Entry("dev/null", "c", 0o666, 0, 0),
        Entry("etc/link", "l", 0o777, 0, 0, 0, "elsewhere"),
        Entry("etc/ssl/private", "d", 0o700, 0, 0),
        Entry("root/.ssh/authorized_keys", "f", 0o600, 0, 0),
        Entry("usr/bin/su", "f", 0o4755, 0, 0, 4, "00"),
        Entry("usr/local/lib", "d", 0o2775, 0, 50),
        Entry("srv/nobody", "f", 0o644, 65534, 65534, 1, "00"),
    ],
    shipped=CLEAN,
    image_bytes=10 << 20,
    root_bytes=100 << 20,
)


def rules_of(disk: Disk) -> list[tuple[str, str]]:
    return [(found.path, found.rule) for found in inspect.inspect(disk, LIMIT)]


def test_a_good_disk_may_be_released() -> None:
    assert inspect.inspect(GOOD, LIMIT) == []


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        (Entry("etc/x", "f", 0o666, 0, 0), ("/etc/x", "writable")),
        (Entry("opt/open", "d", 0o1777, 0, 0), ("/opt/open", "writable")),
        (Entry("var/tmp", "d", 0o777, 0, 0), ("/var/tmp", "writable")),
        (Entry("srv/socket", "s", 0o777, 0, 0), ("/srv/socket", "writable")),
        (Entry("usr/bin/x", "f", 0o4755, 0, 0), ("/usr/bin/x", "privileged")),
        (Entry("usr/bin/x", "f", 0o2755, 0, 0), ("/usr/bin/x", "privileged")),
        (Entry("usr/bin/chage", "f", 0o6755, 0, 0), ("/usr/bin/chage", "privileged")),
        (
            Entry("usr/bin/ping", "f", 0o755, 0, 0, capabilities="01"),
            ("/usr/bin/ping", "privileged"),
        ),
        (Entry("opt/x", "f", 0o644, 1000, 0), ("/opt/x", "owner")),
        (Entry("opt/x", "d", 0o755, 0, 1001), ("/opt/x", "owner")),
        (Entry("var/x/.ssh/authorized_keys", "f", 0o600, 9, 9, 1), None),
        (Entry("srv/.bash_history", "f", 0o600, 0, 0, 1), None),
        (Entry("etc/ssl/private/ssl-cert-snakeoil.key", "f", 0o600, 0, 0, 1), None),
        (Entry("etc/ssh/ssh_host_rsa_key.pub", "f", 0o644, 0, 0, 1), None),
        (Entry("var/lib/serai/keys/gate.cred", "f", 0o600, 0, 0, 1), None),
        (Entry("var/lib/systemd/credential.secret", "f", 0o400, 0, 0, 1), None),
    ],
)
def test_a_path_that_must_not_be_there(entry: Entry, found: tuple[str, str] | None) -> None:
    disk = replace(GOOD, entries=[*GOOD.entries, entry])
    assert rules_of(disk) == [found or (f"/{entry.path}", "secrets")]


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("machine_id", "a" * 32, ("/etc/machine-id", "identity")),
        ("dbus_machine_id", "a" * 32, ("/var/lib/dbus/machine-id", "identity")),
        ("host_keys", ["/etc/ssh/k"], ("/etc/ssh/k", "identity")),
        ("random_seeds", ["/s"], ("/s", "identity")),
        ("cloud_init", ["/var/lib/cloud/x"], ("/var/lib/cloud/x", "identity")),
        ("logs", ["/var/log/dpkg.log"], ("/var/log/dpkg.log", "logs")),
        ("homes", ["/root/.bash_history"], ("/root/.bash_history", "homes")),
        ("apt", ["/var/lib/apt/lists/x"], ("/var/lib/apt/lists/x", "apt")),
        ("temporary", ["/tmp/x"], ("/tmp/x", "temporary")),
        ("mentions", ["/etc/shadow-"], ("/etc/shadow-", "build user")),
        ("sudoers", ["/etc/sudoers.d/x"], ("/etc/sudoers.d/x", "build user")),
    ],
)
def test_what_the_build_left(field: str, value: Any, found: tuple[str, str]) -> None:
    disk = replace(GOOD, shipped=CLEAN.model_copy(update={field: value}))
    assert rules_of(disk) == [found]
    assert set(CLEAN.model_dump()) == {
        *("machine_id", "dbus_machine_id"),
        *(name for name, _, _ in inspect._AT_REST),
    }, "every fact is judged"


def test_a_disk_over_its_budget_says_by_how_much() -> None:
    disk = replace(GOOD, image_bytes=(10 << 20) + 1, root_bytes=200 << 20)
    assert inspect.inspect(disk, LIMIT) == [
        Refusal("", "budget", "the qcow2 has 11 MiB, of 10 allowed"),
        Refusal("", "budget", "the root file system holds 200 MiB, of 100 allowed"),
    ]
    assert inspect.inspect(disk, Budget()) == [], "no budget, no limit"


UBUNTUS = [
    Entry("usr/bin/pkexec", "f", 0o4755, 0, 0, 4, "00"),
    Entry("usr/bin/ping", "f", 0o755, 0, 0, 4, "00", "01000002002" + "0" * 29),
    Entry("var/crash", "d", 0o1777, 0, 0),
]


def test_what_ubuntu_has_is_allowed_to_ubuntu_alone() -> None:
    disk = replace(GOOD, entries=UBUNTUS)
    assert inspect.inspect(disk, LIMIT, "ubuntu") == []
    paths = [f"/{entry.path}" for entry in UBUNTUS]
    for other in ("", "debian"):
        assert sorted(each.path for each in inspect.inspect(disk, LIMIT, other)) == sorted(paths)
    strange = replace(GOOD, entries=[Entry("usr/bin/pkexec", "f", 0o6755, 0, 0, 4, "00")])
    assert len(inspect.inspect(strange, LIMIT, "ubuntu")) == 1


def test_what_is_found_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    image = definition.load(Settings.of({}), "debian-12-amd64").model_copy(update={"budget": LIMIT})
    finished = Finished(Path("/1"), image)
    assert inspect.show(finished, GOOD, as_json=False) == 0
    assert capsys.readouterr().out == "9 paths, 10 MiB, 100 MiB used; 0 findings\n"
    assert inspect.show(finished, replace(GOOD, root_bytes=101 << 20), as_json=False) == 1
    said = "serai: budget: the root file system holds 101 MiB, of 100 allowed\n"
    assert capsys.readouterr().err == said


def test_every_image_has_a_budget() -> None:
    settings = Settings.of({})
    for name in definition.names(settings):
        assert definition.load(settings, name).budget.root_mib, name


def test_a_real_disk_is_judged(tmp_path: Path) -> None:
    tree = clean(tmp_path / "root")
    put(tree, "root/.bash_history", "ls\n")
    put(tree, "usr/bin/open", "#!/bin/sh\n")
    (tree / "usr/bin/open").chmod(0o777)
    made = a_disk(tmp_path, tree)
    disk = inspect.read(made, tmp_path / "a cache" / "that nobody has made")
    assert disk.image_bytes == made.stat().st_size
    assert 0 < disk.root_bytes < 8 << 20
    small = Budget(image_mib=1, root_mib=1)
    found = {(finding.path, finding.rule) for finding in inspect.inspect(disk, small)}
    assert found >= {
        ("/root/.bash_history", "homes"),
        ("/root/.bash_history", "secrets"),
        ("/usr/bin/open", "writable"),
        ("", "budget"),
    }


# --- reviewed lists
