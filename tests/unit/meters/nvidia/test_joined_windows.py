"""Windows back to back on simulated boards whose true energy is known."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections import Counter as Count
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import pynvml
import pytest

from pytest_llem.errors import MeasurementError
from pytest_llem.measurement.precision import relative_half_width
from pytest_llem.measurement.windows import Protocol, measure_windows
from pytest_llem.meters.base import MeterRequest
from pytest_llem.meters.nvidia.meter import open_nvml_meter
from tests.simulators import KINDS, LoadedPower, SimulatedBoard, SimulatedClock, install, noisy_board

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_llem.meters import Window
    from pytest_llem.meters.nvidia.meter import NvmlMeter

READ, FETCH = "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetSamples"


def steady(random: Random, seconds: float) -> list[tuple[float, float]]:
    return [(seconds, 400.0)]


def mixed(random: Random, seconds: float) -> list[tuple[float, float]]:
    return [(seconds, random.uniform(160.0, 655.0))]


def phases(random: Random, seconds: float) -> list[tuple[float, float]]:
    return [(0.2 * seconds, 400.0), (0.8 * seconds, 250.0)]


def restless(random: Random, seconds: float) -> list[tuple[float, float]]:
    """Another power after 80 ms on average, so that some steps lie just before a boundary."""
    parts: list[tuple[float, float]] = []
    while seconds > 0:
        parts.append((min(random.expovariate(1.0 / 0.08), seconds), random.uniform(140.0, 655.0)))
        seconds -= parts[-1][0]
    return parts


class Measured(NamedTuple):
    window: Window
    true_j: float
    provisional_j: float | None

    @property
    def error_j(self) -> float:
        assert self.window.joules is not None
        return self.window.joules - self.true_j

    @property
    def covered(self) -> bool:
        assert self.window.uncertainty_j is not None
        return abs(self.error_j) <= self.window.uncertainty_j


def power_of(board: SimulatedBoard) -> LoadedPower:
    assert isinstance(board.true_power, LoadedPower)
    return board.true_power


class Rig:
    """Boards that work together."""

    def __init__(self, *boards: SimulatedBoard, seed: int = 0) -> None:
        self.boards = boards or (SimulatedBoard(),)
        self.clock = SimulatedClock()
        self.random = Random(seed)  # noqa: S311

    def open(self) -> NvmlMeter:
        return open_nvml_meter(MeterRequest("cuda", None, self.clock))

    def work(self, parts: Sequence[tuple[float, float]], between: Callable[[], None] | None = None) -> None:
        for seconds, power_w in parts:
            for board in self.boards:
                power_of(board).start_work(self.clock.now_s(), power_w)
            self.clock.work(seconds)
            if between is not None:
                between()
        for board in self.boards:
            power_of(board).end_work(self.clock.now_s())

    def true_j(self, start_s: float, end_s: float, *, last: bool) -> float:
        """What the boards drew; of the last window with what it leaves behind."""
        return math.fsum(
            board.window_energy_j(start_s, end_s) if last else board.energy_j(start_s, end_s) for board in self.boards
        )

    def stretch(
        self, meter: NvmlMeter, count: int, work: Callable[[Random, float], list[tuple[float, float]]], seconds: float
    ) -> tuple[Window, list[Measured]]:
        """So many windows; their sum, and each of them."""
        self.clock.sleep(self.random.uniform(0.2, 0.5))
        edges_s, provisional_j = [], []
        with meter.joined_windows() as joined:
            for _ in range(count):
                with joined.window() as window:
                    start_s = self.clock.now_s()
                    self.work(work(self.random, seconds * self.random.gauss(1.0, 0.02)))
                    edges_s.append((start_s, self.clock.now_s()))
                provisional_j.append(window.joules)
        measured = [
            Measured(window, self.true_j(*edges, last=number == count - 1), provisional_j[number])
            for number, (window, edges) in enumerate(zip(joined.windows, edges_s, strict=True))
        ]
        return joined.total, measured


def stretches(
    draw: Callable[[Random], SimulatedBoard],
    work: Callable[[Random, float], list[tuple[float, float]]],
    seconds: float,
    boards: int,
) -> tuple[list[Measured], list[tuple[Window, float]]]:
    """Two stretches of ten windows on each of some boards; the windows, and the sums with their truth."""
    windows: list[Measured] = []
    totals: list[tuple[Window, float]] = []
    for seed in range(boards):
        rig = Rig(draw(Random(seed)), seed=seed)  # noqa: S311
        with install(rig.boards, rig.clock), rig.open() as meter:
            for _ in range(2):
                if meter.joins is None:
                    total, measured = rig.stretch(meter, 10, work, seconds)
                    windows += measured
                    totals.append((total, math.fsum(one.true_j for one in measured)))
    return windows, totals


# RMS error of a window, relative, on boards as noisy as recorded: by work and length.
LIMITS = [
    (steady, 0.2, 0.006),
    (mixed, 0.2, 0.006),
    (phases, 0.2, 0.006),
    (phases, 0.5, 0.0025),
    (phases, 1.0, 0.0018),
    (restless, 0.5, 0.007),
    (restless, 1.0, 0.004),
]


@pytest.mark.parametrize(("work", "seconds", "limit"), LIMITS)
def test_each_window_and_their_sum_are_known_as_well_as_stated(
    work: Callable[[Random, float], list[tuple[float, float]]], seconds: float, limit: float
) -> None:
    """Steps of power inside and at the ends of windows, late updates, lost samples."""
    windows, totals = stretches(KINDS["noisy"], work, seconds, 10)
    assert len(windows) == 200
    assert statistics.fmean(one.covered for one in windows) >= 0.93
    assert math.sqrt(statistics.fmean((one.error_j / one.true_j) ** 2 for one in windows)) <= limit
    for total, _ in totals:
        assert total.joules is not None
        assert total.uncertainty_j is not None
        assert total.uncertainty_j < 0.02 * total.joules
    covered = [abs((total.joules or 0.0) - true_j) <= (total.uncertainty_j or 0.0) for total, true_j in totals]
    assert statistics.fmean(covered) >= 0.85  # of twenty
    off = [(total.joules or 0.0) / true_j - 1.0 for total, true_j in totals]
    assert math.sqrt(statistics.fmean(one**2 for one in off)) <= 0.0025


@pytest.mark.parametrize("kind", ["ideal", "lag", "lagging counter", "jitter", "decay", "odd period", "late samples"])
@pytest.mark.parametrize("work", [phases, mixed])
def test_intervals_hold_on_boards_that_no_constant_was_chosen_on(
    kind: str, work: Callable[[Random, float], list[tuple[float, float]]]
) -> None:
    windows, totals = stretches(KINDS[kind], work, 0.5, 4)
    assert len(windows) >= 40
    assert statistics.fmean(one.covered for one in windows) >= 0.9
    assert all(abs((total.joules or 0.0) - true_j) <= 1.5 * (total.uncertainty_j or 0.0) for total, true_j in totals)


def test_windows_and_gaps_together_are_the_settled_energy_of_the_stretch() -> None:
    rig = Rig()
    with install(rig.boards, rig.clock), rig.open() as meter:
        rig.clock.sleep(0.3)
        edges_s = []
        with meter.joined_windows() as joined:
            for number in range(5):
                with joined.window():
                    start_s = rig.clock.now_s()
                    rig.work([(0.3, 500.0)])
                    edges_s.append((start_s, rig.clock.now_s()))
                rig.clock.sleep(0.02 * number)  # what lies between belongs to neither
    assert joined.total.joules is not None
    assert joined.total.uncertainty_j is not None
    assert joined.total.joules == pytest.approx(math.fsum(window.joules or 0.0 for window in joined.windows))
    assert joined.total.seconds == pytest.approx(math.fsum(window.seconds for window in joined.windows))
    assert joined.total.seconds == pytest.approx(1.5, abs=1e-6)
    true_j = rig.true_j(edges_s[0][0], edges_s[-1][1], last=True)
    gaps_j = math.fsum(rig.true_j(a[1], b[0], last=False) for a, b in pairwise(edges_s))
    assert joined.total.joules == pytest.approx(true_j - gaps_j, abs=joined.total.uncertainty_j)
    assert joined.total.joules == pytest.approx(true_j - gaps_j, abs=1.0)
    # The last window holds its tail: the afterglow, which is none of the others'.
    for window in joined.windows:
        assert window.joules == pytest.approx(150.0, abs=1.0)


def test_a_window_has_joules_as_soon_as_it_has_ended() -> None:
    rig = Rig(noisy_board(seed=3))
    with install(rig.boards, rig.clock), rig.open() as meter:
        _, measured = rig.stretch(meter, 10, phases, 0.5)
    provisional_j = [one.provisional_j for one in measured if one.provisional_j is not None]
    assert len(provisional_j) == 10
    off = [one.provisional_j / one.true_j - 1.0 for one in measured if one.provisional_j is not None]
    assert max(abs(one) for one in off) < 0.03
    assert provisional_j != [one.window.joules for one in measured]


def test_at_an_inner_boundary_the_counter_is_read_once_and_the_samples_are_fetched_once() -> None:
    """Mostly: a read that samples cannot interpret is repeated. Of a board that counts its time spent throttled."""
    rig = Rig(SimulatedBoard(throttled_s={"thermal": 0.0}))
    calls: list[Count[str]] = []
    with install(rig.boards, rig.clock) as library, rig.open() as meter, meter.joined_windows() as joined:
        for _ in range(20):
            with joined.window():
                before = Count(library.calls)
                rig.work([(0.3, 300.0)])
                assert Count(library.calls) == before
            calls.append(Count(library.calls) - before)
            rig.clock.sleep(rig.random.uniform(0.0, 0.02))
            assert Count(library.calls) == before + calls[-1]
    # NVML is asked for the number of samples before it is asked for them.
    assert all(set(each) == {READ, FETCH} and each[FETCH] == 2 for each in calls)
    assert sum(each[READ] for each in calls) <= 21


def test_windows_of_several_boards_are_summed() -> None:
    rig = Rig(noisy_board(uuid="GPU-0", seed=1), noisy_board(uuid="GPU-1", seed=2, phase_s=0.03), seed=5)
    with install(rig.boards, rig.clock), rig.open() as meter:
        total, measured = rig.stretch(meter, 5, phases, 0.5)
    assert all(one.covered for one in measured)
    for one in measured:
        assert set(one.window.boards_j) == {"GPU-0", "GPU-1"}
        assert one.window.joules == pytest.approx(math.fsum(one.window.boards_j.values()))
    assert set(total.boards_j) == {"GPU-0", "GPU-1"}


def test_each_window_says_how_it_was_bounded_and_has_its_own_power_curve() -> None:
    rig = Rig()
    with install(rig.boards, rig.clock), rig.open() as meter:
        total, measured = rig.stretch(meter, 3, steady, 0.5)
        with meter.window() as settled:
            rig.work([(0.5, 400.0)])
    assert total.joined
    assert all(one.window.joined and one.window.errors_average_out for one in measured)
    assert not settled.joined
    for one in measured:
        (curve,) = one.window.power_curves.values()
        assert 0.4 < max(curve.times_s) < 0.65
        assert -0.11 < min(curve.times_s) < 0.0
        assert one.window.sm_clock_hz


def test_a_disturbance_of_the_stretch_makes_each_window_invalid() -> None:
    throttled_s = {"thermal": lambda now_s: max(now_s - 1001.5, 0.0)}
    rig = Rig(SimulatedBoard(throttled_s=throttled_s))
    with install(rig.boards, rig.clock), rig.open() as meter:
        total, measured = rig.stretch(meter, 6, steady, 1.0)
    assert not total.valid
    for one in measured:
        assert [found.kind for found in one.window.disturbances] == ["throttled"]
        assert not one.window.valid
        assert one.covered


def test_throttling_that_a_board_does_not_count_is_seen_between_windows() -> None:
    """Its reasons go with it: at the outer ends of the stretch nothing is left of them."""
    board = SimulatedBoard(throttled_s=None)
    rig = Rig(board)
    with install(rig.boards, rig.clock), rig.open() as meter:
        assert meter.joins is None
        hot_s = rig.clock.now_s() + 2.0
        board.clocks_event_reasons = lambda now_s: 0x40 if hot_s < now_s < hot_s + 2.0 else 0
        total, _ = rig.stretch(meter, 6, steady, 1.0)
    assert [found.kind for found in total.disturbances] == ["throttled"]


def test_a_reset_leaves_no_window_a_value() -> None:
    rig = Rig(SimulatedBoard(resets_s=(1006.0,)))
    with install(rig.boards, rig.clock), rig.open() as meter:
        assert meter.joins is None
        assert rig.clock.now_s() < 1006.0
        total, measured = rig.stretch(meter, 6, steady, 1.5)
        assert total.joules is None
        for one in measured:
            assert one.window.joules is None
            assert "was reset" in (one.window.reason or "")
            assert [found.kind for found in one.window.disturbances] == ["reset"]
        _, after = rig.stretch(meter, 5, steady, 0.5)
    assert all(one.covered for one in after)


@pytest.mark.parametrize("inside", [True, False])
def test_an_exception_propagates_and_leaves_the_meter_usable(inside: bool) -> None:
    rig = Rig(noisy_board())
    with install(rig.boards, rig.clock), rig.open() as meter:
        with contextlib.suppress(RuntimeError), meter.joined_windows() as joined:
            with joined.window():
                rig.work([(0.4, 300.0)])
            with joined.window():
                rig.work([(0.2, 300.0)])
                if inside:
                    raise RuntimeError
            raise RuntimeError
        assert joined.total.joules is None
        _, measured = rig.stretch(meter, 5, phases, 0.5)
        assert all(one.covered for one in measured)


def test_windows_after_one_that_failed_have_no_value() -> None:
    rig = Rig()
    with install(rig.boards, rig.clock), rig.open() as meter, meter.joined_windows() as joined:
        with pytest.raises(RuntimeError), joined.window():
            raise RuntimeError
        with joined.window():
            rig.work([(0.4, 300.0)])
    (window,) = joined.windows
    assert window.joules is None
    assert window.reason == "a window of the stretch failed"
    assert joined.total.reason == window.reason


def test_without_a_window_there_is_no_energy() -> None:
    rig = Rig()
    with install(rig.boards, rig.clock), rig.open() as meter, meter.joined_windows() as joined:
        pass
    assert (joined.total.joules, joined.total.reason) == (None, "there was no window")


NOT_SUPPORTED = pynvml.NVML_ERROR_NOT_SUPPORTED


@pytest.mark.parametrize(
    ("board", "text"),
    [
        (SimulatedBoard(errors={FETCH: NOT_SUPPORTED}), "keeps no power samples of GPU-"),
        (SimulatedBoard(errors={READ: NOT_SUPPORTED}), "has no energy counter"),
        (SimulatedBoard(wander_s=0.02, read_cost_s=0.0005), "is updated at irregular instants"),
        (SimulatedBoard(read_loss_s=0.01, read_cost_s=0.0005), "have no edges of their own"),
    ],
)
def test_boards_that_cannot_join_windows_say_why(board: SimulatedBoard, text: str) -> None:
    rig = Rig(board)
    with install(rig.boards, rig.clock), rig.open() as meter:
        assert meter.joins is not None
        with pytest.raises(MeasurementError, match=text), meter.joined_windows():
            pass


@pytest.mark.parametrize("seconds", [0.002, 0.008, 0.015])
def test_windows_that_the_samples_do_not_see_have_no_value_and_do_not_stop_later_ones(seconds: float) -> None:
    rig = Rig(noisy_board())
    with install(rig.boards, rig.clock), rig.open() as meter:
        total, measured = rig.stretch(meter, 100, steady, seconds)
        assert total.joules is None
        assert all(one.window.joules is None for one in measured)
        assert "too short to be joined" in str(total.reason)
        assert meter.joins is None
        total, measured = rig.stretch(meter, 10, steady, 0.2)
    true_j = math.fsum(one.true_j for one in measured)
    assert total.joules == pytest.approx(true_j, abs=total.uncertainty_j)


def test_the_precision_that_a_result_states_is_that_of_the_settled_stretch() -> None:
    """While it runs, half-widths are provisional and several times as wide."""
    rig = Rig()
    with install(rig.boards, rig.clock), rig.open() as meter:
        asked = Protocol(None, 1, 0.3, precision=0.0001, budget_s=3.0, joined=True)
        measured = measure_windows([lambda: rig.work([(0.05, 400.0)])], asked, meter)
    assert measured.total is not None
    reached = relative_half_width(measured.windows, measured.total)
    assert reached is not None
    (warning,) = measured.warnings
    assert f"reached {reached:.2%}, not 0.010%" in warning


class TestLongStretches:
    """The driver keeps 2.4 s of samples."""

    def stretch(self, *, fetched: bool) -> tuple[Rig, list[tuple[Window, float]]]:
        rig = Rig(noisy_board(seed=7))
        found = []
        with install(rig.boards, rig.clock), rig.open() as meter:
            rig.clock.sleep(0.5)
            edges_s = []
            with meter.joined_windows() as joined:
                for _ in range(6):
                    with joined.window():
                        start_s = rig.clock.now_s()
                        calls = [(1.0, rig.random.uniform(250.0, 500.0)) for _ in range(30)]
                        rig.work(calls, meter.between_calls if fetched else None)
                        edges_s.append((start_s, rig.clock.now_s()))
            for number, (window, edges) in enumerate(zip(joined.windows, edges_s, strict=True)):
                found.append((window, rig.true_j(*edges, last=number == 5)))
        return rig, found

    def test_samples_that_were_fetched_in_time_hold_the_whole_window(self) -> None:
        _, found = self.stretch(fetched=True)
        for window, true_j in found:
            assert window.joules == pytest.approx(true_j, abs=window.uncertainty_j)
            assert window.joules == pytest.approx(true_j, rel=2e-4)
            (curve,) = window.power_curves.values()
            assert len(curve.times_s) > 1300

    def test_without_them_the_ends_are_known_still(self) -> None:
        _, found = self.stretch(fetched=False)
        for window, true_j in found:
            assert window.joules == pytest.approx(true_j, abs=window.uncertainty_j)
            assert window.joules == pytest.approx(true_j, rel=3e-4)

    @pytest.mark.parametrize("drift", [-5e-5, 5e-5])
    def test_a_clock_that_drifts_for_minutes_does_not_lose_the_lattice(self, drift: float) -> None:
        rig = Rig(noisy_board(seed=11, period_s=0.1 * (1.0 + drift)))
        with install(rig.boards, rig.clock), rig.open() as meter:
            _, measured = rig.stretch(meter, 150, steady, 2.0)
        assert statistics.fmean(one.covered for one in measured) >= 0.93
        assert max(abs(one.error_j) for one in measured) < 5.0


def test_between_calls_asks_the_driver_once_in_half_of_what_it_keeps() -> None:
    rig = Rig()
    with install(rig.boards, rig.clock) as library, rig.open() as meter, meter.window():
        before = library.calls[FETCH]
        for _ in range(1000):
            rig.clock.work(0.01)
            meter.between_calls()
        assert 14 <= library.calls[FETCH] - before <= 18
        assert library.calls[READ] < 1000


def test_a_settled_window_of_half_a_minute_is_compared_as_a_whole() -> None:
    """Of one whose samples are gone only the last seconds are."""
    rig = Rig(noisy_board(seed=5))
    with install(rig.boards, rig.clock), rig.open() as meter, meter.window() as window:
        rig.work([(1.0, rig.random.uniform(250.0, 500.0)) for _ in range(30)], meter.between_calls)
    (curve,) = window.power_curves.values()
    assert not curve.partial
    assert curve.times_s[0] < 0.0
    assert len(curve.times_s) > 1400
