"""What a few seconds of watching tell of a counter."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from pytest_llem.meters.nvidia.counter.calibration import Calibration, calibrate
from pytest_llem.meters.nvidia.counter.counter import Counter
from tests.simulators import FunctionPower, LoadedPower, SimulatedBoard, SimulatedClock

if TYPE_CHECKING:
    from tests.simulators import Power


def watch(board: SimulatedBoard, read_cost_s: float | None = 0.0003) -> tuple[Calibration | None, float]:
    """Its calibration, and the seconds that it took; ``read_cost_s``: ``None`` for reads as long as the board's."""
    clock = SimulatedClock()

    def read() -> float:
        before_s, after_s = board.draw_call_s() if read_cost_s is None else (read_cost_s, 0.0)
        clock.sleep(before_s)
        joules = board.counter_mj(clock.now_s()) / 1e3
        clock.sleep(after_s)
        return joules

    return calibrate(Counter(read, clock)), clock.now_s() - 1000.0


@pytest.mark.parametrize("period_s", [0.02, 0.05, 0.1])
def test_a_counter_that_may_be_read_often(period_s: float) -> None:
    calibration, took_s = watch(SimulatedBoard(period_s=period_s, resolution_mj=5, jitter_s=0.05 * period_s))
    assert calibration is not None
    assert calibration.timing.period_s == pytest.approx(period_s, rel=0.03)
    assert calibration.timing.resolution_j == 0.005
    assert calibration.timing.read_cost_s == pytest.approx(0.0003)
    assert not calibration.under_reports
    assert took_s < 5.0


@pytest.mark.parametrize("seed", range(4))
def test_reads_of_milliseconds_do_not_hide_the_period(seed: int) -> None:
    """Not snapped to what drivers are asked for, it would be wrong by some tenths of a per cent."""
    calibration, _ = watch(SimulatedBoard(phase_s=0.0123 * seed, seed=seed), read_cost_s=None)
    assert calibration is not None
    assert calibration.timing.regular
    assert calibration.timing.period_s == pytest.approx(0.1, rel=1e-9)
    assert not calibration.under_reports


@pytest.mark.parametrize("seed", range(4))
def test_a_counter_whose_updates_come_at_any_moment_keeps_no_lattice(seed: int) -> None:
    calibration, _ = watch(SimulatedBoard(jitter_s=0.03, seed=seed))
    assert calibration is not None
    assert not calibration.timing.regular
    assert calibration.timing.period_s == pytest.approx(0.1, rel=0.1)
    # Uniform within 30 ms.
    assert calibration.timing.jitter_s == pytest.approx(0.03 / 3**0.5, rel=0.4)


@pytest.mark.parametrize("read_loss_s", [0.013, 0.001, 0.0001])
@pytest.mark.parametrize("period_s", [0.02, 0.1])
def test_a_counter_that_loses_counts_by_being_read(period_s: float, read_loss_s: float) -> None:
    """From a loss of a tenth of what a reader at 1 kHz sees to one of everything."""
    board = SimulatedBoard(period_s=period_s, read_loss_s=read_loss_s, jitter_s=0.03 * period_s)
    calibration, took_s = watch(board)
    assert calibration is not None
    assert calibration.under_reports
    assert took_s < 9.0


def test_a_counter_that_stands_still_only_while_it_is_looked_at() -> None:
    calibration, took_s = watch(SimulatedBoard(read_loss_s=0.013))
    assert calibration is not None
    assert calibration.under_reports
    assert took_s < 6.6


def _restless(seed: int) -> Power:
    levels_w = [random.Random(f"{seed} {k}").uniform(75.0, 85.0) for k in range(20_000)]  # noqa: S311
    return FunctionPower(lambda at_s: levels_w[int(at_s * 20.0) % len(levels_w)])


@pytest.mark.parametrize("seed", range(3))
def test_a_restless_board_is_not_taken_for_one_that_loses_counts(seed: int) -> None:
    calibration, _ = watch(SimulatedBoard(power=_restless(seed), jitter_s=0.008, seed=seed))
    assert calibration is not None
    assert not calibration.under_reports


def test_a_board_that_calms_down_meanwhile_is_none_either() -> None:
    power = LoadedPower(60.0, tail_w=800.0, decay_s=2.0)
    power.start_work(999.0, 800.0)
    power.end_work(1000.0)
    calibration, _ = watch(SimulatedBoard(power=power))
    assert calibration is not None
    assert not calibration.under_reports


@pytest.mark.parametrize("phase_s", [0.0, 0.5, 1.0, 1.5, 2.0, 2.5])
@pytest.mark.parametrize("period_s", [1.7, 2.5, 3.0])
def test_a_slow_counter_is_not_taken_for_one_that_loses_counts(period_s: float, phase_s: float) -> None:
    """A stretch with one update in it seems to show far more power than the stretch before."""
    assert watch(SimulatedBoard(period_s=period_s, phase_s=phase_s))[0] is None


@pytest.mark.parametrize("board", [SimulatedBoard(power=0.0), SimulatedBoard(period_s=60.0)])
def test_a_counter_that_stands_still_has_no_timing(board: SimulatedBoard) -> None:
    calibration, took_s = watch(board)
    assert calibration is None
    assert took_s < 6.6
