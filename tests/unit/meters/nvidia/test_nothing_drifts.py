"""On every kind of board: nothing that is carried from one window to the next may run away."""

from __future__ import annotations

import math
import statistics
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pytest_llem.meters.base import MeterRequest
from pytest_llem.meters.nvidia.meter import open_nvml_meter
from tests.simulators import KINDS, SimulatedClock, install

if TYPE_CHECKING:
    from pytest_llem.meters import Window
    from tests.simulators import SimulatedBoard

WINDOWS = 200


class Measured(NamedTuple):
    window: Window
    true_j: float

    @property
    def covered(self) -> bool:
        joules, uncertainty_j = self.window.joules, self.window.uncertainty_j
        return joules is not None and uncertainty_j is not None and abs(joules - self.true_j) <= uncertainty_j


def windows_of(board: SimulatedBoard, random: Random, count: int) -> list[Measured]:
    """Windows of mixed lengths and powers in one process, each longer than a period of the counter."""
    clock = SimulatedClock()
    shortest_s = max(0.05, 1.02 * board.period_s)
    longest_s = max(1.0, shortest_s)
    measured = []
    with install([board], clock), open_nvml_meter(MeterRequest("cuda", None, clock)) as meter:
        for _ in range(count):
            clock.sleep(random.uniform(0.0, 0.2))
            with meter.window() as window:
                start_s = clock.now_s()
                seconds = math.exp(random.uniform(math.log(shortest_s), math.log(longest_s)))
                board.run(clock, seconds, random.uniform(160.0, 655.0))
                end_s = clock.now_s()
            measured.append(Measured(window, board.window_energy_j(start_s, end_s)))
    return measured


# A seed has no simpler one: to shrink an example would take minutes and tell nothing.
@settings(derandomize=True, max_examples=2, deadline=None, database=None, phases=[Phase.generate])
@given(kind=st.sampled_from(sorted(KINDS)), seed=st.integers(0, 2**32))
def test_the_two_hundredth_window_is_known_as_well_as_the_first_ones(kind: str, seed: int) -> None:
    random = Random(seed)  # noqa: S311
    board = KINDS[kind](random)
    measured = windows_of(board, random, WINDOWS)
    for number, one in enumerate(measured):
        if one.true_j > 10.0 * board.resolution_mj / 1e3:
            assert one.window.joules is not None, (number, one.window.reason)
    widths_j = [one.window.uncertainty_j or math.inf for one in measured]
    third = WINDOWS // 3
    assert statistics.median(widths_j[-third:]) <= 1.3 * statistics.median(widths_j[:third])


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_hold_on_every_kind_of_board(kind: str) -> None:
    """A few boards of a kind, pooled."""
    covered = []
    for seed in range(3):
        random = Random(seed)  # noqa: S311
        covered += [one.covered for one in windows_of(KINDS[kind](random), random, 8)]
    assert statistics.fmean(covered) >= 0.9


@pytest.mark.xfail(reason="sixteen updates of a walk look like a lattice with a jitter")
def test_nor_do_the_first_windows_on_a_counter_that_wanders_claim_too_much() -> None:
    covered = []
    for seed in range(20):
        random = Random(seed)  # noqa: S311
        covered += [one.covered for one in windows_of(KINDS["wandering"](random), random, 2)]
    assert statistics.fmean(covered) >= 0.9
