"""Two meters of one board that measure by turns: two processes, each with its model loaded, one at work at a time."""

from __future__ import annotations

import math
import statistics
from contextlib import ExitStack
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import pytest

from pytest_llem.meters.base import MeterRequest
from pytest_llem.meters.nvidia.meter import open_nvml_meter
from tests.simulators import KINDS, LoadedPower, SimulatedBoard, SimulatedClock, install

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_llem.meters import Window
    from pytest_llem.meters.nvidia.meter import NvmlMeter

TURNS = "ABBA"
LENGTHS_S = (0.1, 0.2, 0.5, 1.0)
WINDOWS = 48  # each side has six of each length
LOADS_W = {"A": 500.0, "B": 300.0}


class Measured(NamedTuple):
    side: str
    window: Window
    true_j: float
    waited_s: float

    @property
    def error_j(self) -> float:
        assert self.window.joules is not None
        return self.window.joules - self.true_j

    @property
    def width_j(self) -> float:
        assert self.window.uncertainty_j is not None
        return self.window.uncertainty_j

    @property
    def covered(self) -> bool:
        return abs(self.error_j) <= self.width_j


def open_meter(clock: SimulatedClock) -> NvmlMeter:
    """A meter of a process of its own, as far as its boards can tell."""
    meter = open_nvml_meter(MeterRequest("cuda", None, clock))
    meter.idle_power()
    return meter


