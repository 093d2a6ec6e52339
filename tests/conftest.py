"""Rules for all layers of tests: a layer is a directory, and a skipped one is never silent."""

from __future__ import annotations

import os
import signal
from pathlib import Path

# Otherwise its plugin imports it at the end of a run, so deep in pytest that Python 3.11.2 may
# fail to parse it (https://github.com/python/cpython/issues/106905).
import hypothesis
import pytest

from serai.image.commands import LAYERS
from serai.image.settings import Settings

# A shell that starts us in the background has us ignore Ctrl-C, and what we start would inherit
# that (signal(7)); tests of Ctrl-C mean a program that a person started.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Neither a host that is busy nor chance decides whether a property holds. "random" tries examples
# that no run before has tried: pytest tests/unit --hypothesis-profile=random
SLOW = [hypothesis.HealthCheck.too_slow]
for name, same in (("same", True), ("random", False)):
    hypothesis.settings.register_profile(
        name, deadline=None, derandomize=same, suppress_health_check=SLOW
    )
hypothesis.settings.load_profile("same")

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its layer, and run the quick layers first."""
    order = {name: number for number, name in enumerate(LAYERS)}

    def layer(item: pytest.Item) -> str:
        return item.path.relative_to(ROOT / "tests").parts[0]

    for item in items:
        if layer(item) != "unit":
            item.add_marker(layer(item))
    # Whoever asks for ``upgraded`` comes last: it switches off the VM that others share.
    items.sort(
        key=lambda item: (order[layer(item)], "upgraded" in vars(item).get("fixturenames", ()))
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly what was not tested."""
    skipped = len(terminalreporter.stats.get("skipped", []))
    if skipped:
        terminalreporter.section(f"{skipped} TESTS WERE SKIPPED: this run is no proof", red=True)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI a skipped test is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter is not None and reporter.stats.get("skipped")
    if os.environ.get("CI") and skipped and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def checkout(tmp_path: Path) -> Settings:
    """Settings of an empty checkout below ``tmp_path``, with a cache and dist of its own."""
    root = tmp_path / "checkout"
    for name in ("images", "playbooks", "roles"):
        (root / name).mkdir(parents=True)
    (root / "pins.yml").write_text("{}\n")
    return Settings.of(
        {"SERAI_CACHE": str(tmp_path / "cache"), "SERAI_DIST": str(tmp_path / "dist")}, root
    )
