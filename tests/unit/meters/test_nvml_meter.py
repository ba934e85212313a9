from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pynvml
import pytest

from pytest_llem.errors import MeasurementError, MeterUnavailableError
from pytest_llem.meters import Window, open_meter
from tests.simulators import LoadedPower, SimulatedBoard, SimulatedClock, install

if TYPE_CHECKING:
    from collections.abc import Sequence

NOT_SUPPORTED = pynvml.NVML_ERROR_NOT_SUPPORTED


@pytest.fixture(autouse=True)
def _all_boards_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def _window(boards: Sequence[SimulatedBoard], seconds: float, gpu_uuids: Sequence[str] | None = None) -> Window:
    clock = SimulatedClock()
    with (
        install(boards, clock),
        open_meter("nvml", device="cuda", gpu_uuids=gpu_uuids, clock=clock) as meter,
        meter.window() as window,
    ):
        clock.work(seconds)
    return window


def test_energy_and_time_of_a_window() -> None:
    window = _window([SimulatedBoard(uuid="GPU-1", power=250.0, power_limit_w=600, sm_clock_hz=1.5e9)], 10.0)
    assert window.seconds == pytest.approx(10.0)
    assert window.uncertainty_j is not None
    assert window.joules == pytest.approx(2500.0, abs=window.uncertainty_j)
    # A period at each edge is at most 25 J of 2500.
    assert window.uncertainty_j < 25
    assert window.boards_j == {"GPU-1": window.joules}
    assert window.power_limit_w == {"GPU-1": 600.0}
    assert window.sm_clock_hz == {"GPU-1": 1.5e9}
    assert window.valid
    assert window.warnings == []
    assert window.reason is None


