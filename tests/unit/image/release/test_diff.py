"""What differs between two builds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from serai.image.errors import BuildError
from serai.image.release import diff
from serai.image.release.diff import CheckChange, File, Package
from tests.support.contents import NEW, OLD, a_build


def test_equal_builds_have_no_changes() -> None:
    found = diff.compare(OLD, OLD)
    assert found == diff.Changes(found.old, found.old, *[()] * 9)


def test_packages_are_ordered_as_dpkg_has_it() -> None:
    found = diff.compare(OLD, NEW)
    assert found.added == (Package("zstd", "", "1.5"),)
    assert found.removed == (Package("old", "1", ""),)
    # By text 12 comes before 9, and 2.40 after 1:2.39.
    assert found.upgraded == (Package("curl", "7.88-10+deb12u9", "7.88-10+deb12u12"),)
    assert found.downgraded == (Package("git", "1:2.39", "2.40"), Package("tzdata", "5", "5~rc1"))


def test_what_of_a_file_has_changed_is_told() -> None:
    found = {file.path: file for file in diff.files(OLD.entries, NEW.entries)}
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
    found = diff.compare(OLD, NEW)
    assert found.privileged == ("usr/bin/new`|\n (2755 0:42)", "usr/bin/ping (0100)")
    assert found.sockets == ("x.socket",)
    assert found.units == ("gate.service",)


def test_checks_that_changed() -> None:
    assert diff.compare(OLD, NEW).checks == (
        CheckChange("a new one", None, True),
        CheckChange("it boots", True, None),
        CheckChange("swap is off", True, False),
    )
    assert diff.compare(replace(OLD, checks={}), NEW).checks == ()


def test_order_does_not_matter() -> None:
    shuffled = replace(
        NEW,
        entries=tuple(reversed(NEW.entries)),
        packages=dict(reversed(list(NEW.packages.items()))),
        checks=dict(reversed(list(NEW.checks.items()))),
    )
    assert diff.compare(OLD, shuffled) == diff.compare(OLD, NEW)


# --- folders


def test_a_folder_is_read(tmp_path: Path) -> None:
    folder = a_build(tmp_path)
    found = diff.read(folder, tmp_path)
    assert found.packages == {"bash": "5", "libc6:amd64": "2", "libc6:i386": "2"}
    assert (found.image_bytes, found.boot_seconds, found.checks) == (5, None, {})
    assert set(found.entries) == set(OLD.entries)
    check = {"name": "swap is off", "ok": True, "detail": "", "seconds": 0.1}
    verdict = {"boot_seconds": 5.0, "checks": [check]}
    (folder / "verify.json").write_text(json.dumps(verdict))
    found = diff.read(folder, tmp_path)
    assert (found.boot_seconds, found.checks) == (5.0, {"swap is off": True})


def test_what_is_no_folder_of_a_build_is_one_clear_error(tmp_path: Path) -> None:
    folder = a_build(tmp_path)
    with pytest.raises(BuildError, match=r"manifest\.json cannot be read: No such file"):
        diff.read(tmp_path, tmp_path)
    (folder / "x.qcow2").unlink()
    with pytest.raises(BuildError, match=r"has no x\.qcow2"):
        diff.read(folder, tmp_path)
