"""Boards without an energy counter."""

from __future__ import annotations

import random
import statistics
import threading
import time
from typing import Any

import pynvml
import pytest

from pytest_llem.errors import MeasurementError
from pytest_llem.meters import Window, open_meter
from pytest_llem.meters.base import MeterRequest
from pytest_llem.meters.nvidia.meter import open_nvml_meter
from pytest_llem.meters.nvidia.power_sensor import samples_partly
from tests.simulators import LoadedPower, SimulatedBoard, SimulatedClock, install

NOT_SUPPORTED = pynvml.NVML_ERROR_NOT_SUPPORTED
NO_COUNTER = {"nvmlDeviceGetTotalEnergyConsumption": NOT_SUPPORTED}
NO_BUFFER = {**NO_COUNTER, "nvmlDeviceGetSamples": NOT_SUPPORTED}
NO_FIELDS = {**NO_BUFFER, pynvml.NVML_FI_DEV_POWER_INSTANT: NOT_SUPPORTED}


def board_of(name: str = "Tesla P100", **options: Any) -> SimulatedBoard:
    """A board that keeps its clocks up for a while after work."""
    return SimulatedBoard(name=name, power=LoadedPower(50.0, 120.0, 0.1), errors=NO_COUNTER, **options)


def window_of(seconds: float, board: SimulatedBoard | None = None) -> tuple[Window, float]:
    """A window of work at 200 W, in virtual time, and its true joules."""
    clock = SimulatedClock()
    board = board_of() if board is None else board
    with install([board], clock), open_meter("nvml", clock=clock) as meter, meter.window() as window:
        start_s = clock.now_s()
        board.run(clock, seconds, 200.0)
        true_j = board.window_energy_j(start_s, clock.now_s())
    return window, true_j


class TestBuffer:
    def test_the_interval_covers_the_truth(self) -> None:
        """All that the work makes the board draw, its fall to idle power included."""
        generator = random.Random(3)  # noqa: S311
        covered, widths = [], []
        for _ in range(40):
            window, true_j = window_of(generator.uniform(0.1, 1.5), board_of(phase_s=generator.uniform(0.0, 0.02)))
            assert window.joules is not None
            assert window.uncertainty_j is not None
            covered.append(abs(window.joules - true_j) <= window.uncertainty_j)
            widths.append(window.uncertainty_j / true_j)
        assert statistics.fmean(covered) >= 0.9
        assert statistics.median(widths) < 0.02

    def test_so_it_does_where_samples_are_noisy(self) -> None:
        generator = random.Random(4)  # noqa: S311
        covered = []
        for seed in range(60):
            phase_s = generator.uniform(0.0, 0.02)
            board = SimulatedBoard(errors=NO_COUNTER, name="Tesla P100", sample_noise_w=1.0, phase_s=phase_s, seed=seed)
            window, true_j = window_of(generator.uniform(0.1, 1.5), board)
            assert window.joules is not None
            assert window.uncertainty_j is not None
            covered.append(abs(window.joules - true_j) <= window.uncertainty_j)
        assert statistics.fmean(covered) >= 0.9

    def test_a_window_of_a_minute_is_whole(self) -> None:
        """Its thread fetches what has come every second or so."""
        clock = SimulatedClock()
        with (
            install([SimulatedBoard(name="Tesla P100", power=150.0, errors=NO_COUNTER)], clock),
            open_nvml_meter(MeterRequest("cuda", None, clock)) as meter,
            meter.window() as window,
        ):
            for _ in range(60):
                clock.work(1.0)
                meter._power_sensors[0].source.fetch()
        assert window.joules == pytest.approx(150.0 * window.seconds, abs=window.uncertainty_j)

    def test_samples_that_can_be_read_late_are_waited_for(self) -> None:
        window, true_j = window_of(0.5, SimulatedBoard(errors=NO_COUNTER, name="Tesla P100", sample_delay_s=0.1))
        assert window.joules is not None
        assert window.uncertainty_j is not None
        assert abs(window.joules - true_j) <= window.uncertainty_j < 0.03 * true_j

    def test_it_says_what_it_is(self) -> None:
        window, _ = window_of(1.0)
        (warning,) = window.warnings
        assert "has no energy counter" in warning
        assert "power samples, one every 20 ms" in warning
        assert window.valid

    def test_a_board_that_looks_away_says_so(self) -> None:
        window, _ = window_of(1.0, board_of("NVIDIA A100-SXM4-40GB", sample_period_s=0.1, duty=0.25))
        assert any("samples 25 ms of every 100 ms" in text for text in window.warnings)

    def test_samples_that_do_not_come_are_below_the_resolution(self) -> None:
        window, _ = window_of(0.3, board_of(sample_delay_s=2.0))
        assert window.joules is None
        assert "below the resolution of the power sensor" in str(window.reason)

    def test_the_time_is_that_of_the_work(self) -> None:
        assert window_of(0.7, board_of(read_cost_s=0.005))[0].seconds == pytest.approx(0.7)

    def test_a_board_with_a_counter_beside_it_is_summed(self) -> None:
        clock = SimulatedClock()
        boards = [SimulatedBoard(uuid="GPU-a", power=100.0), SimulatedBoard(uuid="GPU-b", errors=NO_COUNTER)]
        with install(boards, clock), open_meter("nvml", device="cuda", clock=clock) as meter:
            assert meter.auto_window_s >= 5.0  # that of the slower sensor
            with meter.window() as window:
                clock.work(1.0)
        assert window.joules == pytest.approx(225.0, abs=window.uncertainty_j)
        assert set(window.boards_j) == {"GPU-a", "GPU-b"}

    def test_idle_power_is_measured_the_same_way(self) -> None:
        clock = SimulatedClock()
        board = SimulatedBoard(power=LoadedPower(50.0), errors=NO_COUNTER)
        with install([board], clock), open_meter("nvml", clock=clock) as meter:
            idle = meter.idle_power()
        assert idle.settled
        assert idle.uncertainty_w is not None
        assert idle.power_w == pytest.approx(50.0, abs=idle.uncertainty_w)


