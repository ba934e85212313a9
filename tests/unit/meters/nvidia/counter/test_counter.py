"""When a counter changed, from reads that take time themselves."""

from __future__ import annotations

import bisect
import math
import random
import statistics
from typing import TYPE_CHECKING

import pytest

from pytest_llem.errors import MeasurementError
from pytest_llem.meters.nvidia.counter.counter import CONTENT_S, Counter, CounterResetError, Edge
from pytest_llem.meters.nvidia.counter.lattice import Sighting
from pytest_llem.meters.nvidia.counter.pursuit import Pursuit, next_edge, wait_for_edges
from tests.simulators import RECORDED_READ_COSTS_S, SimulatedBoard, SimulatedClock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PERIOD_S = 0.1
PHASE_S = 0.037
STEP_J = 10.0


class Steps:
    """A counter that grows by 10 J at known instants, and reads of it that take known times.

    Attributes:
        updates_s: when it grows, in seconds.
        costs_s: how long the next reads take, in seconds; the last one for all that follow.
        moment: which part of a read has passed when it takes its value; ``None``: any.
        reads: start and end of all reads so far, in seconds.
    """

    def __init__(
        self,
        clock: SimulatedClock,
        *,
        period_s: float = PERIOD_S,
        phase_s: float = PHASE_S,
        off_s: Callable[[int], float] = lambda _: 0.0,
        costs_s: Sequence[float] = (0.001,),
        moment: float | None = None,
    ) -> None:
        self.clock = clock
        self.updates_s = sorted(1000.0 + phase_s + k * period_s + off_s(k) for k in range(-2, round(60.0 / period_s)))
        self.costs_s = list(costs_s)
        self.moment = moment
        self.reads: list[tuple[float, float]] = []
        self._random = random.Random(5)  # noqa: S311

    def __call__(self) -> float:
        start_s = self.clock.now_s()
        cost_s = self.costs_s.pop(0) if len(self.costs_s) > 1 else self.costs_s[0]
        moment = self._random.random() if self.moment is None else self.moment
        self.clock.sleep(moment * cost_s)
        joules = STEP_J * bisect.bisect_right(self.updates_s, self.clock.now_s())
        self.clock.sleep((1.0 - moment) * cost_s)
        self.reads.append((start_s, self.clock.now_s()))
        return joules

    def update_of(self, edge: Edge) -> float:
        """When the update happened whose value the edge has."""
        return self.updates_s[round(edge.energy_j / STEP_J) - 1]

    def last_update_s(self) -> float:
        return self.updates_s[bisect.bisect_right(self.updates_s, self.clock.now_s()) - 1]


def watched(steps: Steps, updates: int = 20) -> Counter:
    """The counter, with a lattice."""
    counter = Counter(steps, steps.clock)
    assert len(counter.watch(updates, 20.0)) == updates
    assert counter.lattice is not None
    return counter


def sleep_to(clock: SimulatedClock, instant_s: float) -> None:
    clock.sleep(instant_s - clock.now_s())


def pursue(counter: Counter, from_s: float | None = None) -> Edge | None:
    return next_edge(counter, counter.clock.now_s() if from_s is None else from_s)


