"""pins.yml: what is accepted, what is overdue, and that nothing else is pinned or floats."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from serai.image.definition import pins
from serai.image.errors import BuildError
from serai.image.settings import Settings
from tests.conftest import ROOT

DIGEST = "0" * 64
GOOD = f"""
thing:
  version: 1.2.3
  reason: because the test wants to have one
  link: https://example.com/thing
  review: "2026-05-01"
  sha256: {{arm64: "{DIGEST}", amd64: "{DIGEST}"}}
"""


def read(checkout: Settings, text: str) -> dict[str, pins.Pin]:
    (checkout.root / "pins.yml").write_text(text)
    return pins.read(checkout)


def test_the_pins_of_this_checkout_are_whole() -> None:
    found = pins.read(Settings.of({}))
    assert {"node", "node_wheel", "python_pptx"} <= set(found)
    assert found["node"].version.startswith("22.")
    assert (found["node"].npm or "").startswith("10.")


def test_a_pin_is_overdue_after_its_date(checkout: Settings) -> None:
    found = read(checkout, GOOD)
    assert pins.overdue(found, date(2026, 5, 1)) == []
    (line,) = pins.overdue(found, date(2026, 5, 2))
    assert line == "thing 1.2.3 was to be looked at by 2026-05-01: https://example.com/thing"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("1.2.3", "latest", "thing.version is wrong"),
        ("1.2.3", "22", "thing.version is wrong"),
        ("1.2.3", "'>=1.2'", "thing.version is wrong"),
        (f', amd64: "{DIGEST}"', "", "one for any architecture"),
        (f'"{DIGEST}"', '"abc"', "thing.sha256.arm64 is wrong"),
        ("2026-05-01", "soon", "thing.review is wrong"),
        ("https://", "http://", "thing.link is wrong"),
        ("because the test wants to have one", "so", "thing.reason is wrong"),
        ("  link", "  lnk", "thing.link is wrong"),
        ("thing:", "thing: [", "pins.yml is not YAML"),
    ],
)
def test_a_wrong_pin_is_one_line(checkout: Settings, old: str, new: str, said: str) -> None:
    with pytest.raises(BuildError) as caught:
        read(checkout, GOOD.replace(old, new))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_invoke_pins_tells_and_fails_only_when_something_is_due() -> None:
    invoke = Path(sys.executable).with_name("invoke")
    done = subprocess.run([invoke, "pins"], cwd=ROOT, capture_output=True, text=True, check=False)
    late = pins.overdue(pins.read(Settings.of()), date.today())
    assert done.returncode == (1 if late else 0)
    assert len(done.stderr.splitlines()) >= len(late)


SHELLS = {
    "hardening/handlers/main.yml": ["/usr/sbin/sshd -t && systemctl try-restart ssh.service"],
}
"""The only lines for a shell: two programs that are one step, without anything from the net."""


def test_roles_neither_float_nor_pipe_the_net_into_a_shell() -> None:
    floating = re.compile(r"\blatest\b|curl[^\n]*\|\s*(ba)?sh|state: latest")
    digests = re.compile(r"\b[0-9a-f]{40,}\b")
    for path in (ROOT / "roles").glob("*/*/*.yml"):
        assert not floating.search(path.read_text()), path
        assert not digests.search(path.read_text()), f"{path}: a digest belongs into pins.yml"
        shells = SHELLS.get(str(path.relative_to(ROOT / "roles")), [])
        assert path.read_text().count("ansible.builtin.shell") == len(shells), path
        assert all(f"cmd: {each}\n" in path.read_text() for each in shells), path


def test_what_is_fetched_is_checked_against_its_pin() -> None:
    for path in (ROOT / "roles").glob("*/tasks/*.yml"):
        text = path.read_text()
        assert text.count("ansible.builtin.get_url:") == text.count("checksum: sha256:"), path
        assert text.count("      - download\n") == text.count("      - --require-hashes\n"), path
