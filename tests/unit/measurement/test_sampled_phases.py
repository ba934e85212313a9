from __future__ import annotations

import random
import statistics
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.measurement.phase_power import Stretch, _repetition
from pytest_llem.measurement.sampled_phases import PhasedWindow, SampledPhases, TimedCall, sampled_phases
from pytest_llem.meters import open_meter
from pytest_llem.meters.base import PowerCurve
from tests.simulators import LoadedPower, SimulatedBoard, SimulatedClock, install, noisy_board

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.meters import Meter

PREFILL_W, DECODE_W, IDLE_W = 450.0, 220.0, 120.0


@dataclass
class Work:
    """Calls on a board in simulated time.

    Attributes:
        first_s: time to the first token, by the call's index.
        spread: its standard deviation from call to call, relative.
    """

    clock: SimulatedClock
    power: LoadedPower
    first_s: Sequence[float]
    decode_s: float = 0.4
    decode_w: Sequence[float] = (DECODE_W,)
    spread: float = 0.0
    seed: int = 1

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)  # noqa: S311
        self.prefills_j: list[float] = []

    def call(self, index: int, prefill_only: bool = False) -> tuple[float, float]:
        """Run a call; when it began and ended."""
        start_s = self.clock.now_s()
        self.power.start_work(start_s, PREFILL_W)
        self.clock.work(self.first_s[index] * (1.0 + self.spread * self.random.gauss(0.0, 1.0)))
        if not prefill_only:
            self.prefills_j.append(PREFILL_W * (self.clock.now_s() - start_s))
            for power_w in self.decode_w:
                self.power.start_work(self.clock.now_s(), power_w)
                self.clock.work(self.decode_s / len(self.decode_w))
        return start_s, self.clock.now_s()

    def timed(self, passes: int = 3) -> dict[int, list[float]]:
        """Times to the first token of instrumented passes."""
        return {
            index: [first_s * (1.0 + self.spread * self.random.gauss(0.0, 1.0)) for _ in range(passes)]
            for index, first_s in enumerate(self.first_s)
        }

    def window(self, meter: Meter, passes: int, prefill_only: bool = False) -> PhasedWindow:
        with meter.window() as window:
            began_s = self.clock.now_s()
            edges_s = [self.call(index, prefill_only) for _ in range(passes) for index in range(len(self.first_s))]
            self.power.end_work(self.clock.now_s())
        calls = [
            TimedCall(number % len(self.first_s), start_s - began_s, end_s - began_s)
            for number, (start_s, end_s) in enumerate(edges_s)
        ]
        return PhasedWindow.of(window, calls)


def _error(said: SampledPhases, work: Work) -> tuple[float, float]:
    """How far the prefill is from the truth, and its half-width; in joules."""
    assert said.reason is None
    assert said.prefill_energy_j is not None
    assert said.prefill_energy_uncertainty_j is not None
    return abs(said.prefill_energy_j - statistics.fmean(work.prefills_j)), said.prefill_energy_uncertainty_j


def _measured(
    board: SimulatedBoard, first_s: Sequence[float], passes: int = 2, **changes: Any
) -> tuple[Work, list[PhasedWindow], SampledPhases]:
    """Five windows of whole calls; the work, the meter's windows and what is said of them."""
    clock = SimulatedClock()
    assert isinstance(board.true_power, LoadedPower)
    work = Work(clock, board.true_power, first_s, **changes)
    with install([board], clock), open_meter("nvml", device="cuda", clock=clock) as meter:
        windows = []
        for _ in range(5):
            clock.sleep(work.random.uniform(0.0, 0.1))
            windows.append(work.window(meter, passes))
    return work, windows, sampled_phases(windows, work.timed())


def _board(seed: int, **changes: Any) -> SimulatedBoard:
    power = LoadedPower(IDLE_W, afterglow_w=3.0)
    return noisy_board(power=power, seed=seed, uuid=f"GPU-phases-{seed}", phase_s=0.013 * (seed % 7), **changes)


