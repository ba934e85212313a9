"""Quantiles against published tables and against simulation."""

from __future__ import annotations

import math
import random

import pytest

from pytest_llem.distributions import (
    digamma,
    f_tail,
    inverse_trigamma,
    repeated_looks_quantile,
    t_quantile,
    trigamma,
)


@pytest.mark.parametrize(
    ("probability", "degrees_of_freedom", "expected"),
    [
        # One and two degrees of freedom have closed forms; the rest are scipy.stats.t.ppf.
        (0.975, 1, math.tan(math.pi * 0.475)),
        (0.95, 2, 0.9 * math.sqrt(2 / (1 - 0.9**2))),
        (0.999999, 2, 0.999998 * math.sqrt(2 / (1 - 0.999998**2))),
        (0.975, 4, 2.7764451051977934),
        (0.95, 9, 1.833112932656237),
        (0.995, 19, 2.8609346064649794),
        (0.95, 4.7, 2.043811093013787),
        (0.975, 1e6, 1.959966356814107),
        (0.05, 9, -1.833112932656237),
        (0.5, 9, 0.0),
    ],
)
def test_t_quantile_agrees_with_tables(probability: float, degrees_of_freedom: float, expected: float) -> None:
    assert t_quantile(probability, degrees_of_freedom) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("probability", "df"), [(0.0, 9), (1.0, 9), (math.nan, 9), (0.9, 0.5), (0.9, math.nan)])
def test_t_quantile_refuses_what_has_no_answer(probability: float, df: float) -> None:
    with pytest.raises(ValueError, match="no t quantile"):
        t_quantile(probability, df)


def test_a_single_look_is_a_plain_t_quantile() -> None:
    assert repeated_looks_quantile(0.95, 9, 10, (1,)) == t_quantile(0.95, 9)


@pytest.mark.parametrize(
    ("degrees_of_freedom", "saved", "looks"),
    [(9, 10, (1, 2, 3)), (2, 3, (1, 2, 3)), (40, 1, (1, 2)), (19, 20, (1, 2, 6))],
)
def test_repeated_looks_cross_as_often_as_asked(degrees_of_freedom: int, saved: int, looks: tuple[int, ...]) -> None:
    threshold = repeated_looks_quantile(0.95, degrees_of_freedom, saved, looks)
    generator = random.Random(3)  # noqa: S311 - a simulation
    trials, crossed = 20_000, 0
    for _ in range(trials):
        spread = math.sqrt(generator.gammavariate(degrees_of_freedom / 2, 2 / degrees_of_freedom))
        baseline = generator.gauss(0, 1 / math.sqrt(saved))
        new = [generator.gauss(0, 1) for _ in range(looks[-1])]
        crossed += any(sum(new[:n]) / n - baseline > threshold * spread * math.sqrt(1 / saved + 1 / n) for n in looks)
    # The standard error of the share is 0.15%; an uncorrected t quantile would cross in 8% to 10%.
    assert crossed / trials == pytest.approx(0.05, abs=0.005)


def test_repeated_looks_threshold_of_three_looks_at_ten_saved_runs() -> None:
    assert repeated_looks_quantile(0.95, 9, 10, (1, 2, 3)) == pytest.approx(2.2492, abs=1e-4)


def test_a_well_known_spread_gives_the_normal_limit() -> None:
    nearly, fully = (repeated_looks_quantile(0.95, df, 10, (1, 2, 3)) for df in (1e4, 1e6))
    assert nearly == pytest.approx(fully, abs=1e-3)
    assert 1.645 < fully < 2.128  # one look's threshold and Bonferroni's for three, both normal


@pytest.mark.parametrize("looks", [(), (1, 2, 3, 4), (2, 1), (1, 1), (0, 1)])
def test_repeated_looks_refuses_other_schedules(looks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="looks"):
        repeated_looks_quantile(0.95, 9, 10, looks)


@pytest.mark.parametrize("probability", [0.5, 0.9999])
def test_repeated_looks_refuses_probabilities_it_cannot_integrate(probability: float) -> None:
    with pytest.raises(ValueError, match="no threshold"):
        repeated_looks_quantile(probability, 9, 10, (1, 2))


def test_polygamma_functions_at_their_closed_forms() -> None:
    euler = 0.5772156649015329
    assert digamma(1) == pytest.approx(-euler, abs=1e-9)
    assert digamma(0.5) == pytest.approx(-euler - 2 * math.log(2), abs=1e-9)
    assert digamma(20) == pytest.approx(sum(1 / k for k in range(1, 20)) - euler, abs=1e-9)
    assert trigamma(1) == pytest.approx(math.pi**2 / 6, abs=1e-9)
    assert trigamma(0.5) == pytest.approx(math.pi**2 / 2, abs=1e-9)


@pytest.mark.parametrize("x", [0.05, 0.5, 1.0, 4.5, 30.0, 5000.0])
def test_inverse_trigamma_inverts(x: float) -> None:
    assert inverse_trigamma(trigamma(x)) == pytest.approx(x, rel=1e-8)


@pytest.mark.parametrize(("ratio", "dfs"), [(3.4567, (9, 20)), (5.849, (2, 20)), (99.0, (2, 2))])
def test_the_tail_of_f_is_that_of_printed_tables(ratio: float, dfs: tuple[int, int]) -> None:
    assert f_tail(ratio, *dfs) == pytest.approx(0.01, rel=1e-3)
