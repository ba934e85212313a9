from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pynvml
import pytest

from pytest_llem.errors import MeasurementError, MeterUnavailableError
from pytest_llem.meters import Window, open_meter
from tests.simulators import LoadedPower, SimulatedBoard, SimulatedClock, install
from tests.simulators.registry import FUNCTIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

NOT_SUPPORTED = pynvml.NVML_ERROR_NOT_SUPPORTED

_INDISPENSABLE = {
    "nvmlInitWithFlags",
    "nvmlDeviceGetCount_v2",
    "nvmlDeviceGetHandleByIndex_v2",
    "nvmlDeviceGetUUID",
}


def _window(boards: Sequence[SimulatedBoard], seconds: float, **options: Any) -> Window:
    clock = SimulatedClock()
    with (
        install(boards, clock),
        open_meter("nvml", device="cuda", clock=clock, **options) as meter,
        meter.window() as window,
    ):
        clock.work(seconds)
    return window


def test_energy_and_time_of_a_window() -> None:
    window = _window([SimulatedBoard(uuid="GPU-1", power=250.0, power_limit_w=600, sm_clock_hz=1.5e9)], 10.0)
    assert window.seconds == pytest.approx(10.0)
    assert window.uncertainty_j is not None
    assert window.joules == pytest.approx(2500.0, abs=window.uncertainty_j)
    # Two milliseconds of 250 W.
    assert window.uncertainty_j < 0.6
    assert window.boards_j == {"GPU-1": window.joules}
    assert window.power_limit_w == {"GPU-1": 600.0}
    assert window.sm_clock_hz == {"GPU-1": 1.5e9}
    assert window.valid
    assert window.warnings == []
    assert window.reason is None


