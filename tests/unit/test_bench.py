"""Budgets: what is compared with what."""

from __future__ import annotations

from typing import Any

import pytest

from serai.image import bench, measure
from serai.image.errors import BuildError
from serai.image.settings import Settings


def measured(name: str, value: float, baseline: float | None) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": "ms", "baseline": baseline}


@pytest.mark.parametrize(
    ("name", "value", "baseline", "ok"),
    [
        ("create", 24.0, 4.0, True),
        ("create", 24.1, 4.0, False),
        ("idle memory", 8.0, None, True),
        ("idle memory", 8.1, None, False),
        ("exec, streamed", 1000.0, 1.0, None),
    ],
)
def test_a_budget_is_a_ratio_or_without_a_baseline_a_value(
    name: str, value: float, baseline: float | None, ok: bool | None
) -> None:
    row = bench.judged(measured(name, value, baseline))
    assert row.ok is ok
    assert (row.ratio is None) is (baseline is None)


def test_every_budget_is_measured_by_that_name() -> None:
    assert set(bench.GROUPS) == set(measure.GROUPS)
    assert f"create, {measure.ARCHIVED:,} archived" in bench.BUDGETS
    assert f"archive, {measure.MANY:,} files" in bench.BUDGETS


def test_an_unknown_group_is_told(checkout: Settings) -> None:
    with pytest.raises(BuildError, match=r"no group 'speed'; there are memory, start"):
        bench.bench(checkout, only="speed", check=False)
