"""The same result both ways: a machine that was provisioned holds what an image holds."""

from __future__ import annotations

from pathlib import Path

from serai.image import digest
from serai.image.build.playbook import BUILD_USER
from serai.image.container import roots
from serai.image.release import allow, reproduce, tree
from serai.image.release.allow import Rule, Rules
from serai.image.settings import Settings
from tests.support import chosen

# What lets the tests in.
_TESTS = (
    Rule("etc/ssh/sshd_config.d/machine.conf", "the port of the test's sshd"),
    Rule(f"home/{BUILD_USER}/.ssh", "the test's key"),
    Rule(f"home/{BUILD_USER}/.ssh/*", "likewise"),
    # Which images lose with the build user.
    Rule(f"home/{BUILD_USER}/.ansible", "at times: its mode is another by each of the strategies"),
)


def assert_same_result(root: Path, *others: Rule) -> None:
    """``root``, of a machine that was provisioned, differs from an image only as is allowed.

    The image is one before its seal; ``others`` are what the test itself has changed. A rule that
    is not needed any more fails, too.
    """
    image = tree.of_folder(image_of_the_day(root))
    rules = Rules([*_TESTS, *others, *allow.load("provisioned")])
    outcome = reproduce.differences(image, tree.of_folder(root), rules)
    assert not outcome.lines, "\n".join(outcome.lines)
    assert not outcome.unused, outcome.unused


def image_of_the_day(root: Path) -> Path:
    """The root of an image whose packages come from the archive as it was for ``root``.

    An archive changes several times a day, and the image in the cache may be older than that.
    """
    image, day = roots.provisioned(Settings.of(), image=chosen.IMAGE), archive(root)
    if archive(image) != day:
        image = roots.provisioned(Settings.of(), day, chosen.IMAGE)
        assert archive(image) == day, "the archive has changed between the two; run this again"
    return image


def archive(root: Path) -> str:
    """A digest of what the archive said of itself when apt asked it last."""
    said = sorted((root / "var/lib/apt/lists").glob("*Release"))
    assert said, f"apt has no lists in {root}"
    return digest.of_value({path.name: digest.of_file(path) for path in said})
