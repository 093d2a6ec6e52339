"""The report of the first day: which commands it runs, and what it writes down."""

from __future__ import annotations

import shlex

from serai.image.rehearsal import ubuntu_report
from serai.image.rehearsal.ubuntu_report import Answer
from serai.image.settings import Settings


def test_an_image_is_looked_at_before_and_after_it_is_built() -> None:
    found = ubuntu_report.commands(Settings.of({}), "ubuntu-22.04-arm64")
    assert [argv[0] for argv in found] == [
        *("plan", "boot", "build-image", "boot", "verify-image", "attack")
    ]
    assert "--base" in found[1]
    assert "--base" not in found[3]
    asked = shlex.split(found[3][-1])
    assert asked[:2] == ["sh", "/root/ubuntu-facts.sh"]
    assert {"python3-tomli", "bindfs", "netplan.io", "pandoc"} <= set(asked)


def test_the_report_has_every_step_and_nothing_that_moves_a_cursor() -> None:
    steps = [
        Answer(["plan", "--image", "x"], 0, 1.5, "all\nwell"),
        Answer(["boot"], 1, 0.5, "\x1b[2J"),
    ]
    text = ubuntu_report.text("x", steps)
    assert "| plan | 0 | 1.5 s |" in text
    assert "| boot | 1 | 0.50 s |" in text
    assert "    $ invoke plan --image x\n    all\n    well\n" in text
    assert "\x1b" not in text