class TestNow:
    """The newest edge, from a read between two of them."""

    @pytest.mark.parametrize("costs_s", [(0.0005,), RECORDED_READ_COSTS_S], ids=["short reads", "reads up to 32 ms"])
    def test_it_has_the_value_and_the_date_of_the_same_update(self, costs_s: tuple[float, ...]) -> None:
        clock = SimulatedClock()
        steps = Steps(clock, costs_s=costs_s * 20)
        counter = watched(steps)
        generator = random.Random(2)  # noqa: S311
        for _ in range(100):
            clock.sleep(generator.uniform(0.0, 0.25))
            asked_s = clock.now_s()
            edge = counter.edge_now()
            assert edge.time_s == pytest.approx(steps.update_of(edge), abs=0.002)
            assert edge.energy_j == STEP_J * bisect.bisect_right(steps.updates_s, edge.time_s + 0.003)
            assert edge.uncertainty_s == counter.content_s
            assert edge.time_s > asked_s - PERIOD_S - 0.016

    @pytest.mark.parametrize("after_s", [-0.0015, 0.0, 0.005, 0.014])
    def test_near_an_update_it_waits_until_a_read_is_clear_and_no_longer(self, after_s: float) -> None:
        clock = SimulatedClock()
        steps = Steps(clock)
        counter = watched(steps)
        edge_s = steps.last_update_s() + 3 * PERIOD_S
        sleep_to(clock, edge_s + after_s)
        steps.reads.clear()
        edge = counter.edge_now()
        assert edge.time_s == pytest.approx(edge_s, abs=0.001)
        ((start_s, _),) = steps.reads
        assert start_s == pytest.approx(edge_s + 0.015, abs=0.001)

    def test_far_from_one_it_reads_at_once(self) -> None:
        clock = SimulatedClock()
        steps = Steps(clock)
        counter = watched(steps)
        sleep_to(clock, steps.last_update_s() + PERIOD_S + 0.05)
        counter.edge_now()
        assert clock.now_s() == pytest.approx(steps.last_update_s() + 0.051)

    @pytest.mark.parametrize("moment", [0.0, 0.99])
    def test_a_read_that_spans_an_update_is_repeated(self, moment: float) -> None:
        """Its value is the old one's or the new one's: nobody knows."""
        clock = SimulatedClock()
        steps = Steps(clock, moment=moment)
        counter = watched(steps)
        edge_s = steps.last_update_s() + 2 * PERIOD_S
        sleep_to(clock, edge_s - 0.01)
        steps.reads.clear()
        steps.costs_s = [0.03, 0.001]
        edge = counter.edge_now()
        assert len(steps.reads) == 2
        assert edge.time_s == pytest.approx(edge_s, abs=0.001)
        assert steps.update_of(edge) == pytest.approx(edge_s)

    def test_where_every_read_spans_one_it_is_anywhere_in_a_period(self) -> None:
        clock = SimulatedClock()
        steps = Steps(clock)
        counter = watched(steps)
        steps.costs_s = [0.1]
        edge = counter.edge_now()
        assert edge.uncertainty_s == pytest.approx(PERIOD_S / math.sqrt(12.0), rel=0.01)
        assert abs(edge.time_s - steps.update_of(edge)) <= PERIOD_S

    def test_a_counter_without_a_lattice_has_none(self) -> None:
        clock = SimulatedClock()
        with pytest.raises(ValueError, match="no lattice"):
            Counter(Steps(clock), clock).edge_now()


class TestGlance:
    def test_without_a_lattice_it_has_the_uncertainty_of_a_period(self) -> None:
        clock = SimulatedClock()
        edge = Counter(Steps(clock), clock, 0.1).glance()
        assert edge.uncertainty_s == pytest.approx(0.1 / math.sqrt(12.0))
        assert clock.now_s() - edge.time_s == pytest.approx(0.05, abs=0.001)

    @pytest.mark.parametrize(("after_s", "is_dated"), [(0.05, True), (0.005, False), (0.0985, False)])
    def test_with_one_it_is_dated_where_its_read_is_clear_and_never_waits(self, after_s: float, is_dated: bool) -> None:
        clock = SimulatedClock()
        steps = Steps(clock)
        counter = watched(steps)
        edge_s = steps.last_update_s() + PERIOD_S
        sleep_to(clock, edge_s + after_s)
        edge = counter.glance()
        assert clock.now_s() == pytest.approx(edge_s + after_s + 0.001)
        assert (edge.uncertainty_s < 0.001) is is_dated
        if is_dated:
            assert edge.time_s == pytest.approx(edge_s, abs=0.001)


