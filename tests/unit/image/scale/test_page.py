"""docs/scale.md has the tables that its figures make, and what is computed follows from them."""

from __future__ import annotations

import json
import math

import pytest

from serai.image.errors import BuildError
from serai.image.scale import measure, model, page, scale, simulation
from serai.image.settings import Settings
from tests.conftest import ROOT

KEPT = json.loads((ROOT / page.FILE).read_text())


def test_the_page_has_the_tables_of_its_figures() -> None:
    text = (ROOT / page.PAGE).read_text()
    assert page.written(text, KEPT) == text, "run 'invoke scale --only simulation'"


def test_what_is_simulated_is_what_the_file_has() -> None:
    few = ("three offers, of three VMs",)
    assert set(KEPT["placement"]) == set(page.PLACEMENTS)
    for what in few:
        found = simulation.placed(page.PLACEMENTS[what])
        assert page.kept(found) == KEPT["placement"][what]
    deaths = page.deaths(KEPT["measured"])
    assert set(KEPT["deaths"]) == set(deaths)
    assert KEPT["deaths"]["1,000 VMs"] == page.kept(simulation.died(deaths["1,000 VMs"]))


def test_a_page_without_a_place_for_a_table_is_an_error() -> None:
    with pytest.raises(BuildError, match="no place for the table"):
        page.written("# Scale\n", KEPT)


def test_a_figure_that_is_missing_is_named() -> None:
    measured = {**KEPT["measured"]}
    del measured["claim: alone, ms"], measured["claim: CPU of all servers, µs"]
    with pytest.raises(BuildError, match="no figure 'claim: CPU of all servers, µs'"):
        page.written((ROOT / page.PAGE).read_text(), {**KEPT, "measured": measured})


def test_ten_times_the_vms_are_ten_times_the_load() -> None:
    one, ten = (model.loads(KEPT["measured"], vms) for vms in (1_000, 10_000))
    assert [each.what for each in one] == [each.what for each in ten]
    for few, many in zip(one, ten, strict=True):
        assert many.processors == pytest.approx(10 * few.processors)
        assert many.megabits == pytest.approx(10 * few.megabits)
    beats = next(each for each in one if each.what == "heartbeat")
    assert beats.each_second == 1_000 / 5


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.01234, "0.012"), (1.005, "1.00"), (12.34, "12.3"), (1234, "1,230")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert page.number(value) == text
    assert page.number(math.inf) == "never"


def test_every_group_is_measured() -> None:
    assert set(scale.MEASURED) == set(measure.GROUPS)


def test_an_unknown_group_is_refused() -> None:
    with pytest.raises(BuildError, match="there is no group 'speed'"):
        scale.scale(Settings.of(), "speed")