@pytest.mark.parametrize("first_s", [0.01, 0.03, 0.1, 0.3])
def test_the_interval_covers_the_truth(first_s: float) -> None:
    covered = []
    for seed in range(6):
        work, _, said = _measured(_board(seed), [first_s], spread=0.05, seed=seed)
        error_j, half_width_j = _error(said, work)
        covered.append(error_j <= half_width_j)
        assert half_width_j < 0.15 * statistics.fmean(work.prefills_j)
    assert sum(covered) >= 5


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("first_s", [0.02, 0.1])
def test_calls_of_one_token_say_the_same(first_s: float, seed: int) -> None:
    clock = SimulatedClock()
    board = _board(seed)
    assert isinstance(board.true_power, LoadedPower)
    work = Work(clock, board.true_power, [first_s], spread=0.03, seed=seed)
    with install([board], clock), open_meter("nvml", device="cuda", clock=clock) as meter:
        whole = [work.window(meter, 2) for _ in range(5)]
        alone = [work.window(meter, round(1.0 / first_s), prefill_only=True) for _ in range(3)]
    said = sampled_phases(whole, work.timed())
    of_one_token_j = sum(sum(w.boards_j.values()) for w in alone) / sum(len(w.calls) for w in alone)
    assert said.prefill_energy_j is not None
    assert said.prefill_energy_uncertainty_j is not None
    # The calls of one token are timed as they run, so that their spread is part of neither interval.
    assert abs(said.prefill_energy_j - of_one_token_j) <= said.prefill_energy_uncertainty_j + 0.03 * of_one_token_j


def test_power_that_changes_over_the_decoding() -> None:
    work, _, said = _measured(_board(2), [0.05], decode_w=[DECODE_W * (0.8 + 0.04 * step) for step in range(11)])
    error_j, half_width_j = _error(said, work)
    assert error_j <= half_width_j
    # Left to the noise, the change would double that.
    assert half_width_j < 0.025 * work.prefills_j[0]


def test_calls_of_several_lengths() -> None:
    work, _, said = _measured(_board(3), [0.03, 0.12], passes=1)
    error_j, half_width_j = _error(said, work)
    assert error_j <= half_width_j
    assert said.prefill_latency_s == pytest.approx(0.075, rel=0.02)


@pytest.mark.parametrize("first_s", [0.03, 0.1])
def test_samples_that_are_means_of_a_period(first_s: float) -> None:
    board = _board(4, sensor_lag_s=0.0, sample_mean_s=0.02, sample_dates_late=False)
    work, _, said = _measured(board, [first_s])
    error_j, half_width_j = _error(said, work)
    assert error_j <= half_width_j


def _exact(power: LoadedPower, start_s: float, end_s: float, from_s: float) -> PowerCurve:
    """What a sensor without noise shows about a window, from an instant on."""
    dates_s = [from_s + 0.02 * number for number in range(int((end_s - from_s) / 0.02))]
    return PowerCurve([date_s - start_s for date_s in dates_s], [power.sensed_w(d - 0.003, 0.0125) for d in dates_s])


def _joined(first_s: float, count: int = 4) -> tuple[Work, list[PhasedWindow]]:
    """Windows of one call, 6 ms of idle power between two of them."""
    clock = SimulatedClock()
    power = LoadedPower(IDLE_W)
    work = Work(clock, power, [first_s])
    windows: list[PhasedWindow] = []
    previous_s: float | None = None
    for number in range(count):
        start_s, end_s = work.call(0)
        power.end_work(end_s)
        curve = _exact(power, start_s, end_s, start_s - 0.1 + 0.0031 * number)
        boards_j = {"GPU": power.energy_j(start_s, end_s)}
        previous_end_s = None if previous_s is None else previous_s - start_s
        windows.append(
            PhasedWindow(end_s - start_s, [TimedCall(0, 0.0, end_s - start_s)], {"GPU": curve}, boards_j, 0.2)
        )
        windows[-1] = replace(windows[-1], previous_end_s=previous_end_s)
        previous_s = end_s
        clock.work(0.006)
    return work, windows


def test_windows_back_to_back() -> None:
    work, windows = _joined(0.04)
    said = sampled_phases(windows, work.timed())
    assert said.prefill_energy_j == pytest.approx(work.prefills_j[0], rel=0.02)
    # Taken for a board at rest, what the sensor still shows of the window before would count for the prefill.
    alone = sampled_phases([replace(window, previous_end_s=None) for window in windows], work.timed())
    assert _error(alone, work)[0] > _error(said, work)[0]


def test_boards_are_summed() -> None:
    work, windows = _joined(0.04)
    both = [
        replace(
            window,
            power_curves={"GPU": window.power_curves["GPU"], "GPU-2": window.power_curves["GPU"]},
            boards_j={"GPU": window.boards_j["GPU"], "GPU-2": window.boards_j["GPU"]},
        )
        for window in windows
    ]
    one, two = sampled_phases(windows, work.timed()), sampled_phases(both, work.timed())
    assert one.prefill_energy_j is not None
    assert one.prefill_energy_uncertainty_j is not None
    assert two.prefill_energy_j == pytest.approx(2 * one.prefill_energy_j)
    # A wrong lag is wrong for both.
    assert two.prefill_energy_uncertainty_j == pytest.approx(2 * one.prefill_energy_uncertainty_j)