class TestPursuit:
    @pytest.mark.parametrize("period_s", [0.02, 0.1])
    @pytest.mark.parametrize("jitter_s", [0.0007, 0.003])
    def test_edges_are_dated_within_their_uncertainty(self, period_s: float, jitter_s: float) -> None:
        generator = random.Random(11)  # noqa: S311
        off_s = [generator.gauss(0.0, jitter_s) for _ in range(4000)]
        clock = SimulatedClock(oversleep_s=0.0001)
        steps = Steps(clock, period_s=period_s, off_s=lambda number: off_s[number])
        counter = watched(steps, 30)
        deviations = []
        for _ in range(80):
            from_s = clock.now_s() + generator.uniform(0.0, 2.0 * period_s)
            edge = pursue(counter, from_s)
            assert edge is not None
            deviations.append((edge.time_s - steps.update_of(edge)) / edge.uncertainty_s)
            assert from_s - 3.0 * jitter_s - 0.002 < edge.time_s < from_s + period_s + 3.0 * jitter_s + 0.002
        assert statistics.fmean(abs(deviation) <= 2.0 for deviation in deviations) >= 0.9

    def test_it_is_awaited_asleep_and_read_before_and_after(self) -> None:
        clock = SimulatedClock()
        steps = Steps(clock)
        counter = watched(steps)
        edge_s = steps.last_update_s() + 3 * PERIOD_S
        steps.reads.clear()
        edge = pursue(counter, edge_s - 0.05)
        assert edge is not None
        assert steps.update_of(edge) == pytest.approx(edge_s)
        assert edge.time_s == pytest.approx(edge_s, abs=0.001)
        # The first read surely shows the old value; it bounds the edge from below.
        assert steps.reads[0][1] < edge_s
        assert len(steps.reads) <= 5

    def test_a_late_update_that_is_seen_narrowly_is_dated_late(self) -> None:
        clock = SimulatedClock()
        # The first 20 are watched.
        steps = Steps(clock, off_s=lambda number: 0.011 if number == 25 else 0.0)
        counter = watched(steps)
        late_s = next(at_s for at_s in steps.updates_s if at_s > 1000.0 + PHASE_S + 25 * PERIOD_S + 0.001)
        edge = pursue(counter, late_s - 0.05)
        assert edge is not None
        assert steps.update_of(edge) == late_s
        assert edge.time_s == pytest.approx(late_s, abs=0.002)
        assert abs(edge.time_s - late_s) <= 2.0 * edge.uncertainty_s

    def test_a_punctual_one_that_is_seen_widely_is_taken_at_the_next_edge(self) -> None:
        """The read that would show a late one apart from a punctual one took too long."""
        clock = SimulatedClock()
        steps = Steps(clock)
        counter = watched(steps)
        edge_s = steps.last_update_s() + 2 * PERIOD_S
        pursuit = Pursuit(counter, edge_s - 0.05)
        sleep_to(clock, pursuit.due_s)
        # The read at the edge ends 25 ms after it.
        steps.costs_s = [0.0005, 0.03, 0.001]
        wait_for_edges([pursuit])
        assert pursuit.edge is not None
        assert pursuit.edge.time_s == pytest.approx(edge_s + PERIOD_S, abs=0.001)
        assert steps.update_of(pursuit.edge) == pytest.approx(edge_s + PERIOD_S)

    def test_it_puts_up_with_a_wide_sighting_after_two_next_edges(self) -> None:
        clock = SimulatedClock()
        steps = Steps(clock, moment=0.5)
        counter = watched(steps)
        edge_s = steps.last_update_s() + 8 * PERIOD_S
        # From now on all reads take long, and that is known.
        steps.costs_s = [0.025]
        for _ in range(16):
            counter.read()
        edge = pursue(counter, edge_s - 0.05)
        assert edge is not None
        assert edge.time_s == pytest.approx(edge_s + 2 * PERIOD_S, abs=0.01)
        assert abs(edge.time_s - steps.update_of(edge)) < 2.0 * edge.uncertainty_s
        assert 0.003 < edge.uncertainty_s <= 0.004

    def test_a_first_read_that_is_late_already_shows_the_new_value(self) -> None:
        clock = SimulatedClock()
        steps = Steps(clock)
        counter = watched(steps)
        edge_s = steps.last_update_s() + 2 * PERIOD_S
        pursuit = Pursuit(counter, edge_s - 0.05)
        sleep_to(clock, edge_s + 0.03)
        wait_for_edges([pursuit])
        assert pursuit.edge is not None
        assert pursuit.edge.time_s == pytest.approx(edge_s, abs=0.001)
        assert steps.update_of(pursuit.edge) == pytest.approx(edge_s)

    @pytest.mark.parametrize("late_s", [0.105, 0.13, 0.35])
    def test_a_first_read_that_is_late_by_more_than_a_period_is_of_a_later_edge(self, late_s: float) -> None:
        """Other boards are asked many things as soon as the work has ended."""
        clock = SimulatedClock()
        steps = Steps(clock)
        counter = watched(steps)
        edge_s = steps.last_update_s() + 2 * PERIOD_S
        pursuit = Pursuit(counter, edge_s - 0.05)
        sleep_to(clock, edge_s + late_s)
        wait_for_edges([pursuit])
        assert pursuit.edge is not None
        assert pursuit.edge.time_s == pytest.approx(steps.update_of(pursuit.edge), abs=0.002)

    def test_an_update_that_does_not_come_is_waited_over(self) -> None:
        clock = SimulatedClock()
        steps = Steps(clock)
        counter = watched(steps)
        edge_s = steps.last_update_s() + 2 * PERIOD_S
        steps.updates_s.remove(next(at_s for at_s in steps.updates_s if at_s > edge_s - 0.001))
        edge = pursue(counter, edge_s - 0.05)
        assert edge is not None
        assert edge.time_s == pytest.approx(edge_s + PERIOD_S, abs=0.002)
        assert steps.update_of(edge) == pytest.approx(edge_s + PERIOD_S)

    def test_a_board_that_draws_next_to_nothing_has_edges_without_a_change(self) -> None:
        """Its updates come, and are less than a step of the counter."""
        clock = SimulatedClock()
        steps = Steps(clock)
        counter = watched(steps)
        edge_s = steps.last_update_s() + 2 * PERIOD_S
        steps.updates_s = [at_s for at_s in steps.updates_s if at_s < clock.now_s()]
        edge = pursue(counter, edge_s - 0.05)
        assert edge is not None
        assert edge.time_s == pytest.approx(edge_s, abs=0.001)
        assert edge.energy_j == STEP_J * len(steps.updates_s)
        assert clock.now_s() < edge_s + 2 * PERIOD_S

    def test_a_counter_that_stands_still_has_no_edge(self) -> None:
        clock = SimulatedClock()
        before_s = clock.now_s()
        assert pursue(Counter(lambda: 5.0, clock, 0.1)) is None
        assert clock.now_s() - before_s == pytest.approx(10 * PERIOD_S, abs=0.01)

    @pytest.mark.parametrize("reset_after_s", [0.02, 0.15])
    def test_a_counter_that_goes_backwards_is_a_reset_of_its_own(self, reset_after_s: float) -> None:
        clock = SimulatedClock()
        board = SimulatedBoard(power=200.0, read_cost_s=0.0)
        counter = Counter(lambda: board.counter_mj(clock.now_s()) / 1e3, clock)
        counter.watch(20, 5.0)
        board.resets_s = [clock.now_s() + reset_after_s]
        clock.sleep(reset_after_s)
        with pytest.raises(CounterResetError, match="went backwards") as caught:
            pursue(counter)
        assert isinstance(caught.value, MeasurementError)
        assert caught.value.counter is counter
        # From there on it counts as before.
        edge = pursue(counter)
        assert edge is not None
        assert edge.energy_j == board.counter_mj(clock.now_s()) / 1e3


