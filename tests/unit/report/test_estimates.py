"""Intervals of latencies and of ratios."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from pytest_llem.report.estimates import Estimate, Ratio, energy, latency, ratio
from tests.unit.report.examples import result


def test_latency_has_the_interval_of_a_mean_of_rounds() -> None:
    estimate = latency(result(latency_s=2.0))
    assert estimate is not None
    assert estimate.value == 2.0
    # Four rounds: t(0.975, 3) = 3.182446; standard deviation of the calls' seconds 2 * 0.001 * sqrt(2/3).
    assert estimate.half_width == pytest.approx(3.182446 * 2 * 0.001 * math.sqrt(2 / 3) / 2, rel=1e-5)


def test_energy_keeps_what_the_result_states() -> None:
    assert energy(result(100.0)) == Estimate(100.0, 2.0, 3)
    assert energy(result(100.0, energy_uncertainty_j=None)) == Estimate(100.0, None, 3)
    assert energy(result(None)) is None


def test_ratio_of_two_with_normal_uncertainties() -> None:
    found = ratio(Estimate(200.0, 3.92, math.inf), Estimate(100.0, 1.96, math.inf))
    assert found is not None
    assert found.value == 2.0
    assert found.interval is not None
    # Each has a relative standard uncertainty of 1%.
    factor = math.exp(1.959964 * 0.01 * math.sqrt(2))
    assert found.interval == pytest.approx((2 / factor, 2 * factor), rel=1e-5)


def test_ratio_without_an_interval_or_at_all() -> None:
    known, vague = Estimate(10.0, 1.0, 5), Estimate(5.0, None, 5)
    assert ratio(known, vague) == Ratio(2.0, None)
    assert ratio(known, None) is None
    assert ratio(known, Estimate(0.0, 1.0, 5)) is None
    assert ratio(Estimate(3.0, 0.0, 5), Estimate(3.0, 0.0, 5)) == Ratio(1.0, (1.0, 1.0))


def test_the_interval_holds_the_ratio_as_often_as_it_says() -> None:
    generator = random.Random(1)  # noqa: S311
    held, count = 0, 2000
    for _ in range(count):
        sides = []
        for mean, rounds in ((300.0, 10), (100.0, 4)):
            values = [generator.gauss(mean, 0.02 * mean) for _ in range(rounds)]
            quantile = {10: 2.262157, 4: 3.182446}[rounds]
            half_width = quantile * statistics.stdev(values) / math.sqrt(rounds)
            sides.append(Estimate(statistics.fmean(values), half_width, rounds - 1))
        found = ratio(*sides)
        assert found is not None
        assert found.interval is not None
        held += found.interval[0] <= 3 <= found.interval[1]
    assert 0.94 <= held / count <= 0.97
