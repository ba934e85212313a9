"""Verdicts: each word where it belongs, and the error rates that the rule promises."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_llem.verdict.decision import Spread, Status, Verdict, judge, pooled_spread
from pytest_llem.verdict.limits import Limit, parse_limit

HISTORY = [[mean * (1 + 0.01 * sign) for sign in (-1, 0, 1)] for mean in (99, 100, 101, 99.5, 100.5, 100, 100, 99)]


def run_at(level: float) -> list[float]:
    """A run with the usual scatter of rounds and this mean."""
    return [level * 0.99, level, level * 1.01]


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (85, Status.IMPROVED),
        (95, Status.IMPROVED),
        (98.5, Status.OK),
        (100, Status.OK),
        (104, Status.INCONCLUSIVE),
        (115, Status.REGRESSED),
    ],
)
def test_one_run_against_eight(level: float, expected: Status) -> None:
    verdict = judge(HISTORY, [run_at(level)])
    assert verdict.status is expected
    assert verdict.change is not None
    assert verdict.interval is not None
    assert verdict.change == pytest.approx(level / 99.87 - 1, abs=1e-3)
    assert verdict.interval[0] < verdict.change < verdict.interval[1]
    assert (verdict.runs, verdict.saved, verdict.limit) == (1, 8, Limit(0.025, 0.05))
    assert verdict.needs_more_runs is (expected is Status.INCONCLUSIVE)


def test_runs_may_come_in_any_container() -> None:
    numpy = pytest.importorskip("numpy")
    expected = judge(HISTORY, [run_at(115)])
    assert judge(numpy.array(HISTORY), numpy.array([run_at(115)])) == expected
    assert judge(tuple(map(tuple, HISTORY)), (tuple(run_at(115)),)) == expected
    assert judge((run for run in HISTORY), (run for run in [run_at(115)])) == expected
    assert judge(numpy.array(HISTORY), numpy.empty((0, 3))) == judge(HISTORY, [])


def test_the_status_is_the_plain_word() -> None:
    assert judge([], []).status == "NO-BASELINE"
    assert str(judge(HISTORY, [run_at(115)]).status) == "REGRESSED"


def test_the_interval_is_that_of_the_formula() -> None:
    history = [[100.0], [101.0], [99.0], [100.5]]
    verdict = judge(history, [[103.0]], max_runs=1, alpha=0.05, beta=0.025)
    logs = [math.log(value) for (value,) in history]
    mean = sum(logs) / 4
    spread = math.sqrt(sum((value - mean) ** 2 for value in logs) / 3)
    standard_error = spread * math.sqrt(1 / 4 + 1)
    # Quantiles of Student's t with three degrees of freedom at 0.95 and 0.975.
    low = math.expm1(math.log(103) - mean - 2.3533634348 * standard_error)
    high = math.expm1(math.log(103) - mean + 3.1824463053 * standard_error)
    detectable = math.expm1(math.log(1.025) + (2.3533634348 + 3.1824463053) * standard_error)
    assert verdict.interval == pytest.approx((low, high), rel=1e-6)
    assert verdict.detectable_change == pytest.approx(detectable, rel=1e-6)
    assert verdict.spread is not None
    assert verdict.spread.relative == pytest.approx(spread)
    assert verdict.spread.degrees_of_freedom == 3


def test_more_looks_widen_the_interval_and_more_runs_narrow_it() -> None:
    def width(runs: int, max_runs: int) -> float:
        verdict = judge(HISTORY, [run_at(100)] * runs, max_runs=max_runs)
        assert verdict.interval is not None
        return verdict.interval[1] - verdict.interval[0]

    assert width(1, 1) < width(1, 2) < width(1, 3)
    assert width(3, 3) < width(2, 3) < width(1, 3)


def test_more_runs_are_asked_for_up_to_the_cap_only() -> None:
    def verdict(runs: int, max_runs: int) -> Verdict:
        return judge(HISTORY[:4], [run_at(103.5)] * runs, max_runs=max_runs)

    assert [verdict(runs, 3).status for runs in (1, 2, 3)] == [Status.INCONCLUSIVE] * 3
    assert [verdict(runs, 3).needs_more_runs for runs in (1, 2, 3)] == [True, True, False]
    assert [verdict(runs, 2).needs_more_runs for runs in (1, 2)] == [True, False]


def test_more_runs_than_asked_for_are_used() -> None:
    few = judge(HISTORY, [run_at(104)] * 3)
    many = judge(HISTORY, [run_at(104)] * 12)
    assert few.interval is not None
    assert many.interval is not None
    assert many.interval[0] > few.interval[0]


def test_before_measuring_it_tells_what_can_be_caught() -> None:
    before = judge(HISTORY, [])
    assert before.status is Status.INCONCLUSIVE
    assert before.needs_more_runs
    assert before.change is None
    assert before.interval is None
    after = judge(HISTORY, [run_at(100)] * 3)
    assert before.detectable_change == pytest.approx(after.detectable_change)


def test_no_history_is_no_baseline() -> None:
    verdict = judge([], [run_at(100)], pooled_spread=Spread(0.01, 50))
    assert verdict.status is Status.NO_BASELINE
    assert (verdict.change, verdict.interval, verdict.detectable_change) == (None, None, None)
    assert not verdict.needs_more_runs


@pytest.mark.parametrize("saved", [1, 2])
def test_a_short_history_gates_nothing_but_shows_the_estimate(saved: int) -> None:
    verdict = judge([run_at(100)] * saved, [run_at(150)])
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.change == pytest.approx(0.5)
    assert verdict.interval is None
    assert not verdict.needs_more_runs
    assert f"{saved} of at least 3 saved runs" in verdict.reason


def test_a_pooled_spread_lets_a_short_history_gate() -> None:
    pool = Spread(0.007, 38)
    assert judge([run_at(100)], [run_at(110)], pooled_spread=pool).status is Status.REGRESSED
    assert judge([run_at(100)], [run_at(100)], pooled_spread=pool).status is Status.OK


def test_equal_saved_values_raise_no_alarm_over_rounding() -> None:
    verdict = judge([[100.0]] * 10, [[100.0 * (1 + 1e-12)]], "0%..5%")
    assert verdict.status is Status.OK
    assert judge([[100.0]] * 10, [[130.0]]).status is Status.REGRESSED


def test_a_disturbed_run_raises_no_alarm_alone() -> None:
    history = [run_at(level) * 4 for level in (99, 100, 101, 100, 99.5, 100.5)]
    disturbed = run_at(100) * 3 + [100.0, 100.0, 300.0]
    verdict = judge(history, [disturbed])
    assert verdict.change is not None
    assert verdict.change > 0.15
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.needs_more_runs
    assert "noisier rounds" in verdict.reason
    assert judge(history, [disturbed, run_at(100) * 4]).status is Status.OK


def test_new_runs_that_disagree_do_not_make_each_other_certain() -> None:
    agreeing = judge(HISTORY, [run_at(106), run_at(106)])
    disagreeing = judge(HISTORY, [run_at(100), run_at(112.36)])
    assert agreeing.change == pytest.approx(disagreeing.change)
    assert agreeing.status is Status.REGRESSED
    assert disagreeing.status is Status.INCONCLUSIVE


@pytest.mark.parametrize("bad", [[], [math.nan], [math.inf], [0.0], [-5.0]])
def test_values_that_are_no_measurement(bad: list[float]) -> None:
    new = judge(HISTORY, [run_at(115), bad])
    assert new.status is Status.INCONCLUSIVE
    assert "new run" in new.reason
    assert not new.needs_more_runs
    old = judge([*HISTORY, bad], [run_at(115)])
    assert old.status is Status.REGRESSED
    assert old.saved == 8
    assert "1 saved run left out" in old.reason
    assert judge([bad], [run_at(100)]).status is Status.NO_BASELINE


@pytest.mark.parametrize(
    ("level", "expected"),
    [(105, Status.OK), (105.1, Status.REGRESSED), (95, Status.OK), (94.9, Status.IMPROVED)],
)
def test_rule_point_holds_the_bare_estimate_against_the_limit(level: float, expected: Status) -> None:
    verdict = judge([[100.0]], [[level]], "5%;rule=point")
    assert verdict.status is expected
    assert verdict.change == pytest.approx(level / 100 - 1)
    assert verdict.interval is None
    assert judge([[100.0]], [], "5%;rule=point").status is Status.INCONCLUSIVE


@pytest.mark.parametrize(
    "arguments",
    [
        {"limit": "nonsense"},
        {"alpha": 0.0},
        {"alpha": 0.5},
        {"beta": 1e-9},
        {"beta": math.nan},
        {"max_runs": 0},
        {"max_runs": 4},
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, float | str]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        judge(HISTORY, [run_at(100)], **arguments)  # type: ignore[arg-type]


positive_runs = st.lists(
    st.lists(st.floats(min_value=0, exclude_min=True, allow_infinity=False), min_size=1, max_size=4),
    max_size=5,
)


@settings(deadline=None)
@given(positive_runs, positive_runs)
def test_any_positive_numbers_get_a_consistent_verdict(history: list[list[float]], runs: list[list[float]]) -> None:
    verdict = judge(history, runs)
    assert verdict.runs == len(runs)
    if verdict.interval is not None:
        assert verdict.change is not None
        assert verdict.interval[0] <= verdict.change <= verdict.interval[1]


@settings(deadline=None)
@given(st.floats(min_value=-0.2, max_value=0.2), st.floats(min_value=1e-6, max_value=1e6))
def test_the_unit_does_not_matter(change: float, scale: float) -> None:
    def verdict(factor: float) -> Verdict:
        new = [value * factor for value in run_at(100 * (1 + change))]
        return judge([[value * factor for value in run] for run in HISTORY], [new])

    assert verdict(1.0).change == pytest.approx(verdict(scale).change, abs=1e-9)
    assert verdict(1.0).interval == pytest.approx(verdict(scale).interval, abs=1e-9)


class Simulation:
    """Runs that differ by 0.7%, of ten rounds that differ by 1% with an autocorrelation of 0.3."""

    def __init__(self, seed: int) -> None:
        self.gauss = random.Random(seed).gauss  # noqa: S311 - a simulation

    def run(self, change: float, between: float = 0.007) -> list[float]:
        mean = (1 + change) * (1 + self.gauss(0, between))
        noise = self.gauss(0, 0.01)
        rounds = [mean * (1 + noise)]
        for _ in range(9):
            noise = 0.3 * noise + math.sqrt(1 - 0.3**2) * self.gauss(0, 0.01)
            rounds.append(mean * (1 + noise))
        return rounds

    def history(self, saved: int, between: float = 0.007) -> list[list[float]]:
        return [self.run(0, between) for _ in range(saved)]

    def verdict(
        self,
        history: list[list[float]],
        change: float,
        pool: Spread | None = None,
        between: float = 0.007,
    ) -> Status:
        """The final verdict, with as many new runs as it asks for."""
        runs = [self.run(change, between)]
        while (verdict := judge(history, runs, parse_limit("5%"), pooled_spread=pool)).needs_more_runs:
            runs.append(self.run(change, between))
        return verdict.status


@pytest.mark.parametrize(
    ("change", "least_regressed", "most_regressed"),
    [(0.0, 0.0, 0.005), (0.025, 0.0, 0.05), (0.05, 0.95, 1.0)],
)
def test_error_rates_with_ten_saved_runs(change: float, least_regressed: float, most_regressed: float) -> None:
    simulation, trials = Simulation(seed=11), 3000
    statuses = Counter(simulation.verdict(simulation.history(10), change) for _ in range(trials))
    assert least_regressed <= statuses[Status.REGRESSED] / trials <= most_regressed
    if change == 0.05:
        assert statuses[Status.OK] / trials <= 0.025
    if change == 0:
        assert statuses[Status.OK] / trials >= 0.99


def test_pooling_over_a_suite_catches_with_three_saved_runs_what_one_experiment_cannot() -> None:
    simulation = Simulation(seed=12)
    alone: list[Status] = []
    pooled: list[Status] = []
    for _ in range(20):
        suite = [simulation.history(3) for _ in range(20)]
        pool = pooled_spread(suite)
        alone.extend(simulation.verdict(history, 0.05) for history in suite)
        pooled.extend(simulation.verdict(history, 0.05, pool) for history in suite)
    assert alone.count(Status.REGRESSED) / 400 < 0.65
    assert pooled.count(Status.REGRESSED) / 400 > 0.85


def test_a_noisy_experiment_in_a_quiet_suite_raises_few_false_alarms() -> None:
    simulation, trials, alarms = Simulation(seed=13), 400, 0
    for _ in range(trials):
        noisy = simulation.history(10, between=0.03)
        pool = pooled_spread([noisy, *(simulation.history(10) for _ in range(9))])
        alarms += simulation.verdict(noisy, 0, pool, between=0.03) is Status.REGRESSED
    # Were all the runs of the suite pooled into one spread, it would be about 5%.
    assert alarms / trials < 0.03


def test_the_module_needs_the_standard_library_alone() -> None:
    code = (
        "import sys, pytest_llem.verdict.decision; "
        "print(sorted({'numpy', 'scipy', 'torch', 'pydantic', 'pytest'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
