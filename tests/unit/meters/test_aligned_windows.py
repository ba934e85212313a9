"""Windows of the NVML meter over whole simulated boards: what is stated holds, and what it costs."""

from __future__ import annotations

import json
import math
import random
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from pytest_llem.meters.calibration_store import default_path
from pytest_llem.meters.nvml import open_nvml_meter
from tests.simulators import LoadedPower, SimulatedBoard, SimulatedClock, SimulatedNvml, install

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_llem.meters import Window
    from pytest_llem.meters.nvml import NvmlMeter

# RMS error, relative, that a window of so many seconds may have.
IDEAL_LIMITS = {0.2: 0.003, 0.5: 0.003, 1.0: 0.003}
REAL_LIMITS = {0.2: 0.02, 0.5: 0.01, 1.0: 0.005}


@dataclass
class Rig:
    """Boards that work together, and windows of a prefill burst and a decode stretch on them."""

    seed: int = 0
    boards: int = 1
    period_s: float = 0.1
    real: bool = True
    aligned: bool = True
    read_loss_s: float = 0.0
    hold_s: float = 0.0
    lingering_share: float = 0.0
    clock: SimulatedClock = field(default_factory=SimulatedClock)

    def __post_init__(self) -> None:
        self.random = random.Random(f"{self.seed} {self.period_s} {self.real}")  # noqa: S311
        self.board = [self._new_board(number) for number in range(self.boards)]

    def _new_board(self, number: int) -> SimulatedBoard:
        idle_w = self.random.uniform(50.0, 100.0)
        decay_s = self.random.choice((0.1, 0.15, 0.3)) if self.real else 0.0
        return SimulatedBoard(
            uuid=f"GPU-{number}",
            power=LoadedPower(
                idle_w,
                250.0 if self.real else idle_w,
                decay_s / 3.0 if self.lingering_share else decay_s,
                hold_s=self.hold_s,
                lingering=(self.lingering_share, 2.5 * decay_s),
            ),
            period_s=self.period_s,
            phase_s=self.random.uniform(0.0, self.period_s),
            jitter_s=0.05 * math.sqrt(3) * self.period_s if self.real else 0.0,
            read_cost_s=0.0005 if self.real else 0.0,
            read_loss_s=self.read_loss_s,
            seed=10 * self.seed + number,
        )

    def open(self) -> NvmlMeter:
        return open_nvml_meter("cuda", None, self.clock, aligned=self.aligned)

    def work(self, seconds: float) -> float:
        """Work on all boards; the energy that they used, in joules."""
        start_s = self.clock.now_s()
        for share, power_w in ((0.2, 400.0), (0.8, 250.0)):
            for board in self.board:
                assert isinstance(board.true_power, LoadedPower)
                board.true_power.start_work(self.clock.now_s(), power_w)
            self.clock.work(share * seconds)
        for board in self.board:
            assert isinstance(board.true_power, LoadedPower)
            board.true_power.end_work(self.clock.now_s())
        return math.fsum(board.energy_j(start_s, self.clock.now_s()) for board in self.board)

    def window(self, meter: NvmlMeter, seconds: float) -> Measured:
        self.clock.sleep(self.random.uniform(0.0, self.period_s))
        entered_s = self.clock.now_s()
        with meter.window() as window:
            true_j = self.work(seconds * self.random.gauss(1.0, 0.02))
        waited_s = self.clock.now_s() - entered_s - window.seconds
        return Measured(seconds, window, true_j, waited_s / self.period_s)

    def windows(self, count: int) -> list[Measured]:
        """Windows of about 0.2, 0.5 and 1 s in turn: their ends meet the counter at any phase."""
        with install(self.board, self.clock), self.open() as meter:
            # What is learned about the counters belongs to no window.
            assert meter.calibrations
            return [self.window(meter, (0.2, 0.5, 1.0)[number % 3]) for number in range(count)]


