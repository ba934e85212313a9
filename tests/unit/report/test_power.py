"""Power in windows: which samples are shown, and when prefill and decoding ran."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

import pytest

from pytest_llem.report.html import render_html
from pytest_llem.report.power import power_of
from tests.unit.report.examples import BOARDS, experiment, phased, report, result, sampled

if TYPE_CHECKING:
    from pytest_llem.measurement.result import ExperimentResult


def figure(found: ExperimentResult) -> str:
    """The plot of an experiment's power."""
    text = render_html(report([experiment(result=found)]))
    begin = text.index("<figure><figcaption><strong>Power in the windows")
    return text[begin : text.index("</figure>", begin)]


def strokes(text: str, style: str) -> int:
    """How many shapes of a style are drawn, beside the one of the legend."""
    return len(re.findall(rf'<g class="{style}"><path', text)) - 1


def test_each_board_has_a_line_in_each_window_and_the_windows_are_marked() -> None:
    text = figure(sampled(*BOARDS))
    assert strokes(text, "curve board-0") == strokes(text, "curve board-1") == 4
    assert strokes(text, "line edge") == 2
    assert BOARDS[0][:12] in text
    assert "idle power of all 2 boards" in text
    assert "4 windows on 2 boards, as sampled; at most 90.0 W" in text


def test_what_is_left_out_is_said() -> None:
    boards = [f"GPU-{number:08}" for number in range(9)]
    one = sampled(*boards)
    text = figure(replace(one, per_round=one.per_round * 4, rounds=16))
    assert strokes(text, "curve board-0") == 12
    assert "The first 12 of 16 windows." in text
    assert "The first 8 of 9 boards." in text
    assert "GPU-00000008" not in text.partition("</ul>")[0]
    assert "The first" not in figure(sampled())


def test_a_line_keeps_to_its_window_with_a_quarter_of_it_on_either_side() -> None:
    one = sampled()
    (line,) = power_of(replace(one, per_round=one.per_round[:1]), 1, 1).lines
    length_s = one.per_round[0].seconds
    assert [line.points[0][0], line.points[-1][0]] == pytest.approx([-0.25 * length_s, 1.25 * length_s], abs=0.1)


def test_a_disturbed_window_is_drawn_as_one() -> None:
    one = sampled()
    text = figure(replace(one, per_round=[replace(one.per_round[0], valid=False), *one.per_round[1:]]))
    assert (strokes(text, "curve disturbed"), strokes(text, "curve board-0")) == (1, 3)


def test_prefill_and_decoding_of_each_call_are_marked_where_samples_tell_them() -> None:
    one = phased(sampled())
    length_s = one.per_round[0].seconds
    power = power_of(one, 1, 1)
    assert [*chain(*power.prefill)] == pytest.approx([0.0, 0.4, length_s / 2, length_s / 2 + 0.4])
    assert [*chain(*power.decode)] == pytest.approx([0.4, length_s / 2, length_s / 2 + 0.4, length_s])
    longer = power_of(replace(one, prefill_latency_s=2 * length_s), 1, 1)
    assert [*chain(*longer.prefill)] == pytest.approx([0.0, length_s / 2, length_s / 2, length_s])
    assert longer.decode == ()
    text = figure(one)
    assert strokes(text, "area prefill") == strokes(text, "area decode") == 2
    assert "in the first window" in text


def test_why_phases_are_not_marked_is_said() -> None:
    one = phased(sampled())
    for other, why in (
        (replace(one, phases_by="one-token calls"), "it was measured in calls of its own"),
        (replace(one, calls_per_round=21), "21 calls of a window are too many"),
        (replace(one, per_round=[replace(w, calls_s=[]) for w in one.per_round]), "when each call began is not known"),
    ):
        text = figure(other)
        assert f"Prefill is not marked: {why}." in text
        assert "area" not in text
    assert "Prefill" not in figure(sampled())


def test_without_samples_it_is_the_mean_of_the_windows() -> None:
    text = render_html(report([experiment()]))
    assert "Mean power of the windows in time" in text
    assert "Power in the windows" not in text
    assert power_of(result(), 3, 1).omitted == 1
