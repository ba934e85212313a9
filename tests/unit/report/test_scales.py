"""Scales: everything in sight, and round numbers beside it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llem.report.scales import Axis, Scale


def texts(values: list[float], axis: Axis) -> list[str]:
    return [text for _, text in Scale(axis, values).ticks]


@pytest.mark.parametrize(
    ("values", "axis", "expected"),
    [
        ([100.0, 400.0], Axis("", "J"), ["100 J", "200 J", "300 J", "400 J"]),
        ([2.0, 4.0], Axis("", "s"), ["2.0 s", "2.5 s", "3.0 s", "3.5 s", "4.0 s"]),
        ([99.98, 100.02], Axis("", "J"), ["99.98 J", "99.99 J", "100.00 J", "100.01 J", "100.02 J"]),
        ([0.05, 0.9], Axis("", "W", from_zero=True), ["0 mW", "200 mW", "400 mW", "600 mW", "800 mW"]),
        ([100.0, 1400.0], Axis("", "J"), ["0.25 kJ", "0.50 kJ", "0.75 kJ", "1.00 kJ", "1.25 kJ"]),
        ([-1.0, 1.0], Axis(""), ["-1.0", "-0.5", "0.0", "0.5", "1.0"]),
        ([3.0, 40.0], Axis("", "s", logarithmic=True), ["5 s", "10 s", "20 s"]),
        ([1.0, 5e4], Axis("", "J", logarithmic=True), ["1 J", "10 J", "100 J", "1 kJ", "10 kJ"]),
        ([1.0, 2.0], Axis("", ticks=[(1.0, "first"), (2.0, "now")]), ["first", "now"]),
        ([7.0, 7.0], Axis("", "J"), ["6.8 J", "7.0 J", "7.2 J"]),
        ([0.0], Axis("", "J"), ["-1.0 J", "-0.5 J", "0.0 J", "0.5 J", "1.0 J"]),
    ],
)
def test_ticks_are_round(values: list[float], axis: Axis, expected: list[str]) -> None:
    assert texts(values, axis) == expected


@given(
    st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=9),
    st.booleans(),
    st.booleans(),
)
def test_all_values_are_in_sight_and_ticks_tell_them_apart(
    values: list[float], from_zero: bool, logarithmic: bool
) -> None:
    scale = Scale(Axis("", "J", from_zero=from_zero and not logarithmic, logarithmic=logarithmic), values)
    shares = [scale(value) for value in values]
    assert all(0 < share < 1 for share in shares)
    assert [shares[values.index(value)] for value in sorted(values)] == sorted(shares)
    ticks = [text for _, text in scale.ticks]
    assert len(set(ticks)) == len(ticks) <= 9
    assert all(-1e-6 <= scale(at) <= 1 + 1e-6 for at, _ in scale.ticks)
    if not logarithmic:
        assert len(ticks) >= 3
        steps = {later - earlier for (earlier, _), (later, _) in zip(scale.ticks, scale.ticks[1:], strict=False)}
        assert math.isclose(min(steps), max(steps), rel_tol=1e-3)


def test_a_logarithmic_scale_gives_each_factor_its_length() -> None:
    scale = Scale(Axis("", "J", logarithmic=True), [1.0, 10.0, 100.0])
    assert scale(10.0) - scale(1.0) == pytest.approx(scale(100.0) - scale(10.0))
    assert scale(10.0) == pytest.approx(0.5)


def test_zero_is_at_the_very_beginning() -> None:
    scale = Scale(Axis("", "W", from_zero=True), [50.0, 60.0])
    assert scale(0.0) == 0
    assert scale(60.0) < 1