@dataclass
class Measured:
    nominal_s: float
    window: Window
    true_j: float
    waited_periods: float

    @property
    def error_j(self) -> float:
        assert self.window.joules is not None
        return self.window.joules - self.true_j

    @property
    def covered(self) -> bool:
        assert self.window.uncertainty_j is not None
        return abs(self.error_j) <= self.window.uncertainty_j


def rms_by_limit(measured: list[Measured], limits: dict[float, float]) -> float:
    """RMS of the errors, each in units of what its window may have."""
    shares = [one.error_j / one.true_j / limits[one.nominal_s] for one in measured]
    return math.sqrt(statistics.fmean(share**2 for share in shares))


def coverage(measured: list[Measured]) -> float:
    return statistics.fmean(one.covered for one in measured)


@pytest.fixture
def rig() -> Iterator[tuple[Rig, SimulatedNvml, NvmlMeter]]:
    """One board like real ones, and a meter that knows its counter."""
    one = Rig()
    with install(one.board, one.clock) as library, one.open() as meter:
        assert meter.calibrations
        yield one, library, meter


@pytest.mark.parametrize("boards", [1, 3])
@pytest.mark.parametrize("period_s", [0.02, 0.1])
@pytest.mark.parametrize(("real", "limits"), [(False, IDEAL_LIMITS), (True, REAL_LIMITS)])
def test_errors_keep_to_their_limits_and_intervals_cover_them(
    real: bool, limits: dict[float, float], period_s: float, boards: int
) -> None:
    measured = [one for seed in range(8) for one in Rig(seed, real=real, period_s=period_s, boards=boards).windows(12)]
    assert rms_by_limit(measured, limits) <= 1.0
    assert coverage(measured) >= 0.9
    assert all(one.window.valid and not one.window.warnings for one in measured)


@pytest.mark.parametrize("period_s", [0.02, 0.1])
@pytest.mark.parametrize(("hold_s", "lingering_share"), [(0.03, 0.0), (0.05, 0.0), (0.0, 0.5)])
def test_intervals_hold_for_boards_that_do_not_decay_at_one_rate(
    hold_s: float, lingering_share: float, period_s: float
) -> None:
    rigs = (Rig(seed, period_s=period_s, hold_s=hold_s, lingering_share=lingering_share) for seed in range(15))
    measured = [one for rig in rigs for one in rig.windows(12)]
    assert rms_by_limit(measured, REAL_LIMITS) <= 1.0
    assert coverage(measured) >= 0.9


@pytest.mark.parametrize("period_s", [0.02, 0.1])
def test_waiting_is_at_most_five_periods_and_three_on_average_once_learned(period_s: float) -> None:
    """With the state of the board read before and after: a tenth of a period."""
    runs = [Rig(seed, period_s=period_s).windows(12) for seed in range(4)]
    assert max(one.waited_periods for run in runs for one in run) <= 5.2
    assert statistics.fmean(one.waited_periods for run in runs for one in run[3:]) <= 3.2


def test_the_time_is_that_of_the_work_alone(rig: tuple[Rig, SimulatedNvml, NvmlMeter]) -> None:
    one, _, meter = rig
    with meter.window() as window:
        one.clock.work(0.123)
    assert window.seconds == pytest.approx(0.123, abs=1e-9)


@pytest.mark.parametrize("aligned", [True, False])
def test_nothing_is_read_while_the_work_runs(aligned: bool) -> None:
    one = Rig(aligned=aligned)
    with install(one.board, one.clock) as library, one.open() as meter:
        for _ in range(2):
            with meter.window():
                calls, cpu_s = dict(library.calls), one.clock.cpu_s()
                one.work(0.3)
                assert library.calls == calls
                assert one.clock.cpu_s() == pytest.approx(cpu_s + 0.3)


