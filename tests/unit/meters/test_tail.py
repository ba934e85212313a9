"""The energy of windows on simulated boards whose true power is known."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import pytest

from pytest_llem.meters.alignment import CounterTiming, Edge, EdgeFinder
from pytest_llem.meters.tail import TailModel, WindowEnergy, interpolated_energy
from tests.simulators import LoadedPower, SimulatedBoard, SimulatedClock

# RMS error, relative, that a window of so many seconds may have.
IDEAL_LIMITS = {0.2: 0.003, 0.5: 0.003, 1.0: 0.003}
REAL_LIMITS = {0.2: 0.02, 0.5: 0.01, 1.0: 0.005}


@dataclass
class Measured:
    work_s: float
    true_j: float
    energy: WindowEnergy
    waited_periods: float

    @property
    def error(self) -> float:
        return self.energy.joules / self.true_j - 1.0

    @property
    def covered(self) -> bool:
        return abs(self.energy.joules - self.true_j) <= self.energy.uncertainty_j


@dataclass
class Rig:
    """A board, and windows of a prefill burst and a decode stretch measured on it."""

    period_s: float = 0.1
    decay_s: float = 0.15
    seed: int = 0
    jitter_sd_s: float = 0.005
    read_cost_s: float = 0.0005
    know_idle: bool = True
    end_share: float = 1.0  # power above idle in the second half of the work, in units of the decode power's
    clock: SimulatedClock = field(default_factory=SimulatedClock)

    def __post_init__(self) -> None:
        self.random = random.Random(f"{self.seed} {self.period_s} {self.decay_s}")  # noqa: S311
        self.idle_w = self.random.uniform(50.0, 100.0)
        self.decode_w = self.idle_w + self.random.uniform(100.0, 200.0)
        tail_w = self.decode_w if self.decay_s else self.idle_w
        self.power = LoadedPower(self.idle_w, tail_w, self.decay_s)
        self.board = SimulatedBoard(
            power=self.power,
            period_s=self.period_s,
            phase_s=self.random.uniform(0.0, self.period_s),
            jitter_s=self.jitter_sd_s * math.sqrt(3),
            seed=self.seed,
        )
        self.timing = CounterTiming(self.period_s, self.jitter_sd_s, 0.001, self.read_cost_s)
        self.finder = EdgeFinder(self.read, self.clock, self.timing)
        self.model = TailModel(self.idle_w * self.random.gauss(1.0, 0.01)) if self.know_idle else TailModel()

    def read(self) -> float:
        part = self.random.random()
        self.clock.sleep(part * self.read_cost_s)
        counter_mj = self.board.counter_mj(self.clock.now_s())
        self.clock.sleep((1.0 - part) * self.read_cost_s)
        return counter_mj / 1000

    def edge(self) -> Edge:
        edge = self.finder.wait_for_edge()
        assert edge is not None
        return edge

    def work(self, work_s: float) -> None:
        decode_w = self.decode_w - self.idle_w
        for share, excess_w in ((0.2, 1.5 * decode_w), (0.3, decode_w), (0.5, self.end_share * decode_w)):
            self.power.start_work(self.clock.now_s(), self.idle_w + excess_w)
            self.clock.work(share * work_s)
        if self.decay_s:
            self.power.tail_w = self.idle_w + self.end_share * decode_w
        self.power.end_work(self.clock.now_s())

    def window(self, work_s: float, head_s: float = 0.0, edges: int | None = None) -> Measured:
        """Measure a window; ``head_s``: pause between edge and work; ``edges``: how many after it."""
        self.clock.sleep(self.random.uniform(0.0, self.period_s))
        entered_s = self.clock.now_s()
        before = self.edge()
        self.clock.sleep(head_s)
        start_s = self.clock.now_s()
        self.work(work_s)
        end_s = self.clock.now_s()
        after: list[Edge] = []

        def waited_s() -> float:
            return start_s - entered_s + self.clock.now_s() - end_s

        while (
            self.model.wants_another_edge(len(after), waited_s(), self.timing) if edges is None else len(after) < edges
        ):
            after.append(self.edge())
        energy = self.model.window_energy(before, start_s, end_s, after, self.timing)
        true_j = self.board.energy_j(start_s, end_s)
        return Measured(work_s, true_j, energy, waited_s() / self.period_s)

    def windows(self, count: int) -> list[Measured]:
        """Windows of about 0.2, 0.5 and 1 s in turn: their ends meet the counter at any phase."""
        nominal_s = [(0.2, 0.5, 1.0)[number % 3] for number in range(count)]
        return [self.window(work_s * self.random.gauss(1.0, 0.02)) for work_s in nominal_s]


def ideal_rig(period_s: float, seed: int) -> Rig:
    return Rig(period_s=period_s, decay_s=0.0, seed=seed, jitter_sd_s=0.0, read_cost_s=0.0)


def rms_by_limit(measured: list[Measured], limits: dict[float, float]) -> float:
    """RMS of the errors, each in units of what its window may have."""
    shares = [m.error / min(limits.items(), key=lambda item: abs(item[0] - m.work_s))[1] for m in measured]
    return math.sqrt(math.fsum(share**2 for share in shares) / len(shares))


def coverage(measured: list[Measured]) -> float:
    return sum(m.covered for m in measured) / len(measured)


@pytest.mark.parametrize("period_s", [0.02, 0.1])
def test_an_ideal_board_is_read_within_a_third_of_a_percent(period_s: float) -> None:
    measured = [m for seed in range(4) for m in ideal_rig(period_s, seed).windows(15)]
    assert rms_by_limit(measured, IDEAL_LIMITS) <= 1.0
    assert coverage(measured) >= 0.9


@pytest.mark.parametrize("decay_s", [0.05, 0.15, 0.4])
@pytest.mark.parametrize("period_s", [0.02, 0.1])
def test_a_board_like_real_ones_is_read_within_its_limits(period_s: float, decay_s: float) -> None:
    measured = [m for seed in range(4) for m in Rig(period_s, decay_s, seed).windows(15)]
    assert rms_by_limit(measured, REAL_LIMITS) <= 1.0
    assert coverage(measured) >= 0.9
    # Not by stating much more than it errs: of a normal error the half-width is 1.96 deviations.
    widths = sorted(m.energy.uncertainty_j for m in measured)
    errors = math.sqrt(math.fsum((m.energy.joules - m.true_j) ** 2 for m in measured) / len(measured))
    assert widths[len(widths) // 2] < 6.0 * errors


@pytest.mark.parametrize("know_idle", [True, False])
def test_the_first_window_of_a_board_is_within_its_limits_too(know_idle: bool) -> None:
    rigs = [Rig(decay_s=(0.1, 0.2, 0.4)[seed % 3], seed=seed, know_idle=know_idle) for seed in range(30)]
    measured = [rig.window(rig.random.uniform(0.45, 0.55)) for rig in rigs]
    assert rms_by_limit(measured, REAL_LIMITS) <= 1.0
    assert coverage(measured) >= 0.9


@pytest.mark.parametrize("decay_s", [0.0, 0.15])
def test_waiting_takes_five_periods_at_most_and_three_on_average_once_learned(decay_s: float) -> None:
    first, later = [], []
    for seed in range(12):
        measured = Rig(decay_s=decay_s, seed=seed).windows(9)
        assert all(m.waited_periods <= 5.0 for m in measured)
        first += measured[:3]
        later += measured[3:]
    assert sum(m.waited_periods for m in first) / len(first) > 3.5
    assert sum(m.waited_periods for m in later) / len(later) <= 3.05


def test_windows_teach_idle_power_and_decay() -> None:
    rig = Rig(seed=3)
    rig.model.set_idle_power(rig.idle_w * 1.1, rig.idle_w * 0.1)
    first = rig.window(0.53)
    for _ in range(10):
        rig.window(0.53)
    later = rig.window(0.53)
    assert rig.model.learned
    assert rig.model.idle_power_w == pytest.approx(rig.idle_w, rel=0.06)
    assert later.energy.uncertainty_j < first.energy.uncertainty_j


def test_the_power_at_the_end_of_the_work_is_learned() -> None:
    """Guessed anew in every window, it would be guessed wrongly in every window."""
    even, falling = Rig(seed=1), Rig(seed=1, end_share=0.15)
    for rig in (even, falling):
        measured = [rig.window(0.2 * rig.random.gauss(1.0, 0.02)) for _ in range(15)]
        assert rms_by_limit(measured[5:], REAL_LIMITS) <= 1.0
    # Means above idle, in units of the decode power's: 1.1 and 0.675. A low power that decays and a high one that
    # drops at once look much alike: the forms share the blame.
    assert even.model.end_to_mean == pytest.approx(1 / 1.1, abs=0.1)
    assert falling.model.end_to_mean == pytest.approx(0.15 / 0.675, abs=0.4)


def test_where_a_read_looks_is_part_of_the_uncertainty() -> None:
    """All edges late by half a read: the powers at the two ends of the window differ by 150 W."""
    after = [
        Edge(1.0 + x_s, 220.0 + 70.0 * x_s + 150.0 * 0.4 * -math.expm1(-x_s / 0.4), 1e-5)
        for x_s in (0.05, 0.15, 0.25, 0.35)
    ]
    quick, slow = (
        TailModel(70.0, 1.0).window_energy(
            Edge(0.0, 0.0, 1e-5), 0.0, 1.0, after, CounterTiming(0.1, 0.0, 0.001, read_cost_s)
        )
        for read_cost_s in (0.0, 0.01)
    )
    assert slow.joules == quick.joules
    assert slow.uncertainty_j**2 - quick.uncertainty_j**2 == pytest.approx(
        (1.96 * 150.0 * 0.01 / math.sqrt(12)) ** 2, rel=0.3
    )


def test_a_pause_between_windows_corrects_the_idle_power() -> None:
    rig = Rig(decay_s=0.4)
    rig.windows(4)
    rig.model.set_idle_power(1.15 * rig.idle_w, 0.1 * rig.idle_w)
    rig.clock.sleep(2.0)
    rig.window(0.5, edges=2)
    assert rig.model.idle_power_w == pytest.approx(rig.idle_w, rel=0.02)


def test_other_work_in_a_pause_is_not_taken_for_idle_power() -> None:
    rig = Rig()
    rig.windows(4)
    rig.work(0.5)
    rig.clock.sleep(1.0)
    rig.window(0.5)
    assert rig.model.idle_power_w == pytest.approx(rig.idle_w, rel=0.03)


def test_a_missed_edge_costs_certainty_but_not_truth() -> None:
    misses = []
    for seed in range(20):
        rig = Rig(seed=seed)
        rig.windows(4)
        before = rig.edge()
        start_s = rig.clock.now_s()
        rig.work(0.47)
        end_s = rig.clock.now_s()
        after = [rig.edge(), rig.edge()]
        # The process is stalled over the next two updates and sees only the second.
        rig.finder.begin()
        rig.clock.sleep(0.23)
        seen = rig.finder.poll()
        assert seen is not None
        energy = rig.model.window_energy(before, start_s, end_s, [*after, seen], rig.timing)
        misses.append(Measured(0.47, rig.board.energy_j(start_s, end_s), energy, 0.0))
    assert rms_by_limit(misses, REAL_LIMITS) <= 1.0
    assert coverage(misses) >= 0.9


def test_a_pause_before_the_work_is_taken_at_the_power_of_the_last_tail() -> None:
    """Where several boards are awaited: 80 ms at idle power, and up to 100 W more that linger."""
    measured = []
    for seed in range(5):
        rig = Rig(decay_s=0.4, seed=seed)
        measured += [rig.window(0.5 * rig.random.gauss(1.0, 0.02), head_s=0.08) for _ in range(10)][1:]
    assert rms_by_limit(measured, REAL_LIMITS) <= 1.0
    assert coverage(measured) >= 0.9


def test_unknown_work_before_a_pause_widens_the_interval() -> None:
    rig = Rig(seed=1)
    rig.windows(6)
    quiet = rig.window(0.5, head_s=0.08)
    rig.work(0.3)
    disturbed = rig.window(0.5, head_s=0.08)
    assert disturbed.energy.uncertainty_j > 2.0 * quiet.energy.uncertainty_j
    assert disturbed.covered


def test_one_edge_after_the_work_gives_a_wide_interval() -> None:
    measured = [Rig(seed=seed).window(0.51, edges=1) for seed in range(30)]
    assert coverage(measured) >= 0.9
    known = Rig(seed=0).window(0.51)
    assert measured[0].energy.uncertainty_j > 2.0 * known.energy.uncertainty_j


def test_a_tail_that_no_decay_explains_widens_what_follows() -> None:
    rig = Rig(seed=2)
    rig.windows(6)
    settled = rig.window(0.5, edges=4)
    for _ in range(3):
        before = rig.edge()
        start_s = rig.clock.now_s()
        rig.work(0.5)
        end_s = rig.clock.now_s()
        after = [rig.edge(), rig.edge()]
        rig.work(0.05)  # somebody else's
        after += [rig.edge(), rig.edge()]
        rig.model.window_energy(before, start_s, end_s, after, rig.timing)
        rig.clock.sleep(1.0)
    assert rig.window(0.5, edges=4).energy.uncertainty_j > 2.0 * settled.energy.uncertainty_j


def test_edges_that_do_not_enclose_the_window_are_refused() -> None:
    timing = CounterTiming(0.1, 0.0, 0.001, 0.0)
    before, after = Edge(1.0, 10.0, 1e-4), [Edge(2.05, 110.0, 1e-4), Edge(2.15, 117.0, 1e-4)]
    with pytest.raises(ValueError, match="starts after an edge"):
        TailModel(70.0).window_energy(before, 0.9, 2.0, after, timing)
    with pytest.raises(ValueError, match="starts after an edge"):
        TailModel(70.0).window_energy(before, 1.0, 2.0, [], timing)
    with pytest.raises(ValueError, match="two edges"):
        TailModel().window_energy(before, 1.0, 2.0, after[:1], timing)


def interpolated(rig: Rig, work_s: float) -> tuple[WindowEnergy | None, float]:
    rig.clock.sleep(rig.random.uniform(1.0, 1.1))
    before = rig.finder.glance()
    start_s = rig.clock.now_s()
    rig.work(work_s)
    end_s = rig.clock.now_s()
    after = rig.finder.glance()
    energy = interpolated_energy(before, start_s, end_s, after, rig.idle_w, 2.0)
    return energy, rig.board.energy_j(start_s, end_s)


@pytest.mark.parametrize("phase_known", [True, False])
@pytest.mark.parametrize("period_s", [0.02, 0.1])
def test_interpolation_covers_the_truth_without_waiting(period_s: float, phase_known: bool) -> None:
    measured, naive_j2, error_j2 = [], 0.0, 0.0
    for seed in range(60):
        rig = Rig(period_s=period_s, seed=seed, jitter_sd_s=0.002)
        if phase_known:
            rig.edge()
        read_j = rig.read()
        energy, true_j = interpolated(rig, 0.73)
        assert energy is not None
        # A raw read has the idle second before the window in it: take it off, to be fair.
        naive_j2 += (rig.read() - read_j - true_j - rig.idle_w * 1.05) ** 2
        error_j2 += (energy.joules - true_j) ** 2
        measured.append(Measured(0.73, true_j, energy, 0.0))
    assert coverage(measured) >= 0.9
    assert error_j2 < naive_j2


def test_a_window_without_an_update_is_below_the_resolution() -> None:
    rig = Rig(jitter_sd_s=0.0)
    rig.edge()
    before = rig.finder.glance()
    start_s = rig.clock.now_s()
    rig.work(0.02)
    assert interpolated_energy(before, start_s, rig.clock.now_s(), rig.finder.glance(), 70.0, 2.0) is None
