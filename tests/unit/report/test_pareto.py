"""The Pareto front: what is on it, and what is dominated for sure."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import pytest

from pytest_llem.report.estimates import Estimate, ratio, time_per_output_token
from pytest_llem.report.figures import sweep_plot
from pytest_llem.report.html import render_html
from pytest_llem.report.pareto import Behind, behind, front
from tests.unit.report.examples import report, result, sweep

if TYPE_CHECKING:
    from pytest_llem.records.record import Record


def points(*pairs: tuple[float, float], half_width: float | None = 0.1) -> list[tuple[Estimate, Estimate]]:
    made = [[Estimate(value, half_width, math.inf) for value in pair] for pair in pairs]
    return [(first, second) for first, second in made]


def test_the_front_is_what_no_other_point_equals_or_beats() -> None:
    assert front(points((1, 9), (5, 5), (6, 6), (9, 1), (9, 2), (5, 5))) == [0, 1, 3]
    assert front([]) == []


@pytest.mark.parametrize(
    ("other", "sure"),
    [
        ((6, 6), (True, True)),
        ((6, 5.05), (True, False)),  # as good in the second quantity as far as was measured
        ((5.05, 6), (False, True)),
        ((5, 6), (False, True)),
        ((5, 5), (False, False)),
    ],
)
def test_of_each_quantity_it_is_known_whether_a_point_is_surely_behind(
    other: tuple[float, float], sure: tuple[bool, bool]
) -> None:
    assert behind(points((5, 5), other)) == [None, Behind(0, sure)]


@pytest.mark.parametrize("other", [(4, 6), (4.9, 5.1)])
def test_what_is_better_in_one_quantity_is_on_the_front(other: tuple[float, float]) -> None:
    assert behind(points((5, 5), other)) == [None, None]


def test_without_an_interval_nothing_is_sure() -> None:
    assert behind(points((1, 1), (9, 9), half_width=None)) == [None, Behind(0, (False, False))]


def test_a_point_behind_the_front_may_be_the_one_that_surely_dominates() -> None:
    unsure = points((1, 1), half_width=None)
    assert behind([*unsure, *points((2, 2), (9, 9))])[2] == Behind(1, (True, True))


def test_random_points_against_every_pair() -> None:
    random = Random(5)  # noqa: S311

    def estimate() -> Estimate:
        value = random.uniform(1.0, 2.0)
        half_width = random.choice([None, random.uniform(0.0, 0.4) * value])
        return Estimate(value, half_width, random.choice([2, 4, math.inf]))

    some = [(estimate(), estimate()) for _ in range(60)]
    for (x, y), why in zip(some, behind(some), strict=True):
        better = [(a, b) for a, b in some if a.value <= x.value and b.value <= y.value and (a, b) != (x, y)]
        ratios = [(ratio(x, a), ratio(y, b)) for a, b in better]
        sure = [all(found and found.interval and found.interval[0] > 1 for found in both) for both in ratios]
        assert (why is None) == (not better)
        assert (why is not None and all(why.sure)) == any(sure)


@pytest.mark.parametrize("calls", [1, 16])
def test_the_interval_of_the_time_between_tokens_covers_its_mean(calls: int) -> None:
    random = Random(3)  # noqa: S311

    def call_s() -> float:
        return random.gauss(2.0, 0.02)

    def covers() -> bool:
        rounds = [replace(window, seconds=math.fsum(call_s() for _ in range(calls))) for window in result().per_round]
        # A token takes a quarter of a call, and the only call that was instrumented differs like any other.
        found = time_per_output_token(
            result(calls_per_round=calls, per_round=rounds, time_per_output_token_s=call_s() / 4)
        )
        assert found is not None
        assert found.bounds is not None
        return found.bounds[0] < 0.5 < found.bounds[1]

    assert sum(covers() for _ in range(1000)) == pytest.approx(950, abs=20)
    assert time_per_output_token(result()) is None


def timed() -> list[Record]:
    """Three points: the larger the batch, the fewer joules and the slower each sequence; the last one is worse in both
    than the second."""
    times_s = (0.01, 0.02, 0.03)
    first, second, third = (
        replace(one, result=replace(one.result, time_per_output_token_s=time_s))
        for one, time_s in zip(sweep(), times_s, strict=True)
    )
    return [first, second, replace(third, result=replace(third.result, energy_j=1600.0, output_tokens=32.0 * 16))]


def test_a_sweep_shows_its_front_and_greys_what_is_dominated() -> None:
    text = render_html(report(timed()))
    assert "Energy per output token against time per output token" in text
    figure = text[text.index("Energy per output token against") :].partition("</figure>")[0]
    drawn = {style: path.count("<use") for style, path in re.findall(r'<g class="points ([\w-]+)">(.*?)</g>\n', figure)}
    assert drawn == {"saved": 2, "dominated": 1}
    # From point to point in steps: there is nothing between two.
    (line,) = re.findall(r'<g class="line front"><path d="([^"]*)"/></g>\n', figure)
    assert len(re.findall("[ML]", line)) == 3
    assert text.count("<td>on the Pareto front</td>") == 2
    assert "<td>dominated by batch_size: 4</td>" in text


@pytest.mark.parametrize(
    ("rounds", "standing"),
    [(4, "behind batch_size: 1, for sure in energy alone"), (1, "behind batch_size: 1, not for sure")],
)
def test_what_costs_more_in_the_same_time_is_not_called_near(rounds: int, standing: str) -> None:
    first, second, _ = timed()
    result = replace(
        second.result,
        energy_j=6400.0,
        energy_uncertainty_j=2.0 if rounds > 1 else None,
        time_per_output_token_s=first.result.time_per_output_token_s,
    )
    text = render_html(report([first, replace(second, result=result)]))
    assert f"<td>{standing}</td>" in text
    assert 'class="points dominated"' not in text


def test_an_interval_that_is_not_drawn_decides_no_axis() -> None:
    first, *others = timed()
    wide = replace(first, result=replace(first.result, calls_per_round=10**6, time_per_output_token_s=0.001))
    plot = sweep_plot(report([wide, *others]).sweeps[0])
    assert plot is not None
    assert plot.x.logarithmic


def test_what_is_invalid_or_not_comparable_has_no_place() -> None:
    first, second, third = timed()
    second = replace(second, result=replace(second.result, valid=False))
    found = report([first, second, replace(third, result=replace(third.result, meter="zeus"))]).sweeps[0]
    assert [found.standing(one) for one in found.variants] == ["on the Pareto front", "", ""]


def test_points_without_times_of_tokens_are_compared_by_their_calls() -> None:
    (found,) = report(sweep()).sweeps
    assert found.latency_name == "latency of a call"
    assert found.variants[1].latency == report(sweep()).experiments[1].latency