def measured_by_turns(board: SimulatedBoard, seed: int, *, meters: int = 2, rise_w: float = 0.0) -> list[Measured]:
    """Windows of either side; with one meter, the same work in one process.

    Args:
        board: both work on it.
        seed: of the lengths and of the time that passes between windows.
        meters: how many there are.
        rise_w: by how much idle power is higher from the second process on.
    """
    random, clock, measured = Random(seed), SimulatedClock(), []  # noqa: S311
    with install([board], clock), ExitStack() as stack:
        first = stack.enter_context(open_meter(clock))
        if rise_w:
            raise_idle_power(board, clock, rise_w)
        second = first if meters == 1 else stack.enter_context(open_meter(clock))
        measuring = last = None
        for number in range(WINDOWS):
            side = TURNS[number % len(TURNS)]
            measuring, last = (first if side == "A" else second), measuring
            clock.sleep(random.uniform(0.001, 0.02))
            if measuring is not last:
                measuring.others_worked()
            before_s = clock.now_s()
            measuring.pause()
            with measuring.window() as window:
                start_s = clock.now_s()
                board.run(clock, max(LENGTHS_S[number // 4 % 4] * random.gauss(1.0, 0.02), 0.1), LOADS_W[side])
                end_s = clock.now_s()
            waited_s = clock.now_s() - before_s - window.seconds
            measured.append(Measured(side, window, board.window_energy_j(start_s, end_s), waited_s))
    return measured


def raise_idle_power(board: SimulatedBoard, clock: SimulatedClock, by_w: float) -> None:
    assert isinstance(board.true_power, LoadedPower)
    board.true_power.idle_w += by_w
    board.true_power.tail_w += by_w
    board.true_power.end_work(clock.now_s())


def pooled(kind: str, *, boards: int = 2, meters: int = 2, rise_w: float = 0.0) -> list[Measured]:
    """Windows on some boards of a kind."""
    runs = (
        measured_by_turns(KINDS[kind](Random(seed)), seed, meters=meters, rise_w=rise_w)  # noqa: S311
        for seed in range(boards)
    )
    return [one for run in runs for one in run]


def median_width_j(measured: Sequence[Measured]) -> float:
    return statistics.median(one.width_j for one in measured)


@pytest.fixture
def rig() -> Iterator[tuple[SimulatedClock, SimulatedBoard, NvmlMeter]]:
    """One board, and the meter of one of two processes."""
    clock, board = SimulatedClock(), SimulatedBoard(power=LoadedPower(125.0))
    with install([board], clock), open_meter(clock) as meter:
        yield clock, board, meter


@pytest.mark.parametrize(
    ("kind", "rise_w"),
    [
        ("recorded", 0.0),
        ("recorded", 15.0),
        ("noisy", 0.0),
        ("noisy", 15.0),
        ("lag", 0.0),
        ("decay", 0.0),
        ("jitter", 0.0),
        ("no samples", 0.0),
    ],
)
def test_neither_sees_the_other(kind: str, rise_w: float) -> None:
    """Also where idle power has risen since the first meter learned it."""
    by_turns, by_one = pooled(kind, rise_w=rise_w), pooled(kind, meters=1, rise_w=rise_w)
    for side in "AB":
        own = [one for one in by_turns if one.side == side]
        assert statistics.fmean(one.covered for one in own) >= 0.93
        # As far off as where one process does all the work.
        errors_j, alone_j = ([one.error_j for one in some if one.side == side] for some in (by_turns, by_one))
        apart_j = statistics.fmean(errors_j) - statistics.fmean(alone_j)
        error_j = math.sqrt((statistics.variance(errors_j) + statistics.variance(alone_j)) / len(own))
        assert abs(apart_j) <= 3.0 * error_j + 0.03
        run = own[: WINDOWS // 2]
        assert median_width_j(run[-12:]) <= 1.5 * median_width_j(run[:12])
    assert all(one.window.valid and not one.window.warnings for one in by_turns)


def test_what_the_other_left_is_not_taken_for_idle_power() -> None:
    assert median_width_j(pooled("decay")) <= 1.15 * median_width_j(pooled("decay", meters=1))


def test_without_samples_the_others_work_is_not_asked_for_idle_power() -> None:
    """Which costs another edge of the counter in each turn."""
    by_turns, by_one = (
        statistics.median(one.waited_s for one in pooled("no samples", boards=1, meters=meters)) for meters in (2, 1)
    )
    assert by_turns <= 1.15 * by_one


def test_idle_power_is_not_what_the_board_drew_in_the_others_turn(
    rig: tuple[SimulatedClock, SimulatedBoard, NvmlMeter],
) -> None:
    """The board was found quiet just before it, and passes in no window leave no pause."""
    clock, board, meter = rig
    assert meter.check_quiet() == []
    board.run(clock, 1.0, 300.0)
    meter.others_worked()
    assert meter.idle_power().power_w == pytest.approx(125.0, abs=2.0)


def test_throttling_in_the_others_turn_is_none_in_this_ones_window(
    rig: tuple[SimulatedClock, SimulatedBoard, NvmlMeter],
) -> None:
    clock, board, meter = rig
    board.throttled_s = {"thermal": 0.0}
    with meter.window():
        board.run(clock, 0.3, 500.0)
    hot_s = clock.now_s()
    board.throttled_s = {"thermal": lambda now_s: min(max(now_s - hot_s, 0.0), 0.2)}
    clock.sleep(0.3)
    meter.others_worked()
    with meter.window() as window:
        board.run(clock, 0.3, 500.0)
    assert window.disturbances == []


def test_short_work_of_the_other_just_before_is_waited_for(
    rig: tuple[SimulatedClock, SimulatedBoard, NvmlMeter],
) -> None:
    """No sample shows it yet when this one's turn comes."""
    clock, board, meter = rig
    for _ in range(6):
        with meter.window():
            board.run(clock, 0.1, 300.0)
        board.run(clock, 0.006, 500.0)
        meter.others_worked()
        meter.pause()
        with meter.window() as window:
            board.run(clock, 0.02, 300.0)
        assert window.joules == pytest.approx(6.0, abs=window.uncertainty_j)


def test_the_others_window_makes_no_quiet_board_a_busy_one(
    rig: tuple[SimulatedClock, SimulatedBoard, NvmlMeter],
) -> None:
    """Its utilisation is still that of the other's window, its power is not."""
    clock, board, meter = rig
    with open_meter(clock) as other:
        assert meter.check_quiet() == []
        board.utilization_percent = 60
        with other.window():
            board.run(clock, 0.5, 300.0)
        clock.sleep(0.1)
        meter.others_worked()
        assert meter.check_quiet() == []
