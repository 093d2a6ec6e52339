"""Metrics as Prometheus' own client reads them, which is strict."""

from __future__ import annotations

from functools import lru_cache

from prometheus_client import Metric
from prometheus_client.openmetrics import parser


@lru_cache(1)  # tests ask for one family of a long text after another
def parsed(text: str) -> dict[str, Metric]:
    """The families of a text by their names. Raises ValueError for what is no OpenMetrics."""
    found = list(parser.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]
    return {each.name: each for each in found}


def values(text: str, name: str) -> dict[tuple[str, ...], float]:
    """The samples of a family, by the values of their labels."""
    return {tuple(each.labels.values()): each.value for each in parsed(text)[name].samples}