@pytest.mark.parametrize("seconds", [0.3, 1.0])
@pytest.mark.parametrize("idle_w", [60.0, 300.0])
def test_the_interval_covers_the_truth(seconds: float, idle_w: float) -> None:
    """At any phase of the counter, from idle as well as in the midst of work."""
    generator = random.Random(1)  # noqa: S311
    covered = 0
    windows = 15
    for seed in range(windows):
        clock = SimulatedClock()
        board = SimulatedBoard(
            power=LoadedPower(idle_w),
            phase_s=generator.uniform(0, 0.1),
            jitter_s=0.005,
            read_cost_s=5e-4,
            seed=seed,
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
        window = _window(self.BOARDS, 100.0, gpu_uuids=["c", "GPU-a"])
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
        window = _window([SimulatedBoard(uuid="GPU-1", phase_s=0.05)], 0.01, aligned=False)
        assert window.joules is None
        assert window.uncertainty_j is None
        assert window.boards_j == {}
        assert window.reason is not None
        assert "below the counter's resolution" in window.reason
        assert "GPU-1" in window.reason
        assert window.seconds == pytest.approx(0.01)

    def test_a_counter_that_stands_still_is_below_the_resolution_too(self) -> None:
        window = _window([SimulatedBoard(uuid="GPU-1", power=0.0)], 1.0)
        assert window.joules is None
        assert window.valid
        assert "below the counter's resolution" in str(window.reason)
        assert "updated too rarely" in str(window.reason)

    def test_a_window_of_no_time_is_below_the_resolution(self) -> None:
        assert "resolution" in str(_window([SimulatedBoard()], 0.0).reason)

    def test_an_energy_less_than_its_uncertainty_is_unknown(self) -> None:
        window = _window([SimulatedBoard(jitter_s=0.005, read_cost_s=0.001)], 1e-5)
        assert window.joules is None
        assert window.boards_j == {}
        assert "below the sensor's resolution" in str(window.reason)

    def test_one_silent_board_makes_the_sum_unknown(self) -> None:
        boards = [SimulatedBoard(uuid="GPU-a"), SimulatedBoard(uuid="GPU-b", period_s=60.0)]
        window = _window(boards, 1.0)
        assert window.joules is None
        assert set(window.boards_j) == {"GPU-a"}

    @pytest.mark.parametrize("aligned", [True, False])
    def test_a_reset_makes_the_window_invalid_and_the_next_one_is_whole_again(self, aligned: bool) -> None:
        clock = SimulatedClock()
        board = SimulatedBoard(uuid="GPU-1", power=LoadedPower(60.0, 200.0, 0.15))
        with install([board], clock), open_meter("nvml", clock=clock, aligned=aligned) as meter:
            windows, true_j = [], []
            assert meter.auto_window_s > 0
            for number in range(4):
                with meter.window() as window:
                    if number == 1:
                        board.resets_s = [clock.now_s() + 0.3]
                    start_s = clock.now_s()
                    board.run(clock, 0.95, 300.0)
                    true_j.append(board.window_energy_j(start_s, clock.now_s()))
                windows.append(window)
                clock.sleep(1.0)
        assert [window.valid for window in windows] == [True, False, True, True]
        assert windows[1].joules is None
        assert windows[1].boards_j == {}
        assert [one.kind for one in windows[1].disturbances] == ["reset"]
        assert windows[1].warnings == [windows[1].reason]
        assert "GPU-1" in windows[1].warnings[0]
        for window, expected_j in zip(windows[2:], true_j[2:], strict=True):
            # Plain reads see what is drawn in the window alone.
            expected_j = expected_j if aligned else 285.0
            assert window.joules == pytest.approx(expected_j, abs=window.uncertainty_j)

    def test_a_reset_between_windows_disturbs_none(self) -> None:
        clock = SimulatedClock()
        board = SimulatedBoard(power=LoadedPower(60.0, 200.0, 0.15))
        with install([board], clock), open_meter("nvml", clock=clock) as meter:
            assert meter.auto_window_s > 0
            for _ in range(3):
                with meter.window() as window:
                    start_s = clock.now_s()
                    board.run(clock, 1.0, 300.0)
                    true_j = board.window_energy_j(start_s, clock.now_s())
                board.resets_s = [clock.now_s() + 0.2]
                clock.sleep(1.0)
                assert window.valid
                assert window.joules == pytest.approx(true_j, abs=window.uncertainty_j)

    def test_a_reset_of_one_board_is_told_of_that_board_alone(self) -> None:
        boards = [SimulatedBoard(uuid="GPU-a", phase_s=0.03), SimulatedBoard(uuid="GPU-b")]
        clock = SimulatedClock()
        with install(boards, clock), open_meter("nvml", device="cuda", clock=clock) as meter:
            assert meter.auto_window_s > 0
            with meter.window() as window:
                boards[1].resets_s = [clock.now_s() + 0.3]
                clock.work(1.0)
        assert window.joules is None
        assert window.boards_j == {"GPU-a": pytest.approx(125.0, rel=0.01)}
        (reset,) = window.disturbances
        assert "GPU-b" in reset.text

    @pytest.mark.parametrize(
        "code", [pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_UNKNOWN, pynvml.NVML_ERROR_UNINITIALIZED]
    )
    def test_a_lost_board_is_one_clear_failure(self, code: int) -> None:
        boards = [
            SimulatedBoard(uuid="GPU-a"),
            SimulatedBoard(uuid="GPU-b", lost_error=code),
        ]
        clock = SimulatedClock()
        with install(boards, clock), open_meter("nvml", device="cuda", clock=clock) as meter:
            assert meter.auto_window_s > 0
            boards[1].lost_at_s = clock.now_s() + 0.5
            with pytest.raises(MeasurementError, match=r"^GPU-b .*stopped answering.*xid\)$"), meter.window():
                clock.work(1.0)

    def test_a_board_lost_before_the_first_window_is_the_same_failure(self) -> None:
        with pytest.raises(MeasurementError, match="stopped answering"):
            _window([SimulatedBoard(lost_at_s=1000.5)], 1.0)

    def test_an_error_of_the_work_goes_through(self) -> None:
        clock = SimulatedClock()
        with (
            install([SimulatedBoard()], clock) as library,
            open_meter("nvml", clock=clock) as meter,
            pytest.raises(ZeroDivisionError),
            meter.window(),
        ):
            1 / 0  # noqa: B018
        assert library.initialized == 0

    @pytest.mark.parametrize("missing", [True, False])
    def test_a_board_that_tells_neither_energy_nor_power_is_refused_and_nvml_released(self, missing: bool) -> None:
        queries = ["nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetSamples", "nvmlDeviceGetPowerUsage"]
        errors = dict.fromkeys([*queries, pynvml.NVML_FI_DEV_POWER_INSTANT], NOT_SUPPORTED)
        board = SimulatedBoard(uuid="GPU-1", errors={186: NOT_SUPPORTED} if missing else errors)
        with install([board], missing=queries if missing else []) as library:
            with pytest.raises(
                MeterUnavailableError, match=r"GPU-1 .*has no energy counter; it needs.*no power.*CUDA_VISIBLE_DEVICES"
            ):
                open_meter("nvml")
            assert library.initialized == 0

    @pytest.mark.parametrize("name", sorted(FUNCTIONS.keys() - _INDISPENSABLE))
    def test_a_library_may_lack_nearly_any_function(self, name: str) -> None:
        clock = SimulatedClock()
        with install([SimulatedBoard()], clock, missing=[name]), open_meter("nvml", clock=clock) as meter:
            assert meter.check_quiet() == []
            with meter.window() as window:
                clock.work(1.0)
        assert window.joules is not None

    @pytest.mark.parametrize("name", sorted(_INDISPENSABLE))
    def test_a_library_that_cannot_find_boards_is_refused(self, name: str) -> None:
        message = r"^nvml meter: NVML (cannot list its boards: |could not be initialised \()Function Not Found"
        with install([SimulatedBoard()], missing=[name]), pytest.raises(MeterUnavailableError, match=message):
            open_meter("nvml")

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
