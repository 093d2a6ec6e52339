"""Units and systemd's other files have only settings that the oldest systemd of ours knows.

systemd ignores what it does not know: a limit would be missing, and nothing would fail.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from serai.runtime.sessions.supervising import supervisor
from serai.runtime.settings import SessionSettings
from tests.conftest import ROOT
from tests.support import known_options

KNOWN = known_options.read("systemd-249")
OF_PROCESSES = ("systemd.exec", "systemd.kill", "systemd.resource-control")
PAGES = {
    "Unit": ("systemd.unit",),
    "Install": ("systemd.unit [Install]",),
    "Service": ("systemd.service", *OF_PROCESSES),
    "Socket": ("systemd.socket", *OF_PROCESSES),
    "Mount": ("systemd.mount", *OF_PROCESSES),
    "Slice": ("systemd.resource-control",),
    "Journal": ("journald",),
    "Resolve": ("resolved",),
}
"""Sections, and the manual pages that have their settings."""

ONLY_NEWER = {"roles/base/files/80-dhcp.network"}
"""Files that only images with a newer systemd get."""


def settings(text: str) -> Iterator[tuple[str, str, str]]:
    """Section, name and value of every setting, also where a task has the file's text."""
    section = ""
    for line in map(str.strip, text.splitlines()):
        if match := re.fullmatch(r"\[([A-Z]\w+)\]", line):
            section = match[1]
        elif match := re.match(r"([A-Z]\w+)=(.*)", line):
            if section:
                yield section, match[1], match[2]
        elif line and line[0] not in "#;":
            section = ""  # a task goes on


def unknown(text: str) -> list[str]:
    return [
        f"[{section}] {name}"
        for section, name, _ in settings(text)
        if not any(name in KNOWN[page] for page in PAGES.get(section, ()))
    ]


def files() -> dict[str, str]:
    """Everything in the tree that has settings of systemd's, by its path."""
    found = {}
    for top in ("src/serai", "roles"):
        for path in sorted((ROOT / top).rglob("*")):
            if path.is_file() and path.suffix not in (".py", ".pyc", ".md", ".css", ".svg"):
                text = path.read_text()
                if re.search(r"^\s*\[[A-Z]\w+\]$", text, re.MULTILINE):
                    found[str(path.relative_to(ROOT))] = text
    return found


FILES = files()


@pytest.mark.parametrize("path", sorted(FILES.keys() - ONLY_NEWER))
def test_systemd_249_knows_every_setting_of_a_file(path: str) -> None:
    assert list(settings(FILES[path]))
    assert unknown(FILES[path]) == []


def test_no_file_of_systemds_is_left_out() -> None:
    home = ROOT / "src/serai/install/units"
    units = {str(path.relative_to(ROOT)) for path in home.rglob("*") if path.is_file()}
    tasks = {"roles/hardening/tasks/main.yml", "roles/hardening/files/session.conf"}
    assert units | tasks | ONLY_NEWER | {"roles/base/templates/journald.conf.j2"} <= FILES.keys()
    sources = {
        str(path.relative_to(ROOT / "src/serai")): path.read_text()
        for path in (ROOT / "src/serai").rglob("*.py")
    }
    written = {path for path, text in sources.items() if re.search(r"\[[A-Z]\w+\]\\n", text)}
    # The first is tested below, the other one is for the build host's own container.
    assert written == {"runtime/sessions/supervising/supervisor.py", "image/container/container.py"}


def test_systemd_249_knows_every_setting_that_sessiond_writes() -> None:
    text = supervisor.drop_in(SessionSettings())
    assert list(settings(text))
    assert unknown(text) == []


def test_systemd_249_knows_every_property_of_a_unit_that_sessiond_makes() -> None:
    known = set().union(*(KNOWN[page] for page in ("systemd.unit", *PAGES["Service"])))
    made = dict(supervisor.folder_settings("one", "outputs", ["/bin/x"]))
    # A D-Bus property has a span of time in microseconds, and says so in its name.
    assert {re.sub("USec$", "Sec", name) for name in made} <= known


def test_systemd_249_knows_every_group_of_system_calls() -> None:
    (_, (_, calls)) = dict(supervisor.folder_settings("one", "outputs", ["/x"]))["SystemCallFilter"]
    for text in FILES.values():
        for _, name, value in settings(text):
            calls += re.findall(r"@[\w-]+", value) if name == "SystemCallFilter" else []
    assert calls
    assert set(calls) <= KNOWN["groups of system calls"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[Service]\nOpenFile=/x\n", ["[Service] OpenFile"]),
        ("[Service]\n# why\nType=exec\nExitType=cgroup\n", ["[Service] ExitType"]),
        ("[Unit]\nType=exec\n", ["[Unit] Type"]),
        ("[Slice]\nMemoryMax=1\n[Service]\nMemoryMax=1\n", []),
        ("  content: |\n    [Resolve]\n    StaleRetentionSec=1\n", ["[Resolve] StaleRetentionSec"]),
        ("[Sluice]\nMemoryMax=1\n", ["[Sluice] MemoryMax"]),
    ],
)
def test_what_is_newer_is_found(text: str, found: list[str]) -> None:
    assert unknown(text) == found
