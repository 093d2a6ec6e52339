"""The finished image passes, and an image with real faults does not.

The second one's boot is that of an upgrade, as a person boots it (upgrading.py).
"""

from __future__ import annotations

from pathlib import Path

from serai.common.checks import judge
from serai.image import digest
from serai.image.definition import tools
from serai.image.definition.definition import Image
from serai.image.settings import Settings
from serai.image.verify import shipped
from serai.image.verify.checks import CHECKS
from serai.image.verify.facts import Evidence, FirstBoot
from serai.image.verify.verdict import Report
from serai.image.verify.verify import LATER
from tests.support.upgrading import STATUS, Upgraded

ABSENT = "not part of this test"


def test_boot_runs_a_command_with_files(image: Image, upgraded: Upgraded) -> None:
    assert upgraded.status == STATUS, upgraded.stderr
    assert upgraded.said[:3] == ["carried", "root", "degraded"]
    assert f"{image.name} is degraded" in upgraded.stderr
    assert upgraded.stderr.endswith("aside\n")
    assert not upgraded.wrote, "the disk is only read"


def test_real_faults_turn_their_checks_red(
    image: Image, upgraded: Upgraded, tmp_path: Path
) -> None:
    told = upgraded.facts
    seen = FirstBoot(facts=told, seconds=0.0, clock=told.system.now, key=upgraded.said[3])
    evidence = Evidence(
        image=image,
        promised=tools.promised(Settings.of({}), image),
        first=seen,
        second=ABSENT,
        foreign=ABSENT,
        alone=ABSENT,
        exercise=ABSENT,
        own=ABSENT,
        shipped=shipped.gather(upgraded.faulty, tmp_path),
        digests=ABSENT,
        foreign_disk=ABSENT,
    )
    red = {
        result.check.name: result.detail
        for result in judge(evidence, {}, CHECKS)
        if not result.ok and ABSENT not in result.detail
    }
    made = red.pop("/sessions is formatted on the first boot")
    assert made.startswith("it was made "), "the older machine made it"
    if image.release == "12":
        assert red.pop("bwrap has no rights of its own") == "it is setuid or setgid (4755)"
    assert red == {
        "it reaches multi-user, no unit failed": "first boot: broken.service failed",
        "nothing is left of the build's user": (
            "/etc/passwd names serai-build; serai-build has an account after booting"
        ),
        "only the seeded key lets somebody in": (
            "/root/.ssh/authorized_keys holds a key that nobody seeded"
        ),
        "no shell history, key or file of the build is in a home": (
            "left: /root/.ssh/authorized_keys"
        ),
        "no logs are shipped": "left: /var/log/build.log",
    }


def test_the_built_image_passes_the_checks_of_one_boot(
    image: Image, built: Path, report: Report
) -> None:
    assert [result for result in report.checks if not result.ok] == []
    assert {check.part for check in CHECKS} - {
        result.check.part for result in report.checks
    } == set(LATER)
    disk = f"{image.name}.qcow2"
    sums = (built / "SHA256SUMS").read_text().split()
    assert digest.of_file(built / disk) == sums[sums.index(disk) - 1]
