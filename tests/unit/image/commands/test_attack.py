"""The standing attacker: what it finds to try, and that what gets through is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serai.image.commands import attack
from serai.image.errors import BuildError
from serai.image.guest.attack import __main__ as guest
from serai.image.guest.attack import attacks, rogue
from serai.image.settings import Settings

FUZZED = {"control", "http", "socks", "origin", "files", "disk", "formats", "guest"}
PAGE = """
# Security

- **Get out** by a door.
  It is shut, e.g. by a key.
  Tests: `test_door`, `test_in_a_container_alone`.
- **Break a window.**
  Tests: `test_window`.

- **Dig.** Nobody tries.
  Tests: `test_in_a_container_alone`.
"""
TESTS = '''
import os, pytest
@pytest.mark.parametrize("n", range(3))
def test_door(n): pass
@pytest.mark.parametrize("n", range(3))
def test_window(n): assert n != 1, "it is glass"
def test_fuzz_walls(record_property):
    """Walls of any stone."""
    record_property("seed", os.environ["SERAI_FUZZ_SEED"])
    record_property("cases", 1000)
'''


@pytest.fixture
def house(tmp_path: Path) -> Settings:
    """A checkout with a page and tests of its own."""
    for name in ("docs", "tests/unit", "tests/sandbox"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "docs/security.md").write_text(PAGE)
    (tmp_path / "tests/unit/test_house.py").write_text(TESTS)
    return Settings.of({"SERAI_CACHE": str(tmp_path / "cache")}, tmp_path)


def run(settings: Settings, target: str) -> int:
    return attack.attack(settings, target, seconds=1, seed="7:3")


def test_the_page_and_the_fuzz_targets_are_what_is_tried() -> None:
    known = attack.known(Settings.of({}))
    assert {each.fuzz for each in known} - {""} == FUZZED
    assert len(known) > len(FUZZED) + 40
    assert all(each.name and "\n" not in each.name for each in known)


def test_each_attack_is_a_line_and_the_status_tells_the_worst(
    house: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(house, "") == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "held: Get out by a door (1 tests)",
        "held: walls: Walls of any stone (seed 7:3, cases 1000)",
        "2 held, 1 did not",
    ]
    assert "Break a window (1 tests): test_window: failure: " in err
    assert "it is glass" in err


def test_a_target_is_a_part_of_a_name_or_what_is_fuzzed(house: Settings) -> None:
    def meant(target: str) -> list[str]:
        return [each.name for each in attack.known(house) if each.is_meant(target)]

    assert meant("") == ["Get out by a door", "Break a window", "Walls of any stone"]
    assert meant("door") == ["Get out by a door"]
    assert meant("walls") == ["Walls of any stone"]
    with pytest.raises(BuildError, match="there is no attack 'roof'"):
        run(house, "roof")


CHOSEN: dict[str, Any] = {"image": "", "build": "", "sandbox": "strict", "pool": False}


def test_there_are_three_places() -> None:
    with pytest.raises(BuildError, match="'moon'; here, container, image"):
        attack.send(Settings.of({}), "moon", "", **CHOSEN)


def test_a_name_is_no_command_of_a_shell() -> None:
    for place in ("container", "image"):
        with pytest.raises(BuildError, match="there is no attack"):
            attack.send(Settings.of({}), place, "'; reboot", **CHOSEN)


def test_the_guests_attacks_say_what_they_try_and_use_every_payload() -> None:
    assert all((each.__doc__ or "").endswith(".") for each in attacks.ATTACKS)
    source = Path(attacks.__file__).read_text()
    payloads = list(rogue.PAYLOADS.glob("*.py"))
    assert len(payloads) > 5
    assert [each.stem for each in payloads if f'"{each.stem}"' not in source] == []


def test_what_an_attack_raises_is_told_and_its_sessions_go(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(_client: object) -> str:
        """Try something."""
        raise OSError("no such thing")

    def wins(_client: object) -> str:
        """Try more."""
        return "it is mine\n"

    asked: list[str] = []

    class Attacker:
        rogue, witness = "rogue", "witness"

        def __init__(self, **_: object) -> None:
            pass

        def __enter__(self) -> Attacker:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def call(self, method: str, **_: object) -> dict[str, list[object]]:
            asked.append(method)
            return {"sessions": []}

    monkeypatch.setattr(guest, "Attacker", Attacker)
    monkeypatch.setattr(guest, "Client", Attacker)
    monkeypatch.setattr(guest, "faults", lambda _since: "")
    monkeypatch.setattr(guest, "ATTACKS", (fails, wins))
    assert guest.main("strict", "cold", "") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "fails: Try something. got through: 'OSError: no such thing'",
        "wins: Try more. got through: 'it is mine'",
    ]
    assert asked.count("create") == asked.count("remove") == 4
