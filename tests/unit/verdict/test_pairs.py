"""Verdicts by pairs of processes: the formula, the order of its rules, its error rates, what it cannot judge."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys

import numpy as np
import pytest

from pytest_llem.distributions import t_quantile
from pytest_llem.verdict import Spread, Status, judge_pairs
from pytest_llem.verdict.pairs import Pair, detectable_by_pairs, expected_spread, pair_difference, spread_of_pairs

QUIET = [100.0] * 8


def pairs_at(*log_ratios: float) -> list[Pair]:
    """Pairs of windows without scatter, with these logarithms of their ratios."""
    return [([100 * math.exp(ratio)] * 8, QUIET) for ratio in log_ratios]


def test_the_interval_is_that_of_the_formula() -> None:
    log_ratios = [0.031, 0.042, 0.035, 0.052]
    verdict = judge_pairs(pairs_at(*log_ratios))
    mean = sum(log_ratios) / 4
    s = math.sqrt((2 * 0.02**2 + sum((ratio - mean) ** 2 for ratio in log_ratios)) / 5)
    # Quantiles of Student's t with five degrees of freedom at 1 - 0.014762 and 1 - 0.006652.
    low, high = math.expm1(mean - 3.016 * s / 2), math.expm1(mean + 3.747 * s / 2)
    assert verdict.interval == pytest.approx((low, high), abs=1e-4)
    assert verdict.change == pytest.approx(math.expm1(mean))
    assert verdict.spread is not None
    assert verdict.spread.relative == pytest.approx(s)
    assert verdict.spread.degrees_of_freedom == 5
    assert (verdict.runs, verdict.saved) == (4, 4)
    # After ten pairs t is 2.498 (0.014762, 11 degrees of freedom), and 0.876 is its quantile at 0.8.
    detectable = math.expm1(math.log(1.025) + (2.498 + 0.876) * s / math.sqrt(10))
    assert verdict.detectable_change == pytest.approx(detectable, abs=1e-4)
    assert verdict.detectable_change == detectable_by_pairs(verdict.spread, "2.5%..5%", 10)


@pytest.mark.parametrize(
    ("log_ratio", "expected"),
    [
        (0.0, Status.OK),
        (0.02, Status.INCONCLUSIVE),
        (0.06, Status.REGRESSED),
        (-0.03, Status.INCONCLUSIVE),
        (-0.07, Status.IMPROVED),
    ],
)
def test_each_status_after_three_pairs(log_ratio: float, expected: Status) -> None:
    verdict = judge_pairs(pairs_at(*[log_ratio] * 3))
    assert verdict.status is expected
    assert verdict.needs_more_runs is (expected is Status.INCONCLUSIVE)


def test_an_improvement_does_not_end_as_ok_before_the_last_pair() -> None:
    # Its highest change is far below the limit, but it may well be an improvement of 5%.
    early = judge_pairs(pairs_at(-0.03, -0.045, -0.02))
    assert early.interval is not None
    assert early.interval[1] < 0.05
    assert early.status is Status.INCONCLUSIVE
    assert early.needs_more_runs
    assert "improvement" in early.reason
    last = judge_pairs(pairs_at(-0.03, -0.045, -0.02), max_pairs=3)
    assert last.status is Status.OK


def test_a_regression_above_a_wide_limit_comes_before_ok() -> None:
    # Both surely above 1% and surely below 50%.
    assert judge_pairs(pairs_at(*[0.1] * 4), "1%..50%").status is Status.REGRESSED
    assert judge_pairs(pairs_at(*[-0.1] * 4), "1%..50%").status is Status.IMPROVED


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_pairs_show_the_estimate_and_decide_nothing(count: int) -> None:
    verdict = judge_pairs(pairs_at(*[0.5] * count))
    assert (verdict.status, verdict.interval, verdict.detectable_change) == (Status.INCONCLUSIVE, None, None)
    assert verdict.change == pytest.approx(math.expm1(0.5))
    assert verdict.needs_more_runs
    assert f"{count} of at least 3 pairs" in verdict.reason


def test_without_pairs_nothing_is_known() -> None:
    for limit in ("5%", "5%;rule=point"):
        verdict = judge_pairs([], limit)
        assert (verdict.status, verdict.change, verdict.needs_more_runs) == (Status.INCONCLUSIVE, None, True)


@pytest.mark.parametrize("max_pairs", [3, 6, 15])
def test_pairs_are_asked_for_up_to_the_cap_only(max_pairs: int) -> None:
    scattered = [0.08, -0.02, 0.05, 0.09, -0.01]
    for count in (max_pairs - 1, max_pairs, max_pairs + 2):
        verdict = judge_pairs(pairs_at(*[scattered[i % 5] for i in range(count)]), max_pairs=max_pairs)
        assert verdict.status is Status.INCONCLUSIVE
        assert verdict.needs_more_runs is (count < max_pairs)


def test_a_larger_cap_widens_the_interval() -> None:
    def low(max_pairs: int) -> float:
        verdict = judge_pairs(pairs_at(0.01, 0.02, 0.03), max_pairs=max_pairs)
        assert verdict.interval is not None
        return verdict.interval[0]

    assert low(3) > low(6) > low(10) > low(30)
    assert low(3) == pytest.approx(math.expm1(0.02 - t_quantile(0.95, 4) * math.sqrt(2.5e-4) / math.sqrt(3)))


def test_pairs_beyond_the_cap_count_as_further_looks() -> None:
    pairs = pairs_at(*[0.02, 0.04, 0.03] * 4)
    assert judge_pairs(pairs, max_pairs=4) == judge_pairs(pairs, max_pairs=12)


def test_the_estimate_alone_decides_from_the_first_pair_on() -> None:
    for log_ratio, status in ((0.06, Status.REGRESSED), (0.04, Status.OK), (-0.06, Status.IMPROVED)):
        verdict = judge_pairs(pairs_at(log_ratio), "5%;rule=point")
        assert (verdict.status, verdict.interval, verdict.needs_more_runs) == (status, None, False)
    assert judge_pairs(pairs_at(0.06, 0.0), "5%;rule=point").status is Status.OK


@pytest.mark.parametrize("bad", [[], [100.0, 0.0], [math.nan], [math.inf], [-1.0]])
@pytest.mark.parametrize("limit", ["5%", "5%;rule=point"])
def test_a_pair_that_cannot_count_is_not_left_out(bad: list[float], limit: str) -> None:
    pairs = pairs_at(*[0.2] * 5)
    for broken in ((bad, QUIET), (QUIET, bad)):
        verdict = judge_pairs([*pairs[:1], broken, *pairs], limit)
        assert (verdict.status, verdict.change, verdict.needs_more_runs) == (Status.INCONCLUSIVE, None, False)
        assert "pair 2" in verdict.reason
        # However few there are: more of them decide nothing.
        assert not judge_pairs([*pairs[:1], broken], limit).needs_more_runs
        assert spread_of_pairs([*pairs, broken]) is None
        assert pair_difference(*broken) is None


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="max_pairs"):
        judge_pairs([], max_pairs=2)
    with pytest.raises(ValueError, match="error rates"):
        judge_pairs([], alpha=0.5)
    with pytest.raises(ValueError, match="error rates"):
        judge_pairs([], beta=0.0001)
    with pytest.raises(ValueError, match="no limit"):
        judge_pairs([], "5")
    with pytest.raises(ValueError, match="3 pairs"):
        detectable_by_pairs(Spread(0.01, 4), "5%", 2)


@pytest.mark.parametrize(("deviation", "pairs"), [(0.01, 3), (0.01, 10), (0.028, 3), (0.028, 10)])
def test_what_is_announced_before_any_pair_is_found_four_times_in_five(deviation: float, pairs: int) -> None:
    change = math.log1p(detectable_by_pairs(expected_spread(deviation, pairs), "2.5%..5%", pairs))
    generator = random.Random(1)  # noqa: S311  (nothing is to be kept secret)
    looks = [
        judge_pairs(pairs_at(*(generator.gauss(change, deviation) for _ in range(pairs)))).status for _ in range(400)
    ]
    # Quiet pairs find somewhat more than is said: their own scatter is smaller than what they are taken to differ by.
    assert 0.74 < looks.count(Status.REGRESSED) / len(looks) < 0.97


def test_a_side_counts_with_its_mean_so_that_scatter_is_no_improvement() -> None:
    assert pair_difference([50.0, 150.0], [100.0, 100.0]) == pytest.approx(0.0, abs=1e-12)


def drifting_pairs() -> list[Pair]:
    """Equal code on a board that drifts by 10% within each pair; ABBA, BAAB and so on by turns."""
    pairs: list[Pair] = []
    for number in range(3):
        turns = [number % 2, 1 - number % 2, 1 - number % 2, number % 2] * 4
        values = [100 * math.exp(0.1 * i / 15) for i in range(16)]
        sides = tuple([v for v, turn in zip(values, turns, strict=True) if turn == side] for side in (0, 1))
        pairs.append((sides[0], sides[1]))
    return pairs


def test_a_drift_cancels_in_blocks() -> None:
    spread = spread_of_pairs(drifting_pairs())
    assert spread is not None
    assert spread.relative == pytest.approx(math.sqrt(2 * 0.02**2 / 4), rel=1e-3)
    assert judge_pairs(drifting_pairs()).change == pytest.approx(0.0, abs=1e-4)
    # The same windows, said to be measured one process after the other, look as if they scattered.
    apart = spread_of_pairs(drifting_pairs(), interleaved=False)
    assert apart is not None
    assert apart.relative > 1.2 * spread.relative


def test_windows_that_scatter_widen_the_spread() -> None:
    noisy = [100.0, 110.0, 90.0, 100.0, 95.0, 105.0, 110.0, 90.0]
    blocks = [math.log(sum(noisy[i : i + 2]) / 200) for i in range(0, 8, 2)]
    by_windows = float(np.var(blocks, ddof=1)) / 4
    spread = spread_of_pairs([(noisy, QUIET)] * 3)
    assert spread is not None
    assert spread.relative == pytest.approx(math.sqrt(2 * (0.02**2 + by_windows) / 4))
    # Too few or unequal windows for blocks: from the windows' own variance.
    short = spread_of_pairs([([90.0, 110.0], [100.0, 100.0, 100.0])] * 3)
    assert short is not None
    assert short.relative == pytest.approx(math.sqrt(2 * (0.02**2 + 0.02 / 2) / 4))


def test_one_window_a_side_says_nothing_of_its_own_scatter() -> None:
    single = spread_of_pairs([([100.0], [100.0])] * 2 + [([90.0, 110.0], [90.0, 110.0])])
    both = spread_of_pairs([([90.0, 110.0], [90.0, 110.0])] * 3)
    assert single == both


def test_the_error_rates_and_the_number_of_pairs() -> None:
    """A spread between processes of 0.7%: all that is promised, in 400 sessions each."""
    generator = np.random.default_rng(11)

    def session(change: float) -> tuple[Status, int]:
        pairs: list[Pair] = []
        while True:
            this, other = np.exp(generator.normal(0, 0.007, (2, 1)) + generator.normal(0, 0.003, (2, 8)))
            pairs.append(((this * (1 + change)).tolist(), other.tolist()))
            verdict = judge_pairs(pairs)
            if not verdict.needs_more_runs:
                return verdict.status, len(pairs)

    expected = {0.0: (Status.OK, 3.3), 0.05: (Status.REGRESSED, 4.6), -0.05: (Status.IMPROVED, 5.3)}
    for change, (status, most_pairs) in expected.items():
        found = [session(change) for _ in range(400)]
        assert sum(each is status for each, _ in found) >= 396
        assert sum(pairs for _, pairs in found) / 400 <= most_pairs
    at_tolerance = [session(0.025)[0] for _ in range(400)]
    assert at_tolerance.count(Status.REGRESSED) <= 20


def test_importing_it_imports_no_numpy_and_plain_numbers_come_out() -> None:
    code = "import sys; from pytest_llem.verdict import judge_pairs; print('numpy' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "False"
    verdict = judge_pairs(np.full((3, 2, 8), 100.0))
    assert json.loads(json.dumps([verdict.change, verdict.interval, verdict.detectable_change, verdict.reason]))
