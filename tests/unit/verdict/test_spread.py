"""How much runs differ: the pool of a suite, and how much a single run counts."""

from __future__ import annotations

import math
import random

import pytest

from pytest_llem.verdict.spread import (
    Spread,
    between_run_spread,
    log_mean,
    pooled_spread,
    run_weights,
    summarize,
)


def suite(spreads: list[float], saved: int, seed: int = 0) -> list[list[list[float]]]:
    """Histories of single-round runs around means of their own, with the given relative spreads."""
    generator = random.Random(seed)  # noqa: S311 - a simulation
    return [
        [[10.0 ** (i % 3) * math.exp(generator.gauss(0, spread))] for _ in range(saved)]
        for i, spread in enumerate(spreads)
    ]


def test_a_run_counts_with_the_mean_of_its_rounds() -> None:
    (run,) = summarize([[2.0, 4.0, 6.0]])
    assert math.exp(run.log_mean) == pytest.approx(4)
    assert run.rounds == 3
    assert run.variance == pytest.approx(4 / 16)


@pytest.mark.parametrize("scale", [1e-310, 1e-300, 1e307])
def test_extreme_units_neither_overflow_nor_vanish(scale: float) -> None:
    (run,) = summarize([[scale, 2 * scale, 3 * scale]])
    assert run.log_mean == pytest.approx(math.log(2) + math.log(scale))
    assert run.variance == pytest.approx(0.25)


@pytest.mark.parametrize("run", [[], [math.nan], [1.0, math.inf], [1.0, 0.0], [3.0, -1.0]])
def test_runs_that_are_no_measurement_are_left_out(run: list[float]) -> None:
    assert [summary.rounds for summary in summarize([[1.0, 1.0], run])] == [2]


def test_alike_experiments_pool_all_their_degrees_of_freedom() -> None:
    spread = pooled_spread(suite([0.007] * 200, saved=3))
    assert spread is not None
    assert spread.relative == pytest.approx(0.007, rel=0.1)
    assert spread.degrees_of_freedom >= 30


def test_unlike_experiments_say_little_about_one_another() -> None:
    spread = pooled_spread(suite([0.003 * 10 ** (i / 99) for i in range(100)], saved=10))
    assert spread is not None
    assert 0.003 < spread.relative < 0.03
    assert 1 < spread.degrees_of_freedom < 6


def test_one_history_pools_to_its_own_spread() -> None:
    spread = pooled_spread([[[100.0], [101.0], [102.0]], [[5.0]], []])
    assert spread is not None
    assert spread.relative == pytest.approx(1 / 101, rel=0.01)
    assert spread.degrees_of_freedom == 2


def test_no_history_pools_to_nothing() -> None:
    assert pooled_spread([]) is None
    assert pooled_spread([[[1.0]], [[2.0]]]) is None


def test_a_pool_steadies_a_short_history_without_counting_it_twice() -> None:
    saved = summarize([[100.0], [100.0], [103.0]])
    own = between_run_spread(saved, None)
    both = between_run_spread(saved, Spread(0.005, 40))
    assert own is not None
    assert both is not None
    assert own.degrees_of_freedom == 2
    assert both.degrees_of_freedom == 40
    assert both.relative == pytest.approx(math.sqrt((2 * own.relative**2 + 40 * 0.005**2) / 42))


def test_too_little_is_no_spread() -> None:
    assert between_run_spread(summarize([[100.0], [101.0]]), None) is None
    assert between_run_spread(summarize([[100.0]]), Spread(0.01, 1.5)) is None
    assert between_run_spread(summarize([[100.0]]), Spread(0.01, 2)) is not None


def test_equal_saved_means_are_not_taken_for_perfect_repeatability() -> None:
    quantised = between_run_spread(summarize([[100.0]] * 5), None)
    noisy_rounds = between_run_spread(summarize([[98.0, 102.0], [102.0, 98.0], [98.0, 102.0]]), None)
    assert quantised is not None
    assert noisy_rounds is not None
    assert quantised.relative == pytest.approx(1e-4)
    assert noisy_rounds.relative == pytest.approx(math.sqrt(0.0008 / 2))


def test_weights_of_usual_short_and_disturbed_runs() -> None:
    saved = summarize([[99.0, 101.0] * 5, [98.0, 102.0] * 5, [99.0, 101.0] * 5])
    usual, short, disturbed = run_weights(
        summarize([[99.0, 101.0] * 5, [100.0], [100.0] * 9 + [200.0]]), saved, spread=0.005
    )
    assert usual == 1
    assert 0.05 < short < 0.2
    assert disturbed < 0.01


def test_single_rounds_all_count_the_same() -> None:
    saved = summarize([[99.0], [100.0], [101.0]])
    assert run_weights(summarize([[100.0], [105.0]]), saved, spread=0.01) == [1, 1]


def test_the_mean_of_runs_counts_each_run_once() -> None:
    assert log_mean(summarize([[1.0] * 9, [math.e**2]])) == pytest.approx(1)
