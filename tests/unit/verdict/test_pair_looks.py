"""The level of each look after a pair: what simulation says, at any cap, rate and prior."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pytest_llem.distributions import t_quantile
from pytest_llem.verdict.pair_looks import nominal_level


@pytest.mark.parametrize(
    ("cap", "rate", "with_prior", "without"),
    [
        # Simulated, so that the last digit printed may be off by a little more than its half.
        (10, 0.001, 0.00020, 0.00018),
        (10, 0.005, 0.00111, 0.00100),
        (10, 0.01, 0.00236, 0.00213),
        (10, 0.025, 0.00665, 0.00601),
        (10, 0.05, 0.01481, 0.01350),
        (10, 0.1, 0.0335, 0.0313),
        (10, 0.2, 0.0787, 0.0751),
        (6, 0.05, 0.02237, 0.0207),
        (6, 0.025, 0.01034, 0.0094),
        (8, 0.05, 0.0175, 0.0160),
        (8, 0.025, 0.0080, 0.0072),
        (15, 0.05, 0.0113, 0.0104),
        (15, 0.025, 0.0051, 0.0046),
    ],
)
def test_the_constants_of_a_simulation(cap: int, rate: float, with_prior: float, without: float) -> None:
    assert nominal_level(rate, 3, cap, 2) == pytest.approx(with_prior, rel=0.025)
    assert nominal_level(rate, 3, cap, 0) == pytest.approx(without, rel=0.025)


def test_all_looks_together_err_at_the_rate_asked_for() -> None:
    count, rates = 400_000, (0.005, 0.05, 0.3)
    draws = np.random.default_rng(7).standard_normal((count, 2 + 7))
    prior = (draws[:, :2] ** 2).sum(axis=1)
    crossed = np.zeros((len(rates), count), dtype=bool)
    for pairs in range(3, 8):
        differences = draws[:, 2 : 2 + pairs]
        mean = differences.mean(axis=1)
        squares = prior + (differences**2).sum(axis=1) - pairs * mean**2
        t = mean / np.sqrt(squares / (pairs + 1) / pairs)
        for i, rate in enumerate(rates):
            crossed[i] |= t > t_quantile(1 - nominal_level(rate, 3, 7, 2), pairs + 1)
    for rate, share in zip(rates, crossed.mean(axis=1), strict=True):
        assert share == pytest.approx(rate, abs=4 * math.sqrt(rate / count))


def test_one_look_costs_nothing_and_each_further_one_some_precision() -> None:
    assert nominal_level(0.05, 3, 3, 2) == 0.05
    levels = [nominal_level(0.05, 3, cap, 2) for cap in (3, 4, 5, 10, 20)]
    assert levels == sorted(levels, reverse=True)


@pytest.mark.parametrize("rate", [0.001, 0.499])
def test_the_ends_of_the_range(rate: float) -> None:
    for cap in (4, 20):
        assert rate / (cap - 2) < nominal_level(rate, 3, cap, 2) < rate