@pytest.mark.parametrize("seconds", [0.3, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("idle_w", [60.0, 300.0])
def test_the_interval_covers_the_truth(seconds: float, idle_w: float) -> None:
    """At any phase of the counter, from idle as well as in the midst of work."""
    generator = random.Random(1)  # noqa: S311
    covered = 0
    windows = 300
    for _ in range(windows):
        clock = SimulatedClock()
        board = SimulatedBoard(
            power=LoadedPower(idle_w), phase_s=generator.uniform(0, 0.1), jitter_s=0.005, read_cost_s=5e-4
        )
        with (
            install([board], clock),
            open_meter("nvml", clock=clock) as meter,
            meter.window() as window,
        ):
            board.run(clock, seconds, 300.0)
        assert window.joules is not None
        assert window.uncertainty_j is not None
        covered += abs(window.joules - 300.0 * seconds) <= window.uncertainty_j
    assert covered / windows >= 0.9


def test_time_is_that_of_the_work_and_not_of_reading() -> None:
    window = _window([SimulatedBoard(read_cost_s=0.02)], 1.0)
    assert window.seconds == pytest.approx(1.0)


def test_the_device_is_waited_for_at_both_edges() -> None:
    clock = SimulatedClock()
    pending_s = [0.5]

    def synchronize() -> None:
        while pending_s:
            clock.work(pending_s.pop())

    with install([SimulatedBoard(power=100.0)], clock), open_meter("nvml", clock=clock) as meter:
        with meter.window(synchronize) as window:
            pending_s.append(2.0)
        # The first half second was queued before the window, the two seconds inside it.
        assert window.seconds == pytest.approx(2.0)
        assert window.joules == pytest.approx(200.0, abs=10.1)


class TestBoards:
    BOARDS = (
        SimulatedBoard(uuid="GPU-a", power=100.0),
        SimulatedBoard(uuid="GPU-b", power=200.0),
        SimulatedBoard(uuid="GPU-c", power=400.0),
    )

    def test_exactly_the_boards_asked_for_are_summed(self) -> None:
        window = _window(self.BOARDS, 100.0, ["c", "GPU-a"])
        assert window.boards_j == {
            "GPU-c": pytest.approx(40_000, abs=45),
            "GPU-a": pytest.approx(10_000, abs=15),
        }
        assert window.joules == sum(window.boards_j.values())

    def test_without_a_choice_all_visible_boards_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
        assert set(_window(self.BOARDS, 1.0).boards_j) == {"GPU-a", "GPU-c"}

    def test_on_the_cpu_several_boards_are_a_question(self) -> None:
        with (
            install(self.BOARDS),
            pytest.raises(MeterUnavailableError, match=r"GPU-a .*GPU-b .*GPU-c .*CUDA_VISIBLE_DEVICES"),
        ):
            open_meter("nvml", device="cpu")

    def test_on_the_cpu_the_one_board_left_is_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-b")
        clock = SimulatedClock()
        with (
            install(self.BOARDS, clock),
            open_meter("nvml", device="cpu", clock=clock) as meter,
            meter.window() as window,
        ):
            clock.work(1.0)
        assert set(window.boards_j) == {"GPU-b"}

    def test_no_board_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        with install(self.BOARDS), pytest.raises(MeterUnavailableError, match="no GPU is visible"):
            open_meter("nvml", device="cuda")

    def test_an_uncertain_choice_is_told_with_every_window(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        boards = [SimulatedBoard(uuid="GPU-a"), SimulatedBoard(uuid="GPU-b", name="another")]
        assert any("PCI_BUS_ID" in warning for warning in _window(boards, 1.0).warnings)


class TestFaults:
    def test_a_window_below_the_resolution_is_unknown_and_not_zero(self) -> None:
        window = _window([SimulatedBoard(uuid="GPU-1", phase_s=0.05)], 0.01)
        assert window.joules is None
        assert window.uncertainty_j is None
        assert window.boards_j == {}
        assert window.reason is not None
        assert "below the counter's resolution" in window.reason
        assert "GPU-1" in window.reason
        assert window.seconds == pytest.approx(0.01)

    def test_one_silent_board_makes_the_sum_unknown(self) -> None:
        boards = [SimulatedBoard(uuid="GPU-a"), SimulatedBoard(uuid="GPU-b", period_s=60.0)]
        window = _window(boards, 1.0)
        assert window.joules is None
        assert set(window.boards_j) == {"GPU-a"}

    def test_a_reset_makes_the_window_invalid(self) -> None:
        window = _window([SimulatedBoard(uuid="GPU-1", resets_s=[1000.5])], 1.0)
        assert window.joules is None
        assert not window.valid
        assert any("GPU-1" in warning and "reset" in warning for warning in window.warnings)

    @pytest.mark.parametrize(
        "code", [pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_UNKNOWN, pynvml.NVML_ERROR_UNINITIALIZED]
    )
    def test_a_lost_board_is_one_clear_failure(self, code: int) -> None:
        boards = [
            SimulatedBoard(uuid="GPU-a"),
            SimulatedBoard(uuid="GPU-b", lost_at_s=1000.5, lost_error=code),
        ]
        with pytest.raises(MeasurementError, match=r"^GPU-b .*stopped answering.*xid\)$"):
            _window(boards, 1.0)

    def test_an_error_of_the_work_goes_through(self) -> None:
        with (
            install([SimulatedBoard()]) as library,
            open_meter("nvml") as meter,
            pytest.raises(ZeroDivisionError),
            meter.window(),
        ):
            1 / 0  # noqa: B018
        assert library.initialized == 0

    @pytest.mark.parametrize("missing", [True, False])
    def test_a_board_without_counter_is_refused_and_nvml_released(self, missing: bool) -> None:
        query = "nvmlDeviceGetTotalEnergyConsumption"
        board = SimulatedBoard(uuid="GPU-1", errors={} if missing else {query: NOT_SUPPORTED})
        with install([board], missing=[query] if missing else []) as library:
            with pytest.raises(MeterUnavailableError, match=r"GPU-1 .*has no energy counter; it needs"):
                open_meter("nvml")
            assert library.initialized == 0

    def test_a_board_divided_by_mig_is_refused(self) -> None:
        with (
            install([SimulatedBoard(mig_mode=1, mig_uuids=["MIG-a"])]),
            pytest.raises(MeterUnavailableError, match="divided by MIG"),
        ):
            open_meter("nvml", device="cuda")

    def test_what_the_board_does_not_tell_is_absent(self) -> None:
        window = _window([SimulatedBoard(power_limit_w=None, sm_clock_hz=None)], 1.0)
        assert window.joules is not None
        assert window.sm_clock_hz == {}
        assert window.power_limit_w == {}
