"""Change points: found where they are, and no more often than stated where there are none."""

from __future__ import annotations

import math
import random

import pytest

from pytest_llem.verdict.change_points import change_points
from pytest_llem.verdict.spread import Spread

SPREAD = 0.007


def history(generator: random.Random, levels: list[tuple[int, float]]) -> list[float]:
    """Runs about each level in turn."""
    return [level * math.exp(generator.gauss(0, SPREAD)) for count, level in levels for _ in range(count)]


@pytest.mark.parametrize("runs", [6, 20, 60])
@pytest.mark.parametrize("spread", [None, Spread(SPREAD, 30.0)])
def test_false_alarms_are_no_more_frequent_than_stated(runs: int, spread: Spread | None) -> None:
    generator = random.Random(runs)  # noqa: S311
    count = 3000 if runs < 60 else 600
    alarms = sum(bool(change_points(history(generator, [(runs, 100.0)]), spread, alpha=0.05)) for _ in range(count))
    # Bonferroni's bound, and four standard errors of the simulation; none at all would be a test that finds nothing.
    assert 0 < alarms / count < 0.05 + 4 * math.sqrt(0.05 * 0.95 / count)


def test_a_shift_of_five_percent_is_nearly_always_found_within_a_run() -> None:
    generator = random.Random(1)  # noqa: S311
    found = [change_points(history(generator, [(10, 100.0), (10, 105.0)])) for _ in range(200)]
    assert sum(len(one) == 1 and abs(one[0].index - 10) <= 1 for one in found) >= 190
    assert sum(one[0].interval[0] <= 0.05 <= one[0].interval[1] for one in found if one) >= 180


def test_several_shifts_each_against_the_stretch_before() -> None:
    runs = history(random.Random(2), [(8, 100.0), (8, 110.0), (8, 99.0)])  # noqa: S311
    first, second = change_points(runs)
    assert (first.index, second.index) == (8, 16)
    assert first.change == pytest.approx(0.10, abs=0.01)
    assert second.change == pytest.approx(-0.10, abs=0.01)


def test_a_shift_that_was_taken_back_does_not_hide_itself() -> None:
    runs = history(random.Random(3), [(10, 100.0), (4, 108.0), (10, 100.0)])  # noqa: S311
    assert [one.index for one in change_points(runs)] == [10, 14]


def test_a_staircase() -> None:
    levels = [(6, 100 * 1.1**step) for step in range(8)]
    runs = history(random.Random(4), levels)  # noqa: S311
    assert [one.index for one in change_points(runs)] == [6, 12, 18, 24, 30, 36, 42]


def test_an_outlier_is_no_level() -> None:
    assert change_points([100.0, 100.1, 99.9, 100.0, 150.0, 100.1, 99.9, 100.0]) == []


@pytest.mark.parametrize("factor", [1.3, 0.5])
@pytest.mark.parametrize("at", [0, 5, 18, 23])
def test_an_outlier_does_not_hide_a_shift(factor: float, at: int) -> None:
    generator = random.Random(5)  # noqa: S311
    for _ in range(50):
        runs = [level * math.exp(generator.gauss(0, 0.004)) for level in [100.0] * 12 + [103.0] * 12]
        runs[at] *= factor
        # Now and then there is a false alarm beside it, as often as stated.
        nearest = min(change_points(runs), key=lambda one: abs(one.index - 12))
        assert abs(nearest.index - 12) <= 1
        # Nor does it count in the levels.
        assert nearest.change == pytest.approx(0.03, abs=0.01)


def test_two_outliers_of_unlike_size_do_not_hide_a_shift() -> None:
    runs = [100.0, 100.3, 99.7] * 4 + [103.0, 103.3, 102.7] * 4
    runs[4:6] = [130.0, 131.0]
    runs[20] = 110.0
    assert [one.index for one in change_points(runs)] == [12]


def test_a_shift_is_no_outlier_once_it_lasts() -> None:
    steady = [100.0, 100.3, 99.7] * 4
    assert change_points([*steady, 103.0, 103.2]) == []
    assert [one.index for one in change_points([*steady, 103.0, 103.2, 102.9])] == [12]


def test_too_few_runs_say_nothing() -> None:
    assert change_points([]) == []
    assert change_points([100.0, 100.0, 200.0, 200.0, 200.0]) == []


def test_a_short_history_relies_on_the_suite() -> None:
    runs = [100.0, 101.2, 98.8, 102.4, 103.6, 102.0]
    assert change_points(runs) == []
    assert [one.index for one in change_points(runs, Spread(SPREAD, 100.0))] == [3]


def test_runs_without_any_scatter() -> None:
    assert change_points([5.0] * 10) == []
    (only,) = change_points([5.0] * 5 + [6.0] * 5)
    assert only.index == 5
    assert only.change == pytest.approx(0.2)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_what_is_no_mean(bad: float) -> None:
    with pytest.raises(ValueError, match="positive and finite"):
        change_points([1.0, bad])


def test_alpha_is_a_probability() -> None:
    with pytest.raises(ValueError, match="alpha"):
        change_points([1.0], alpha=0.0)