class TestSeveral:
    def test_edges_are_awaited_together(self) -> None:
        clock = SimulatedClock()
        all_steps = [Steps(clock, phase_s=phase_s) for phase_s in (0.01, 0.04, 0.07)]
        counters = [watched(steps) for steps in all_steps]
        from_s = clock.now_s() + 0.05
        pursuits = [Pursuit(counter, from_s) for counter in counters]
        for steps in all_steps:
            steps.reads.clear()
        wait_for_edges(pursuits)
        assert clock.now_s() - from_s < 0.12
        for pursuit, steps in zip(pursuits, all_steps, strict=True):
            assert pursuit.edge is not None
            assert pursuit.edge.time_s == pytest.approx(steps.update_of(pursuit.edge), abs=0.002)
            # Not read while only others are due.
            assert len(steps.reads) <= 6

    def test_one_that_stands_still_does_not_hide_the_others(self) -> None:
        clock = SimulatedClock()
        silent = Pursuit(Counter(lambda: 5.0, clock, 0.1), clock.now_s())
        alive = Pursuit(watched(Steps(clock)), clock.now_s())
        wait_for_edges([silent, alive])
        assert silent.edge is None
        assert alive.edge is not None


class TestWithoutLattice:
    """What two reads show between which the value has changed."""

    @staticmethod
    def counter(steps: Steps) -> Counter:
        counter = Counter(steps, steps.clock, PERIOD_S, regular=False)
        counter.watch(16, 5.0)
        assert counter.lattice is None
        return counter

    def test_the_next_change_is_waited_for_and_dated_by_its_sighting(self) -> None:
        clock = SimulatedClock()
        generator = random.Random(4)  # noqa: S311
        walk_s = [0.0]
        while len(walk_s) < 2000:
            walk_s.append(walk_s[-1] + generator.uniform(-0.02, 0.02))
        steps = Steps(clock, off_s=lambda number: walk_s[number])
        counter = self.counter(steps)
        for _ in range(40):
            clock.sleep(generator.uniform(0.0, 0.1))
            asked_s = clock.now_s()
            edge = pursue(counter)
            assert edge is not None
            assert edge.time_s > asked_s
            # The sighting is all that is known: its half-width is sqrt(3) standard deviations.
            assert abs(edge.time_s - steps.update_of(edge)) <= math.sqrt(3.0) * edge.uncertainty_s
            assert edge.uncertainty_s < 0.002

    def test_several_updates_in_one_sighting_leave_the_last_period(self) -> None:
        clock = SimulatedClock()
        steps = Steps(clock, moment=0.5)
        counter = self.counter(steps)
        pursuit = Pursuit(counter, clock.now_s())
        assert pursuit.poll() is None
        clock.sleep(0.27)
        edge = pursuit.poll()
        assert edge is not None
        assert edge.uncertainty_s == pytest.approx(PERIOD_S / math.sqrt(12.0), rel=0.01)
        assert abs(edge.time_s - steps.update_of(edge)) <= PERIOD_S / 2.0