def test_joules_that_are_unknown_leave_the_prefill() -> None:
    work, windows = _joined(0.04)
    said = sampled_phases([replace(window, boards_j={}) for window in windows], work.timed())
    error_j, half_width_j = _error(said, work)
    assert error_j <= half_width_j


def test_a_part_of_the_samples_is_enough() -> None:
    work, windows = _joined(0.04)
    late = [
        replace(
            window,
            power_curves={
                uuid: PowerCurve(curve.times_s[15:], curve.powers_w[15:], partial=True)
                for uuid, curve in window.power_curves.items()
            },
        )
        for window in windows[:2]
    ]
    said = sampled_phases([*late, *windows[2:]], work.timed())
    assert said.prefill_energy_j == pytest.approx(work.prefills_j[0], rel=0.03)


@pytest.mark.parametrize(
    ("call_s", "period_s", "repeats"), [(0.0137, 0.02, False), (0.0437, 0.1, False), (0.04, 0.02, True)]
)
def test_samples_that_meet_always_the_same_part_of_short_calls(call_s: float, period_s: float, repeats: bool) -> None:
    count = round(4.0 / call_s)
    calls = [TimedCall(0, number * call_s, (number + 1) * call_s) for number in range(count)]
    times_s = [0.003 + number * period_s for number in range(round(4.0 / period_s))]
    curve = PowerCurve(times_s, [100.0] * len(times_s), partial=False)
    stretch = Stretch.of(PhasedWindow(count * call_s, calls, {"GPU": curve}, {}), "GPU")
    assert stretch is not None
    factor = _repetition([stretch])
    assert factor > 2.0 if repeats else factor == 1.0


def test_of_long_windows_some_pieces_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    work, windows, said = _measured(_board(1), [0.05], passes=8)
    monkeypatch.setattr("pytest_llem.measurement.phase_power._MOST_SAMPLES", 400)
    thinned = sampled_phases(windows, work.timed())
    assert thinned.prefill_energy_j != said.prefill_energy_j
    error_j, half_width_j = _error(thinned, work)
    assert error_j <= half_width_j < 0.1 * work.prefills_j[0]


def test_windows_of_which_there_are_no_samples_any_more_do_not_count() -> None:
    work, windows = _joined(0.04)
    forgotten = replace(windows[0], power_curves={"GPU": PowerCurve([], [], partial=True)})
    said = sampled_phases([forgotten, *windows[1:]], work.timed())
    assert said.prefill_energy_j == pytest.approx(work.prefills_j[0], rel=0.03)


class TestReasons:
    def test_no_samples(self) -> None:
        work, windows = _joined(0.04)
        said = sampled_phases([replace(window, power_curves={}) for window in windows], work.timed())
        assert said.prefill_energy_j is None
        assert said.reason == "a board's driver keeps no power samples"
        assert said.prefill_latency_s == pytest.approx(0.04)

    def test_one_board_without_samples(self) -> None:
        work, windows = _joined(0.04)
        said = sampled_phases(
            [replace(window, boards_j={"GPU": 60.0, "GPU-2": 60.0}) for window in windows], work.timed()
        )
        assert said.reason == "a board's driver keeps no power samples"

    def test_too_few_samples(self) -> None:
        work, windows = _joined(0.04)
        few = [replace(window, power_curves={"GPU": PowerCurve([0.05, 0.1], [200.0, 200.0])}) for window in windows]
        assert sampled_phases(few, work.timed()).reason == "there are too few power samples of the windows"

    def test_a_first_token_after_the_end(self) -> None:
        _, windows = _joined(0.04)
        said = sampled_phases(windows, {0: [0.5]})
        assert said.reason == "in a measured call the first token would come after its end"

    def test_times_of_tokens_that_are_not_known(self) -> None:
        _, windows = _joined(0.04)
        assert sampled_phases(windows, {}).reason == "the times of the first tokens are not known"

    def test_a_prefill_that_the_samples_do_not_resolve(self) -> None:
        _, _, said = _measured(_board(5), [0.0008], passes=1)
        assert said.prefill_energy_j is None
        assert said.reason is not None
        assert said.reason.startswith("prefill of 0.8")
        assert "is not resolved by the power samples" in said.reason
