"""Rounds whose number is decided by looking at them: by simulation, the stated interval holds."""

from __future__ import annotations

import random

import pytest

from pytest_llem.measurement.precision import FEWEST_ROUNDS, mean_energy, relative_half_width
from pytest_llem.meters.base import Window

PRECISION = 0.01
MOST_ROUNDS = 40
"""As where the budget ends."""


def decided_rounds(noise: float, draw: random.Random) -> list[Window]:
    windows: list[Window] = []
    while True:
        windows.append(Window(seconds=1.0, joules=draw.gauss(100.0, 100.0 * noise), uncertainty_j=0.01))
        if len(windows) < FEWEST_ROUNDS:
            continue
        reached = relative_half_width(windows)
        if len(windows) == MOST_ROUNDS or (reached is not None and reached <= PRECISION):
            return windows


@pytest.mark.parametrize(("noise", "most_rounds"), [(0.003, 4.0), (0.005, 5.0), (0.02, 25.0), (0.06, 40.0)])
def test_the_interval_holds_although_it_decides_when_to_stop(noise: float, most_rounds: float) -> None:
    draw = random.Random(f"noise {noise}")  # noqa: S311
    covered = rounds = 0
    experiments = 1500
    for _ in range(experiments):
        windows = decided_rounds(noise, draw)
        mean_j, half_width_j = mean_energy(windows, sequential=True)
        assert mean_j is not None
        assert half_width_j is not None
        covered += abs(mean_j - 100.0) <= half_width_j
        rounds += len(windows)
    assert covered / experiments >= 0.93
    assert rounds / experiments <= most_rounds


def test_without_the_correction_it_would_not() -> None:
    """The same rounds, with the interval of a number of rounds that was fixed."""
    draw = random.Random("uncorrected")  # noqa: S311
    covered = 0
    for _ in range(1500):
        windows: list[Window] = []
        mean_j, half_width_j = 0.0, 100.0
        while half_width_j > PRECISION * mean_j and len(windows) < MOST_ROUNDS:
            windows.append(Window(seconds=1.0, joules=draw.gauss(100.0, 2.0), uncertainty_j=0.01))
            if len(windows) >= FEWEST_ROUNDS:
                mean_j, half_width_j = (found or 0.0 for found in mean_energy(windows))
        covered += abs(mean_j - 100.0) <= half_width_j
    assert covered / 1500 < 0.93


def test_where_no_energy_is_known_the_time_decides() -> None:
    windows = [Window(seconds=seconds) for seconds in (1.0, 1.01, 0.99)]
    reached = relative_half_width(windows)
    assert reached is not None
    assert reached == pytest.approx(6.205 * 0.01 / 3**0.5, rel=1e-3)  # t of 2 degrees of freedom, 98.75%


def test_a_joined_window_whose_energy_is_not_known_yet_does_not_make_the_time_decide() -> None:
    windows = [
        Window(seconds=1.0, joules=joules, uncertainty_j=0.01, joined=True) for joules in (80.0, 120.0, 90.0, None)
    ]
    assert relative_half_width(windows) == relative_half_width(windows[:3])
    assert (relative_half_width(windows) or 0.0) > 0.1
    assert relative_half_width([windows[0], windows[3]]) is None
    assert relative_half_width([windows[3]] * 3) == 0.0


def test_joined_windows_share_one_statement() -> None:
    windows = [Window(seconds=1.0, joules=100.0, uncertainty_j=2.0) for _ in range(4)]
    _, alone_j = mean_energy(windows)
    _, together_j = mean_energy(windows, Window(seconds=4.0, joules=400.0, uncertainty_j=0.4))
    assert alone_j == pytest.approx(2.0)
    assert together_j == pytest.approx(0.1)
