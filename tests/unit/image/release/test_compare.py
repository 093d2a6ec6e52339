"""What differs between two builds, and how it is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serai.image.errors import BuildError
from serai.image.release import changes, compare, tree
from serai.image.release.changes import CheckChange, File, Package
from serai.image.release.compare import Contents
from serai.image.release.tree import Entry
from serai.image.settings import Settings

GOLDEN = Path(__file__).parent / "golden" / "CHANGES.md"
WANTS = "etc/systemd/system/multi-user.target.wants"


def entry(path: str, **values: Any) -> Entry:
    return replace(Entry(path, "f", 0o644, 0, 0, 3, "aa"), **values)


OLD = Contents(
    image="debian-12-amd64",
    version="0.1.0-aaaaaaaa",
    revision="aaaa",
    packages={
        "bash": "5.2-1",
        "curl": "7.88-10+deb12u9",
        "git": "1:2.39",
        "old": "1",
        "tzdata": "5",
    },
    entries=(
        entry("etc/hosts"),
        entry("etc/gone"),
        entry("etc/kind"),
        entry("etc/link", type="l", mode=0o777, size=0, digest="a"),
        entry("usr/bin/su", mode=0o4755),
        entry("usr/bin/ping"),
        entry(f"{WANTS}/ssh.service", type="l"),
    ),
    image_bytes=100 << 20,
    boot_seconds=60.04,
    checks={"swap is off": True, "no logs are shipped": True, "it boots": True},
)
NEW = replace(
    OLD,
    version="0.2.0-bbbbbbbb",
    revision="bbbb",
    packages={
        "bash": "5.2-1",
        "curl": "7.88-10+deb12u12",
        "git": "2.40",
        "tzdata": "5~rc1",
        "zstd": "1.5",
    },
    entries=(
        entry("etc/hosts", mode=0o600, owner=1),
        entry("etc/kind", type="d", digest="", size=0),
        entry("etc/link", type="l", mode=0o777, size=0, digest="b"),
        entry("usr/bin/su", mode=0o4755, digest="bb"),
        entry("usr/bin/new`|\n", mode=0o2755, group=42),
        entry("usr/bin/ping", capabilities="0100"),
        *(entry(f"usr/share/doc/x/{number:02}") for number in range(25)),
        entry(f"{WANTS}/ssh.service", type="l"),
        entry(f"{WANTS}/gate.service", type="l"),
        entry("etc/systemd/system/sockets.target.wants/x.socket", type="l"),
    ),
    image_bytes=110 << 20,
    boot_seconds=57.0,
    checks={"swap is off": False, "no logs are shipped": True, "a new one": True},
)


def test_equal_builds_have_no_changes() -> None:
    found = compare.compare(OLD, OLD)
    assert found == changes.Changes(found.old, found.old, *[()] * 9)


def test_packages_are_ordered_as_dpkg_has_it() -> None:
    found = compare.compare(OLD, NEW)
    assert found.added == (Package("zstd", "", "1.5"),)
    assert found.removed == (Package("old", "1", ""),)
    # By text 12 comes before 9, and 2.40 after 1:2.39.
    assert found.upgraded == (Package("curl", "7.88-10+deb12u9", "7.88-10+deb12u12"),)
    assert found.downgraded == (Package("git", "1:2.39", "2.40"), Package("tzdata", "5", "5~rc1"))


def test_what_of_a_file_has_changed_is_told() -> None:
    found = {file.path: file for file in compare.files(OLD.entries, NEW.entries)}
    assert found["etc/gone"] == File("etc/gone", "removed", "")
    assert found["usr/bin/new`|\n"].how == "added"
    assert {path: file.what for path, file in found.items() if file.how == "changed"} == {
        "etc/hosts": "mode 0644 → 0600, owner 0:0 → 1:0",
        "etc/kind": "type f → d",
        "etc/link": "a → b",
        "usr/bin/ping": "capabilities none → 0100",
        "usr/bin/su": "content",
    }


def test_new_rights_and_new_units_come_first() -> None:
    found = compare.compare(OLD, NEW)
    assert found.privileged == ("usr/bin/new`|\n (2755 0:42)", "usr/bin/ping (0100)")
    assert found.sockets == ("x.socket",)
    assert found.units == ("gate.service",)


def test_checks_that_changed() -> None:
    assert compare.compare(OLD, NEW).checks == (
        CheckChange("a new one", None, True),
        CheckChange("it boots", True, None),
        CheckChange("swap is off", True, False),
    )
    assert compare.compare(replace(OLD, checks={}), NEW).checks == ()


def test_changes_are_told_as_ever() -> None:
    """After a change that is meant: write the file anew, and read it."""
    assert changes.markdown(compare.compare(OLD, NEW)) == GOLDEN.read_text(encoding="utf-8")


def test_order_does_not_matter() -> None:
    shuffled = replace(
        NEW,
        entries=tuple(reversed(NEW.entries)),
        packages=dict(reversed(list(NEW.packages.items()))),
        checks=dict(reversed(list(NEW.checks.items()))),
    )
    assert compare.compare(OLD, shuffled) == compare.compare(OLD, NEW)


def test_nothing_changed_is_told_too() -> None:
    told = changes.markdown(compare.compare(OLD, OLD))
    for words in ("Nothing new has", "The same packages.", "The same files.", "The same checks"):
        assert words in told
    told = changes.markdown(compare.compare(replace(OLD, checks={}, boot_seconds=None), OLD))
    assert "Not compared: one of the two was not verified." in told
    assert "| boot, s | – | 60.0 | |" in told  # noqa: RUF001


# --- folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "0.1.0-a"
    made.mkdir()
    manifest = {"image": "x", "version": "0.1.0-a", "revision": "r", "stages": []}
    (made / "manifest.json").write_text(json.dumps(manifest))
    (made / "packages.txt").write_text("bash 5 amd64\nlibc6 2 amd64\nlibc6 2 i386\n")
    (made / "x.qcow2").write_bytes(b"12345")
    tree.write(made / "files.tsv.zst", OLD.entries)
    return made


def test_a_folder_is_read(folder: Path, tmp_path: Path) -> None:
    found = compare.read(folder, tmp_path)
    assert found.packages == {"bash": "5", "libc6:amd64": "2", "libc6:i386": "2"}
    assert (found.image_bytes, found.boot_seconds, found.checks) == (5, None, {})
    assert set(found.entries) == set(OLD.entries)
    check = {"name": "swap is off", "ok": True, "detail": "", "seconds": 0.1}
    verdict = {"boot_seconds": 5.0, "checks": [check]}
    (folder / "verify.json").write_text(json.dumps(verdict))
    found = compare.read(folder, tmp_path)
    assert (found.boot_seconds, found.checks) == (5.0, {"swap is off": True})


def test_two_folders_are_compared(
    folder: Path, tmp_path: Path, checkout: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    compare.show(checkout, folder, folder, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["files"] == []
    assert told["old"]["version"] == "0.1.0-a"
    compare.show(checkout, folder, folder, as_json=False)
    assert capsys.readouterr().out.startswith("# x 0.1.0-a\n")


def test_what_is_no_folder_of_a_build_is_one_clear_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"manifest\.json cannot be read: No such file"):
        compare.read(tmp_path, tmp_path)
    (folder / "x.qcow2").unlink()
    with pytest.raises(BuildError, match=r"has no x\.qcow2"):
        compare.read(folder, tmp_path)
