"""Finding the edges of a simulated counter."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from pytest_llem.errors import MeasurementError
from pytest_llem.meters.alignment import (
    CounterResetError,
    CounterTiming,
    EdgeFinder,
    probe_timing,
    wait_for_edges,
)
from tests.simulators import SimulatedBoard, SimulatedClock

if TYPE_CHECKING:
    from collections.abc import Callable

READ_COST_S = 0.0005


class CountedRead:
    """Reads a board's counter in joules, taking simulated time, and counts how often."""

    def __init__(self, board: SimulatedBoard, clock: SimulatedClock) -> None:
        self.board = board
        self.clock = clock
        self.reads = 0

    def __call__(self) -> float:
        self.reads += 1
        self.clock.sleep(READ_COST_S / 2)
        counter_mj = self.board.counter_mj(self.clock.now_s())
        self.clock.sleep(READ_COST_S / 2)
        return counter_mj / 1000


def timing_of(board: SimulatedBoard) -> CounterTiming:
    jitter_sd_s = board.jitter_s / math.sqrt(3)
    return CounterTiming(board.period_s, jitter_sd_s, board.resolution_mj / 1000, READ_COST_S)


def finder_of(board: SimulatedBoard, clock: SimulatedClock) -> EdgeFinder:
    return EdgeFinder(CountedRead(board, clock), clock, timing_of(board))


@pytest.mark.parametrize("period_s", [0.02, 0.1])
@pytest.mark.parametrize("jitter_s", [0.0, 0.005])
def test_edges_are_dated_within_their_uncertainty(period_s: float, jitter_s: float) -> None:
    clock = SimulatedClock(oversleep_s=0.0001)
    board = SimulatedBoard(power=200.0, period_s=period_s, phase_s=0.0123, jitter_s=jitter_s)
    finder = finder_of(board, clock)
    for _ in range(50):
        edge = finder.wait_for_edge()
        assert edge is not None
        true_s = board.last_update_s(clock.now_s())
        # The bracket is all that is known: its half-width is sqrt(3) standard deviations.
        assert abs(edge.time_s - true_s) <= math.sqrt(3) * edge.uncertainty_s + 1e-9
        assert edge.uncertainty_s < 0.001 or jitter_s > 0
        assert edge.energy_j == board.counter_mj(clock.now_s()) / 1000


def test_the_next_edge_is_awaited_asleep() -> None:
    clock = SimulatedClock()
    read = CountedRead(SimulatedBoard(power=200.0, period_s=0.1), clock)
    finder = EdgeFinder(read, clock, CounterTiming(0.1, 0.0, 0.001, READ_COST_S))
    first = finder.wait_for_edge()
    read.reads = 0
    second = finder.wait_for_edge()
    assert first is not None
    assert second is not None
    assert second.time_s - first.time_s == pytest.approx(0.1, abs=0.001)
    assert read.reads < 10


def test_updates_that_a_stalled_process_missed_make_one_uncertain_edge() -> None:
    clock = SimulatedClock()
    board = SimulatedBoard(power=200.0, period_s=0.1, phase_s=0.05)
    finder = finder_of(board, clock)
    assert finder.wait_for_edge() is not None
    finder.begin()
    clock.sleep(0.27)
    edge = finder.poll()
    assert edge is not None
    # It lies in the last period: no older update would show its value.
    assert 0.02 < edge.uncertainty_s <= 0.1 / math.sqrt(12) + 1e-9
    assert abs(edge.time_s - board.last_update_s(clock.now_s())) <= math.sqrt(3) * edge.uncertainty_s


def test_a_counter_that_stands_still_has_no_edge() -> None:
    clock = SimulatedClock()
    finder = finder_of(SimulatedBoard(power=0.0, period_s=0.1), clock)
    start_s = clock.now_s()
    assert finder.wait_for_edge(timeout_s=0.5) is None
    assert clock.now_s() - start_s == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("reset_after_s", [0.02, 0.15])
def test_a_counter_that_goes_backwards_is_a_reset(reset_after_s: float) -> None:
    clock = SimulatedClock()
    board = SimulatedBoard(power=200.0, period_s=0.1, resets_s=[clock.now_s() + 0.11 + reset_after_s])
    finder = finder_of(board, clock)
    assert finder.wait_for_edge() is not None
    clock.sleep(reset_after_s)
    with pytest.raises(CounterResetError, match="went backwards"):
        finder.wait_for_edge()


def test_edges_of_several_boards_are_awaited_together() -> None:
    clock = SimulatedClock()
    boards = [SimulatedBoard(power=100.0, period_s=0.1, phase_s=phase_s) for phase_s in (0.03, 0.06, 0.09)]
    finders = [finder_of(board, clock) for board in boards]
    start_s = clock.now_s()
    for _ in range(5):
        for board, edge in zip(boards, wait_for_edges(finders), strict=True):
            assert edge is not None
            phase_s = (edge.time_s - board.phase_s + 0.05) % 0.1 - 0.05
            assert abs(phase_s) < 0.003
    assert clock.now_s() - start_s < 0.52


