"""The charts of a report: a boot's units, a build's stages and tasks."""

from __future__ import annotations

from serai.image.release.report import chart
from serai.image.verify import boot_chart
from tests.support.reports import BOOT, an_inputs


def test_the_boot_chart_is_told_in_words_too() -> None:
    boot = boot_chart.boot(BOOT)
    assert boot.summary == "Startup finished in 4.735s (userspace); multi-user reached after 4.6s."
    units = [(unit.name, unit.start, unit.seconds) for unit in boot.units]
    assert units == [("dev-vda.device", 0.55, 4.0), ("a&b.service", 1.0, 0.2)]
    assert chart.slowest(boot, 1) == [boot.units[0]]
    assert (boot.units[1].left, boot.units[1].width) == (20.0, 4.0)
    assert boot_chart.boot("nonsense") == boot_chart.Boot("", ())


def test_stages_follow_each_other_and_so_do_their_tasks() -> None:
    base, system = chart.stages(an_inputs().manifest["stages"])
    assert (base.bar.left, base.bar.width) == (0.0, 20.0)
    assert (system.bar.left, system.bar.width) == (20.0, 80.0)
    assert [(task.name, task.left, task.width) for task in system.tasks] == [
        ("Gathering Facts", 0.0, 25.0),
        ("Install the packages", 25.0, 75.0),
    ]
    assert (base.outside, system.outside) == (25.0, 20.0)
    assert [task.name for task in chart.longest([base, system], 1)] == ["Install the packages"]