class TestContent:
    """How well an edge is dated that was not seen to happen."""

    def test_it_is_what_two_boards_showed_until_more_is_known(self) -> None:
        assert watched(Steps(SimulatedClock())).content_s == pytest.approx(CONTENT_S)

    def test_it_is_the_root_mean_square_of_idle_stretches_and_six_of_the_usual(self) -> None:
        counter = watched(Steps(SimulatedClock()))
        for error_s in (0.001, -0.002, 0.003):
            counter.note_idle_gain(error_s, 0.0)
        expected_s = math.sqrt((6 * 0.0007**2 + 0.001**2 + 0.002**2 + 0.003**2) / 9)
        assert counter.content_s == pytest.approx(expected_s)

    def test_what_the_first_edge_of_a_stretch_is_off_by_is_not_counted_twice(self) -> None:
        counter = watched(Steps(SimulatedClock()))
        counter.note_idle_gain(0.002, 0.002)
        assert counter.content_s == pytest.approx(math.sqrt(6 / 7) * 0.0007)

    def test_whatever_it_is_told_it_stays_within_bounds(self) -> None:
        counter = watched(Steps(SimulatedClock()))
        for _ in range(50):
            counter.note_idle_gain(1.0, 0.0)
        assert counter.content_s == pytest.approx(0.005)
        for _ in range(50):
            counter.note_idle_gain(0.0, 0.0)
        assert counter.content_s == pytest.approx(0.0005)

    def test_of_a_short_period_it_is_an_eighth_at_most(self) -> None:
        counter = watched(Steps(SimulatedClock(), period_s=0.02))
        for _ in range(50):
            counter.note_idle_gain(1.0, 0.0)
        assert counter.content_s == pytest.approx(0.0025)

    def test_edges_that_keep_the_lattice_do_not_change_it(self) -> None:
        clock = SimulatedClock()
        counter = watched(Steps(clock))
        before_s = counter.content_s
        for _ in range(30):
            clock.sleep(0.1)
            counter.edge_now()
            pursue(counter)
        assert counter.content_s == before_s


