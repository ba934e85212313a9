"""The Pareto front: what is on it, and what is dominated for sure."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_llem.report.estimates import Estimate, time_per_output_token
from pytest_llem.report.html import render_html
from pytest_llem.report.pareto import dominators, front
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
    ("other", "dominated"),
    [
        ((6, 6), True),
        ((6, 5.05), False),  # as good in the second quantity as far as was measured
        ((5.05, 6), False),
        ((4, 6), False),
        ((4.9, 4.9), False),
    ],
)
def test_a_point_is_dominated_where_both_quantities_are_surely_worse(
    other: tuple[float, float], dominated: bool
) -> None:
    assert dominators(points((5, 5), other))[1] == (0 if dominated else None)


def test_without_an_interval_nothing_is_dominated() -> None:
    assert dominators(points((1, 1), (9, 9), half_width=None)) == [None, None]


def test_time_between_tokens_is_as_uncertain_as_one_round() -> None:
    one = result(time_per_output_token_s=0.5)
    found = time_per_output_token(one)
    assert found is not None
    # Rounds of 4 s that differ by 0.1% twice: s = 0.0817%, t(0.975, 3) = 3.182.
    assert found.half_width == pytest.approx(0.5 * 3.182 * 0.001 * math.sqrt(2 / 3), rel=1e-3)
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
    assert text.count("<td>on the front</td>") == 2
    assert "<td>dominated by batch_size: 4</td>" in text


def test_what_is_invalid_or_not_comparable_has_no_place() -> None:
    first, second, third = timed()
    second = replace(second, result=replace(second.result, valid=False))
    found = report([first, second, replace(third, result=replace(third.result, meter="zeus"))]).sweeps[0]
    assert [found.standing(one) for one in found.variants] == ["on the front", "", ""]


def test_points_without_times_of_tokens_are_compared_by_their_calls() -> None:
    (found,) = report(sweep()).sweeps
    assert found.latency_name == "latency of a call"
    assert found.variants[1].latency == report(sweep()).experiments[1].latency
