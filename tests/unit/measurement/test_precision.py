"""Rounds whose number is decided by looking at them: by simulation, the stated interval holds."""

from __future__ import annotations

import math
import random

import pytest

from pytest_llem.measurement.precision import FEWEST_ROUNDS, mean_energy, mean_with_host, relative_half_width
from pytest_llem.meters.base import Covers, HostReading, Window

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


class TestWithHost:
    """Against numbers worked out by hand: t(0.975, 2) = 4.3027."""

    def windows(self, *joules: tuple[float, float | None], covers: Covers = "host", out: bool = False) -> list[Window]:
        return [
            Window(
                seconds=1.0,
                joules=boards_j,
                uncertainty_j=0.3,
                errors_average_out=out,
                host=HostReading("rapl", covers, host_j, 0.4),
            )
            for boards_j, host_j in joules
        ]

    def test_the_spread_of_the_total_is_that_of_the_sums(self) -> None:
        # What the boards have more the host has less: the total is known better than either.
        host, total = mean_with_host(self.windows((100.0, 52.0), (101.0, 51.0), (102.0, 50.0)))
        assert host == pytest.approx((51.0, math.hypot(4.3027 / math.sqrt(3), 0.4)), rel=1e-4)
        assert total == pytest.approx((152.0, 0.5))

    def test_what_averages_out_of_the_boards_does_so_in_the_total_alone(self) -> None:
        host, total = mean_with_host(self.windows((100.0, 50.0), (100.0, 50.0), (100.0, 50.0), out=True))
        assert host == pytest.approx((50.0, 0.4))
        assert total == pytest.approx((150.0, math.hypot(0.3 / math.sqrt(3), 0.4)))

    def test_joined_windows_have_the_statement_of_their_sum(self) -> None:
        windows = self.windows((100.0, 50.0), (100.0, 50.0))
        _, total = mean_with_host(windows, Window(joules=200.0, uncertainty_j=0.2))
        assert total == pytest.approx((150.0, math.hypot(0.1, 0.4)))

    def test_of_a_whole_machine_the_total_is_the_reading(self) -> None:
        host, total = mean_with_host(self.windows((100.0, 150.0), (100.0, 150.0), covers="machine"))
        assert host == pytest.approx((50.0, 0.5))
        assert total == pytest.approx((150.0, 0.4))

    def test_one_unknown_window_leaves_the_mean_unknown(self) -> None:
        windows = self.windows((100.0, 50.0), (100.0, None))
        assert mean_with_host(windows) == ((None, None), (None, None))
        assert mean_with_host([Window(joules=1.0, uncertainty_j=0.1)]) == ((None, None), (None, None))