def test_several_boards_are_summed_and_their_errors_added_in_squares() -> None:
    one = Rig(boards=3)
    with install(one.board, one.clock), one.open() as meter:
        one.window(meter, 0.5)
        whole = one.window(meter, 0.5).window
    assert list(whole.boards_j) == ["GPU-0", "GPU-1", "GPU-2"]
    assert whole.joules == pytest.approx(math.fsum(whole.boards_j.values()))


def test_the_second_session_knows_the_counter_and_does_not_probe_it() -> None:
    calls = []
    for _ in range(2):
        one = Rig()
        with install(one.board, one.clock) as library, one.open() as meter:
            assert one.window(meter, 0.5).covered
            calls.append(library.calls["nvmlDeviceGetTotalEnergyConsumption"])
            assert one.clock.now_s() - 1000.0 < (10.0, 2.0)[len(calls) - 1]
    assert calls[1] < calls[0] / 4


@pytest.mark.parametrize(("known_s", "true_s"), [(0.1, 0.02), (0.02, 0.1), (0.1, 0.06)])
def test_a_counter_that_contradicts_what_is_known_of_it_is_probed_again(known_s: float, true_s: float) -> None:
    Rig(period_s=known_s).windows(1)
    one = Rig(period_s=true_s)
    with install(one.board, one.clock), one.open() as meter:
        assert meter.calibrations["GPU-0"].timing.period_s == pytest.approx(known_s, rel=0.05)  # type: ignore[union-attr]
        early = [one.window(meter, 0.5) for _ in range(10)]
        assert meter.calibrations["GPU-0"].timing.period_s == pytest.approx(true_s, rel=0.05)  # type: ignore[union-attr]
        late = [one.window(meter, 0.5) for _ in range(6)]
    assert any("did not keep the update period" in text for one in early for text in one.window.warnings)
    assert not any(one.window.warnings for one in late)
    assert coverage(late) >= 0.8
    (kept,) = json.loads(default_path().read_text())["counters"].values()
    assert kept["period_s"] == pytest.approx(true_s, rel=0.05)


class TestPlainReads:
    """Edges that nobody waits for, or that must not be looked for."""

    @pytest.mark.parametrize("period_s", [0.02, 0.1])
    def test_without_alignment_nothing_waits_and_the_interval_covers_the_truth(self, period_s: float) -> None:
        measured = [one for seed in range(10) for one in Rig(seed, period_s=period_s, aligned=False).windows(6)]
        assert coverage(measured) >= 0.9
        assert max(one.waited_periods * period_s for one in measured) <= 0.008
        widths = [one.window.uncertainty_j or 0.0 for one in measured]
        # A period at the power of the work, at most.
        assert statistics.median(widths) < 300.0 * period_s

    def test_the_power_before_the_start_is_not_taken_for_that_of_the_work(self) -> None:
        """From idle: what was drawn before the start, back to an update half a period ago, would be too much."""
        measured = [one for seed in range(25) for one in Rig(seed, aligned=False).windows(3)]
        assert statistics.fmean(one.error_j for one in measured) > -1.0

    def test_a_board_that_loses_counts_by_being_read_is_read_twice_and_says_so(self) -> None:
        measured = []
        for seed in range(8):
            one = Rig(seed, read_loss_s=0.013)
            with install(one.board, one.clock) as library, one.open() as meter:
                assert meter.calibrations
                before = library.calls["nvmlDeviceGetTotalEnergyConsumption"]
                measured += [one.window(meter, seconds) for seconds in (0.5, 1.0, 1.0)]
                assert library.calls["nvmlDeviceGetTotalEnergyConsumption"] == before + 6
        assert coverage(measured) >= 0.9
        for done in measured:
            assert any("counts too little when it is read often" in text for text in done.window.warnings)
            assert done.window.valid

    def test_a_window_between_two_updates_is_below_the_resolution(self) -> None:
        one = Rig(aligned=False, real=False)
        with install(one.board, one.clock), one.open() as meter:
            assert meter.calibrations
            with meter.window() as window:
                one.work(0.001)
        assert window.joules is None
        assert "below the counter's resolution" in str(window.reason)


