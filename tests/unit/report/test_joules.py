"""Where the joules of a call went: against numbers worked out by hand."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest

from pytest_llem.report.html import render_html
from pytest_llem.report.joules import Joules, joules_of
from tests.unit.report.examples import experiment, phased, report, result

# 100 +- 2 J in 2 s, of which prefill takes 36 +- 1 J in 0.4 s, at an idle power of 10 +- 0.5 W.
WHOLE = phased(result(idle_power_w=10.0, idle_power_uncertainty_w=0.5))
HOST: dict[str, Any] = {
    "energy_host_j": 50.0,
    "energy_host_uncertainty_j": 3.0,
    "energy_total_j": 150.0,
    "energy_total_uncertainty_j": math.hypot(2, 3),
}


def parts(found: Joules | None) -> dict[str, Any]:
    assert found is not None
    assert math.fsum(part.joules for part in found.parts) == pytest.approx(found.whole_j, rel=1e-12)
    return {part.name: (part.joules, part.half_width_j) for part in found.parts}


def test_boards_alone() -> None:
    found = joules_of(WHOLE)
    assert parts(found) == {
        "idle": (20.0, 1.0),
        "prefill": (pytest.approx(32.0), pytest.approx(math.hypot(1, 0.2))),
        "decode": (pytest.approx(48.0), pytest.approx(math.hypot(math.hypot(2, 1), 0.8))),
    }
    assert found is not None
    assert (found.whole_j, found.half_width_j, found.with_host) == (100.0, 2.0, False)


def test_the_host_is_a_part_of_its_own() -> None:
    found = joules_of(replace(WHOLE, **HOST))
    assert parts(found)["host"] == (50.0, 3.0)
    assert found is not None
    assert (found.whole_j, found.half_width_j, found.with_host) == (150.0, math.hypot(2, 3), True)
    other_whole = joules_of(replace(WHOLE, **HOST | {"energy_total_j": 151.0}))
    assert parts(other_whole)["rest"] == (pytest.approx(1.0), None)
    # Without the total there is no whole that holds it.
    without = joules_of(replace(WHOLE, **HOST | {"energy_total_j": None}))
    assert "host" not in parts(without)


def test_what_is_not_told_apart_is_the_rest() -> None:
    no_phases = result(idle_power_w=10.0, idle_power_uncertainty_w=0.5)
    assert parts(joules_of(no_phases)) == {"idle": (20.0, 1.0), "rest": (80.0, math.hypot(2, 1))}
    no_decode = replace(WHOLE, decode_energy_j=None, decode_latency_s=None)
    assert parts(joules_of(no_decode))["rest"] == (
        pytest.approx(48.0),
        pytest.approx(math.hypot(2, 1, 0.8)),
    )
    no_idle = replace(WHOLE, idle_power_w=None, **HOST)
    assert parts(joules_of(no_idle)) == {"host": (50.0, 3.0), "rest": (100.0, 2.0)}


def test_of_what_nothing_is_told_apart_nothing_is_shown() -> None:
    assert joules_of(result()) is None
    assert joules_of(result(None, idle_power_w=10.0)) is None
    assert joules_of(result(0.0, idle_power_w=10.0)) is None
    assert "Where the joules went" not in render_html(report([experiment()]))


def test_an_unknown_uncertainty_stays_unknown() -> None:
    found = parts(joules_of(replace(WHOLE, idle_power_uncertainty_w=None)))
    assert [width for _, width in found.values()] == [None] * 3


def test_bars_are_as_long_as_the_shares_and_less_than_nothing_is_said() -> None:
    # So short a prefill that its joules are lost in the noise.
    negative = phased(result(idle_power_w=10.0, idle_power_uncertainty_w=0.5), prefill_j=2.0)
    text = render_html(report([experiment("first", result=WHOLE), experiment("second", result=negative)]))
    figure = text[text.index("<strong>Where the joules went") :].partition("</figure>")[0]
    bars = re.findall(r'<g class="segments part-(\w+)"><path d="M([\d.]+) ([\d.]+)H([\d.]+)"><title>([^<]*)<', figure)
    assert [(name, label.partition(": ")[0]) for name, *_, label in bars] == [
        ("idle", "first"),
        ("prefill", "first"),
        ("decode", "first"),
        ("idle", "second"),
        ("decode", "second"),
    ]
    lengths = [float(right) - float(left) + 1 for _, left, _, right, _ in bars]
    whole = sum(lengths[:3])
    assert [length / whole for length in lengths[:3]] == pytest.approx([0.2, 0.32, 0.48], abs=0.005)
    assert "Prefill above idle of 2 is less than nothing and not drawn" in figure
    assert "<td>32.0 ± 1.0 J, 32%</td>" in text
    assert "<td>-2.0 ± 1.0 J, -2%</td>" in text