@pytest.mark.parametrize(
    ("errors", "seconds", "text"),
    [(NO_BUFFER, 0.3, "instantaneous power, read every 50 ms"), (NO_FIELDS, 1.0, "mean power of the last second")],
)
def test_without_a_buffer_a_thread_reads_the_power(errors: dict[Any, int], seconds: float, text: str) -> None:
    """In real time: threads know no other."""
    board = SimulatedBoard(power=150.0, errors=errors, name="Tesla P100")
    with install([board]), open_meter("nvml") as meter:
        with meter.window() as window:
            time.sleep(seconds)
        assert window.joules is not None
        assert window.uncertainty_j is not None
        assert abs(window.joules - 150.0 * window.seconds) <= window.uncertainty_j
        assert any(text in warning for warning in window.warnings)


def test_a_board_lost_in_the_window_is_one_clear_failure_and_leaves_no_thread() -> None:
    before = threading.enumerate()
    clock = SimulatedClock()
    board = SimulatedBoard(uuid="GPU-1", errors=NO_COUNTER, lost_at_s=1000.5)
    with install([board], clock), open_meter("nvml", clock=clock) as meter:
        with pytest.raises(MeasurementError, match=r"^GPU-1 .*stopped answering"), meter.window():
            clock.work(1.0)
        board.lost_at_s = None
        with pytest.raises(ZeroDivisionError), meter.window():
            1 / 0  # noqa: B018
    assert not [thread for thread in threading.enumerate() if thread not in before]


@pytest.mark.parametrize(
    ("name", "blind"),
    [
        ("NVIDIA A100-SXM4-80GB", True),
        ("NVIDIA H100 PCIe", True),
        ("NVIDIA GH200 480GB", True),
        ("NVIDIA RTX A1000", False),
        ("Tesla V100-SXM2-16GB", False),
        (None, False),
    ],
)
def test_which_boards_look_away(name: str | None, blind: bool) -> None:
    assert samples_partly(name) is blind