class TestAutoWindow:
    @pytest.mark.parametrize("period_s", [0.02, 0.1])
    def test_a_window_of_that_length_is_as_well_known_as_was_asked_for(self, period_s: float) -> None:
        one = Rig(period_s=period_s)
        with install(one.board, one.clock), one.open() as meter:
            seconds = meter.auto_window_s
            windows = [one.window(meter, seconds).window for _ in range(12)]
        assert 5 * period_s <= seconds <= 1.0
        widths = [(window.uncertainty_j or 0.0) / (window.joules or 1.0) for window in windows]
        assert statistics.median(widths) <= 0.01

    def test_it_is_longer_without_alignment_and_for_a_finer_wish(self) -> None:
        one = Rig()
        with install(one.board, one.clock):
            seconds = []
            for aligned, share in ((True, 0.01), (True, 0.001), (False, 0.1), (False, 0.01)):
                with open_nvml_meter("cuda", None, one.clock, aligned=aligned, relative_uncertainty=share) as meter:
                    seconds.append(meter.auto_window_s)
        assert seconds[0] == pytest.approx(0.5, rel=0.05)
        assert seconds[0] < seconds[1]
        assert 0.5 < seconds[2] < seconds[3]


class TestIdlePower:
    @pytest.mark.parametrize("aligned", [True, False])
    def test_it_is_that_of_the_settled_board(self, aligned: bool) -> None:
        one = Rig(boards=2, aligned=aligned)
        with install(one.board, one.clock), one.open() as meter:
            assert meter.calibrations
            one.work(1.0)
            idle = meter.idle_power()
        idle_w = sum(board.true_power.power_w(1e6) for board in one.board)
        assert idle.settled
        assert idle.reason is None
        assert idle.power_w is not None
        assert idle.uncertainty_w is not None
        assert idle.power_w == pytest.approx(idle_w, abs=idle.uncertainty_w)
        assert idle.uncertainty_w < (0.03 if aligned else 0.15) * idle_w

    def test_a_board_that_does_not_settle_says_so_after_the_limit(self) -> None:
        clock = SimulatedClock()
        board = SimulatedBoard(power=lambda at_s: 100.0 if at_s % 2.0 < 1.0 else 200.0)
        with install([board], clock), open_nvml_meter("cuda", None, clock) as meter:
            assert meter.calibrations
            before_s = clock.now_s()
            idle = meter.idle_power(limit_s=5.0)
        assert not idle.settled
        assert "had not settled after 5 s" in str(idle.reason)
        assert 5.0 <= clock.now_s() - before_s < 6.0

    def test_a_counter_that_stands_still_has_none(self) -> None:
        clock = SimulatedClock()
        with install([SimulatedBoard(power=0.0)], clock), open_nvml_meter("cuda", None, clock) as meter:
            idle = meter.idle_power()
        assert idle.power_w is None
        assert "did not change" in str(idle.reason)

    def test_the_windows_that_follow_know_it(self) -> None:
        one = Rig(boards=2)
        with install(one.board, one.clock), one.open() as meter:
            meter.idle_power()
            known_w = [sensor.tail.idle_power_w for sensor in meter._counters.sensors]
        assert known_w == [pytest.approx(board.true_power.power_w(1e6), rel=0.02) for board in one.board]


def test_pauses_between_windows_are_anywhere_in_an_update_period(rig: tuple[Rig, SimulatedNvml, NvmlMeter]) -> None:
    one, _, meter = rig
    pauses_s = []
    for _ in range(50):
        before_s = one.clock.now_s()
        meter.pause()
        pauses_s.append(one.clock.now_s() - before_s)
    assert 0.0 <= min(pauses_s) < 0.03
    assert 0.07 < max(pauses_s) <= 0.11
