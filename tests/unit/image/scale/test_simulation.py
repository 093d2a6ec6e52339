"""Fleets that are played: the same seed gives the same, and what helps is seen to help."""

from __future__ import annotations

import math
from dataclasses import replace

from serai.image.scale.simulation import Death, Placement, died, placed

FEW = Placement(100, 50, lifetime=600.0)


def test_the_same_seed_gives_the_same() -> None:
    assert placed(FEW, 7) == placed(FEW, 7)
    assert placed(FEW, 7) != placed(FEW, 8)


def test_a_second_offer_makes_the_loads_even() -> None:
    one, two, three = (placed(replace(FEW, choices=count)) for count in (1, 2, 3))
    assert one.deviation > 2 * two.deviation > 2 * three.deviation


def test_old_loads_make_a_burst_uneven_and_counted_offers_help() -> None:
    burst = replace(FEW, burst=0.3, offered=0.0)
    fresh, old = placed(burst), placed(replace(burst, stale=5.0))
    counted = placed(replace(burst, stale=5.0, offered=2.0))
    assert fresh.fullest < counted.fullest < old.fullest


DEATH = Death(30_000, connect=0.002, processors=4)


def test_connections_that_are_given_up_too_early_never_come() -> None:
    """5 s of work for four processors: nobody is ready after 2 s, and all begin again."""
    impatient = died(replace(DEATH, patience=2.0, spread=0.0, wait=(1.0, 1.0)))
    assert impatient.connected == math.inf
    assert impatient.tries > 10
    patient = died(DEATH)
    assert patient.tries == 1
    assert 5.0 <= patient.connected < 6.0


def test_who_comes_late_finds_the_servers_free() -> None:
    assert died(replace(DEATH, spread=20.0)).connected < 20.1


def test_a_heartbeat_outlives_the_time_without_a_leader() -> None:
    assert died(DEATH).gone == 0
    short = died(replace(DEATH, dead=12.0))
    assert 0 < short.gone < 1
    assert short.oldest <= 9 + 5 + 3  # without a leader, since the last one, until tried again