def test_a_board_that_is_not_due_is_not_read() -> None:
    clock = SimulatedClock()
    reads = [CountedRead(SimulatedBoard(power=100.0, phase_s=phase_s), clock) for phase_s in (0.01, 0.06)]
    finders = [EdgeFinder(read, clock, timing_of(read.board)) for read in reads]
    wait_for_edges(finders)
    for read in reads:
        read.reads = 0
    wait_for_edges(finders)
    assert max(read.reads for read in reads) <= 6


def test_one_silent_board_does_not_hide_the_others() -> None:
    clock = SimulatedClock()
    finders = [finder_of(SimulatedBoard(power=power_w), clock) for power_w in (0.0, 100.0)]
    silent, alive = wait_for_edges(finders, timeout_s=0.4)
    assert silent is None
    assert alive is not None


def test_a_glance_without_a_phase_has_the_uncertainty_of_a_period() -> None:
    clock = SimulatedClock()
    edge = finder_of(SimulatedBoard(power=100.0, period_s=0.1), clock).glance()
    assert edge.uncertainty_s == pytest.approx(0.1 / math.sqrt(12))
    assert clock.now_s() - edge.time_s == pytest.approx(0.05, abs=0.001)


def test_a_glance_uses_the_phase_that_it_knows() -> None:
    clock = SimulatedClock()
    board = SimulatedBoard(power=100.0, period_s=0.1, phase_s=0.07)
    finder = finder_of(board, clock)
    edge = finder.wait_for_edge()
    clock.sleep(0.02)
    assert finder.glance() == edge
    for _ in range(5):
        clock.sleep(0.23)
        glance = finder.glance()
        assert glance.uncertainty_s < 0.005
        assert abs(glance.time_s - board.last_update_s(clock.now_s())) < 3 * glance.uncertainty_s


def test_a_jitter_as_long_as_the_period_leaves_no_phase() -> None:
    clock = SimulatedClock()
    finder = finder_of(SimulatedBoard(power=100.0, period_s=0.02, jitter_s=0.009), clock)
    assert finder.wait_for_edge() is not None
    clock.sleep(1.0)
    assert finder.glance().uncertainty_s == pytest.approx(math.hypot(0.02 / math.sqrt(12), finder.timing.jitter_s))


@pytest.mark.parametrize("period_s", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("jitter_s", [0.0, 0.006])
def test_the_timing_of_a_counter_is_probed(period_s: float, jitter_s: float) -> None:
    clock = SimulatedClock()
    board = SimulatedBoard(power=87.0, period_s=period_s, jitter_s=jitter_s, resolution_mj=5)
    timing = probe_timing(CountedRead(board, clock), clock, updates=40)
    assert timing.period_s == pytest.approx(period_s, abs=0.0005)
    assert timing.jitter_s == pytest.approx(jitter_s / math.sqrt(3), abs=0.0012)
    assert timing.resolution_j == pytest.approx(0.005)
    assert timing.read_cost_s == pytest.approx(READ_COST_S)


def test_updates_that_change_nothing_do_not_lengthen_the_period() -> None:
    clock = SimulatedClock()
    # 0.9 steps an update: every tenth update leaves the value as it is.
    board = SimulatedBoard(power=9.0, period_s=0.1, resolution_mj=1000)
    timing = probe_timing(CountedRead(board, clock), clock, updates=20)
    assert timing.period_s == pytest.approx(0.1, abs=0.001)
    assert timing.resolution_j == pytest.approx(1.0)


def test_a_counter_without_updates_has_no_timing() -> None:
    clock = SimulatedClock()
    read = CountedRead(SimulatedBoard(power=0.0), clock)
    with pytest.raises(MeasurementError, match="changed 0 times in 2 s"):
        probe_timing(read, clock, timeout_s=2.0)


def test_a_reset_during_the_probe_is_told() -> None:
    clock = SimulatedClock()
    board = SimulatedBoard(power=100.0, resets_s=[clock.now_s() + 0.5])
    with pytest.raises(CounterResetError):
        probe_timing(CountedRead(board, clock), clock)


def wait_often(finder: EdgeFinder, pause: Callable[[], None]) -> None:
    for _ in range(8):
        assert finder.wait_for_edge() is not None
        pause()


def test_a_period_that_changed_is_noticed() -> None:
    clock = SimulatedClock()
    read = CountedRead(SimulatedBoard(power=100.0, period_s=0.1), clock)
    finder = EdgeFinder(read, clock, CounterTiming(0.02, 0.002, 0.001, READ_COST_S))
    wait_often(finder, lambda: None)
    assert finder.contradicts_timing


def test_missed_updates_do_not_speak_against_the_period() -> None:
    clock = SimulatedClock()
    finder = finder_of(SimulatedBoard(power=100.0, period_s=0.1), clock)
    wait_often(finder, lambda: clock.sleep(0.25))
    wait_often(finder, lambda: None)
    assert not finder.contradicts_timing


def test_edges_rise_in_time_and_energy() -> None:
    clock = SimulatedClock()
    finder = finder_of(SimulatedBoard(power=100.0, period_s=0.02, jitter_s=0.009), clock)
    edges = [finder.wait_for_edge() for _ in range(60)]
    for earlier, later in pairwise(edges):
        assert earlier is not None
        assert later is not None
        assert later.time_s > earlier.time_s
        assert later.energy_j > earlier.energy_j