class TestLostLattice:
    def test_a_late_update_now_and_then_changes_nothing(self) -> None:
        clock = SimulatedClock()
        counter = watched(Steps(clock, off_s=lambda number: 0.012 if number % 16 == 0 and number > 22 else 0.0))
        for _ in range(40):
            pursue(counter)
        assert counter.lattice is not None
        assert not counter.contradicts_period
        assert not counter.phase_is_lost
        assert not counter.wanders

    @pytest.mark.parametrize("shift_s", [-0.02, 0.02])
    def test_edges_of_one_that_has_moved_are_waited_for_and_right(self, shift_s: float) -> None:
        clock = SimulatedClock()
        steps = Steps(clock, off_s=lambda number: shift_s if number > 22 else 0.0)
        counter = watched(steps)
        for _ in range(12):
            edge = pursue(counter)
            assert edge is not None
            assert edge.time_s == pytest.approx(steps.update_of(edge), abs=0.002)
        assert counter.lattice is None

    def test_a_wide_sighting_that_takes_the_lattice_away_is_an_edge_all_the_same(self) -> None:
        clock = SimulatedClock()
        steps = Steps(clock, off_s=lambda number: -0.02 if number > 22 else 0.0)
        counter = watched(steps)
        for _ in range(4):
            pursue(counter)
        pursuit = Pursuit(counter, clock.now_s() + 0.05)
        sleep_to(clock, pursuit.due_s)
        pursuit.poll()
        # This process was held up.
        clock.sleep(0.09)
        wait_for_edges([pursuit])
        assert counter.lattice is None
        assert pursuit.edge is not None
        assert abs(pursuit.edge.time_s - steps.update_of(pursuit.edge)) <= 2.0 * pursuit.edge.uncertainty_s

    def test_one_whose_update_came_at_quite_another_moment_is_lost_until_it_is_watched_again(self) -> None:
        clock = SimulatedClock()
        steps = Steps(clock, off_s=lambda number: 0.045 if number > 22 else 0.0)
        counter = watched(steps)
        for _ in range(4):
            pursue(counter)
        is_lost = [counter.phase_is_lost]
        counter.watch(5, 2.0)
        is_lost.append(counter.phase_is_lost)
        assert is_lost == [True, False]
        clock.sleep(0.07)
        edge = counter.edge_now()
        assert edge.time_s == pytest.approx(steps.update_of(edge), abs=0.001)

    @pytest.mark.parametrize("seed", range(3))
    def test_updates_that_come_anywhere_from_now_on_are_soon_predicted_no_more(self, seed: int) -> None:
        generator = random.Random(seed)  # noqa: S311
        off_s = [generator.uniform(-0.012, 0.012) if number > 22 else 0.0 for number in range(1000)]
        clock = SimulatedClock()
        counter = watched(Steps(clock, off_s=lambda number: off_s[number]))
        seen = 0
        while counter.lattice is not None and not counter.wanders:
            pursue(counter)
            seen += 1
        assert 4 < seen < 30

    def test_the_clock_of_a_board_may_run_off_ours(self) -> None:
        """Seen every 20 s for 10 minutes, by 20 millionths: 12 ms in all, 0.4 ms from one sighting to the next."""
        clock = SimulatedClock()
        counter = Counter(Steps(clock), clock, PERIOD_S)
        counter.watch(5, 2.0)
        assert counter.lattice is not None
        first_s = counter.lattice.origin_s
        for number in range(1, 31):
            update_s = first_s + number * 20.0 * (1.0 + 20e-6)
            assert counter.lattice is not None
            expected_s = counter.lattice.first_from(update_s - PERIOD_S / 2.0)
            assert expected_s == pytest.approx(update_s, abs=0.003)
            counter.see(Sighting(update_s - 0.002, update_s + 0.001))

    def test_an_update_that_is_seen_refines_the_lattice(self) -> None:
        clock = SimulatedClock()
        steps = Steps(clock, costs_s=[0.02])
        counter = Counter(steps, clock, PERIOD_S)
        counter.watch(4, 2.0)
        assert counter.lattice is not None
        before_s = abs(math.remainder(counter.lattice.origin_s - 1000.0 - PHASE_S, PERIOD_S))
        steps.costs_s = [0.001]
        for _ in range(6):
            pursue(counter)
        after_s = abs(math.remainder(counter.lattice.origin_s - 1000.0 - PHASE_S, PERIOD_S))
        assert after_s < min(before_s, 0.001)


class TestDate:
    """An edge's place on the lattice and what was seen of it, put together."""

    @staticmethod
    def counter() -> Counter:
        return watched(Steps(SimulatedClock()))

    def test_a_sighting_about_its_place_changes_nothing(self) -> None:
        for half_s, error_s in ((0.010, 0.004), (0.007, CONTENT_S)):
            dated = self.counter().date(Sighting(50.0 - half_s, 50.0 + half_s), 50.0)
            assert dated[0] == pytest.approx(50.0, abs=1e-6)
            # The wide one bounds its normal distribution a little.
            assert dated[1] == pytest.approx(error_s, rel=0.06)

    def test_a_sighting_that_begins_at_its_place_halves_the_distribution(self) -> None:
        # Half a normal distribution: mean sqrt(2 / pi), standard deviation sqrt(1 - 2 / pi).
        at_s, error_s = self.counter().date(Sighting(50.0, 50.01), 50.0)
        assert at_s - 50.0 == pytest.approx(CONTENT_S * math.sqrt(2 / math.pi), rel=0.01)
        assert error_s == pytest.approx(CONTENT_S * math.sqrt(1 - 2 / math.pi), rel=0.01)

    def test_one_that_lies_elsewhere_is_believed(self) -> None:
        at_s, error_s = self.counter().date(Sighting(50.009, 50.013), 50.0)
        assert at_s == pytest.approx(50.011)
        assert error_s == pytest.approx(0.004 / math.sqrt(12.0))

    @pytest.mark.parametrize(
        ("sighting", "doubtful"),
        [(Sighting(49.990, 50.012), True), (Sighting(49.980, 50.008), False), (Sighting(49.999, 50.013), False)],
        ids=["long after", "long before", "short"],
    )
    def test_only_a_wide_sighting_that_ends_long_after_its_place_may_hide_a_late_update(
        self, sighting: Sighting, doubtful: bool
    ) -> None:
        assert self.counter().is_doubtful(sighting, 50.0) is doubtful
