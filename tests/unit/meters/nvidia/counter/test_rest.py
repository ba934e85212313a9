"""All that is carried from one window of a counter to the next."""

from __future__ import annotations

import pytest

from pytest_llem.meters.nvidia.counter.counter import CONTENT_S, Counter, Edge
from pytest_llem.meters.nvidia.counter.rest import BoardAtRest
from pytest_llem.meters.nvidia.idle_power import Idle
from pytest_llem.meters.nvidia.samples import PowerSample
from pytest_llem.meters.nvidia.settling import FADED_S, Settling
from pytest_llem.meters.nvidia.window_energy import LAG_S
from tests.simulators import SimulatedClock

IDLE = Idle(power_w=100.0, error_w=0.5, noise_w=1.0)


def settled(excess_w: float = 0.0, tau_s: float = 0.012, *, seen: bool = True) -> Settling:
    return Settling(100.0, 0.5, excess_w, tau_s, surplus_j=10.0, error_j=0.1, seen=seen)


def flat(power_w: float, from_s: float, to_s: float) -> list[PowerSample]:
    count = round((to_s - from_s) / 0.02) + 1
    return [PowerSample(from_s + 0.02 * number, power_w) for number in range(count)]


def counter() -> Counter:
    """One of a period of 0.1 s that nobody has read."""
    return Counter(lambda: 0.0, SimulatedClock(), 0.1)


class TestIdle:
    def test_it_is_what_the_samples_show_before_the_window(self) -> None:
        rest = BoardAtRest()
        idle = rest.idle_before(flat(110.0, 9.4, 10.0), 10.0)
        assert idle.power_w == pytest.approx(110.0)
        assert rest.idle == idle

    def test_a_short_stretch_tells_this_window_but_is_not_kept(self) -> None:
        rest = BoardAtRest()
        kept = rest.idle_before(flat(110.0, 9.4, 10.0), 10.0)
        short = rest.idle_before([*flat(400.0, 10.2, 10.4), *flat(114.0, 10.42, 10.5)], 10.5)
        assert short.power_w == pytest.approx(114.0)
        assert rest.idle == kept

    def test_where_power_still_changes_it_is_what_was_last_seen(self) -> None:
        rest = BoardAtRest()
        kept = rest.idle_before(flat(110.0, 9.4, 10.0), 10.0)
        changing = [PowerSample(11.0 + 0.02 * number, 400.0 - 20.0 * number) for number in range(12)]
        assert rest.idle_before(changing, 11.22) == kept

    def test_a_board_that_was_never_seen_at_rest_is_not_above_its_lowest_power(self) -> None:
        changing = [PowerSample(11.0 + 0.02 * number, 400.0 - 20.0 * number) for number in range(12)]
        idle = BoardAtRest().idle_before(changing, 11.22)
        assert idle.power_w < 180.0
        assert idle.error_w > 30.0
        assert BoardAtRest().idle_before([], 11.0).power_w == 0.0

    def test_what_the_last_window_left_is_not_taken_for_idle_power(self) -> None:
        """It falls so slowly that its samples look flat."""
        rest = BoardAtRest()
        kept = rest.idle_before(flat(100.0, 9.4, 10.0), 10.0)
        rest.begin(Edge(11.0, 500.0, 0.001), settled(excess_w=20.0, tau_s=0.2))
        # 20 W of which 12 W are left after 0.1 s, and less than one after 0.7 s.
        assert rest.idle_before(flat(112.0, 10.6, 11.1), 11.1) == kept
        assert rest.idle_before(flat(100.5, 11.2, 11.7), 11.7).power_w == pytest.approx(100.5)


class TestTimeConstant:
    def test_it_is_that_of_the_last_window_where_one_was_seen(self) -> None:
        rest = BoardAtRest()
        assert rest.tau_s == LAG_S
        rest.begin(Edge(11.0, 500.0, 0.001), settled(tau_s=0.08))
        assert rest.tau_s == 0.08
        rest.begin(Edge(12.0, 900.0, 0.001), settled(tau_s=0.2, seen=False))
        assert rest.tau_s == LAG_S


class TestStretchBetweenWindows:
    """From an edge after a window to the one before the next, in which nothing ran."""

    @staticmethod
    def end(rest: BoardAtRest, counted: Counter, error_s: float, seconds: float = 0.2, power_w: float = 100.0) -> Edge:
        """A stretch of 100 W whose gain is off by that, in seconds of its power."""
        rest.begin(Edge(10.0, 500.0, 0.0005), settled())
        before = Edge(10.0 + seconds, 500.0 + power_w * (seconds + error_s), 0.0007)
        # What ran before it is none of it.
        return rest.end(counted, before, IDLE, [*flat(400.0, 9.6, 9.9), *flat(power_w, 9.92, 10.0 + seconds)])

    def test_its_gain_tells_how_well_edges_are_dated(self) -> None:
        rest, counted = BoardAtRest(), counter()
        assert counted.content_s == CONTENT_S
        for error_s in (0.001, -0.001):
            edge = self.end(rest, counted, error_s)
            assert edge.uncertainty_s == 0.0007
        # Six of 0.7 ms, and two of 1 ms of which 0.5 ms are those of the first edge.
        assert counted.content_s == pytest.approx(((6 * 0.0007**2 + 2 * (0.001**2 - 0.0005**2)) / 8) ** 0.5)

    @pytest.mark.parametrize("error_s", [-0.01, 0.01])
    def test_an_edge_that_must_have_come_late_is_that_uncertain(self, error_s: float) -> None:
        rest, counted = BoardAtRest(), counter()
        edge = self.end(rest, counted, error_s)
        assert edge.uncertainty_s == pytest.approx(0.01)
        assert edge.time_s == 10.2
        # One of a hundred says little about the others: it counts as three standard deviations.
        assert counted.content_s < 1.5 * CONTENT_S

    @pytest.mark.parametrize("seconds", [0.04, 0.6])
    def test_a_stretch_that_is_too_short_or_too_long_says_nothing(self, seconds: float) -> None:
        rest, counted = BoardAtRest(), counter()
        edge = self.end(rest, counted, 0.01, seconds)
        assert edge.uncertainty_s == 0.0007
        assert counted.content_s == CONTENT_S

    def test_nor_does_one_in_which_something_ran(self) -> None:
        rest, counted = BoardAtRest(), counter()
        rest.begin(Edge(10.0, 500.0, 0.0005), settled())
        samples = [*flat(100.0, 9.8, 10.06), *flat(300.0, 10.08, 10.12), *flat(100.0, 10.14, 10.2)]
        before = Edge(10.2, 532.0, 0.0007)
        assert rest.end(counted, before, IDLE, samples) == before
        assert counted.content_s == CONTENT_S

    def test_nor_one_of_which_there_are_no_samples(self) -> None:
        rest, counted = BoardAtRest(), counter()
        rest.begin(Edge(10.0, 500.0, 0.0005), settled())
        before = Edge(10.2, 532.0, 0.0007)
        assert rest.end(counted, before, IDLE, []) == before
        assert counted.content_s == CONTENT_S

    def test_it_is_used_once(self) -> None:
        rest, counted = BoardAtRest(), counter()
        self.end(rest, counted, 0.001)
        known_s = counted.content_s
        before = Edge(10.2, 521.0, 0.0007)
        assert rest.end(counted, before, IDLE, flat(100.0, 9.8, 10.2)) == before
        assert counted.content_s == known_s


class TestLaterEdges:
    def test_a_counter_that_has_not_caught_up_is_given_more_time(self) -> None:
        rest, counted = BoardAtRest(), counter()
        assert rest.faded_s == FADED_S
        waits_s = []
        for _ in range(4):
            TestStretchBetweenWindows.end(rest, counted, 0.012)
            waits_s.append(rest.faded_s)
        # By 20 ms after two such stretches, and again after two more.
        assert waits_s == pytest.approx([FADED_S, FADED_S + 0.02, FADED_S + 0.02, FADED_S + 0.04])

    def test_more_than_an_update_can_be_late_by_is_enough_once(self) -> None:
        rest = BoardAtRest()
        TestStretchBetweenWindows.end(rest, counter(), 0.02)
        assert rest.faded_s == pytest.approx(FADED_S + 0.02)

    def test_the_first_windows_with_an_early_edge_are_checked_by_a_further_one(self) -> None:
        rest, counted = BoardAtRest(), counter()
        after = [Edge(10.0, 500.0, 0.0007), Edge(10.1, 510.0, 0.0007)]
        assert not rest.wants_check(FADED_S + 0.06, 0.1)
        wanted = []
        for _ in range(3):
            wanted.append(rest.wants_check(FADED_S + 0.04, 0.1))
            rest.check(counted, after, 100.0, flat(100.0, 9.9, 10.1))
        assert wanted == [True, True, False]
        late = [after[0], Edge(10.1, 513.0, 0.0007)]
        rest.check(counted, late, 100.0, flat(100.0, 9.9, 10.1))
        assert rest.faded_s == pytest.approx(FADED_S + 0.02)
        assert rest.wants_check(rest.faded_s, 0.1)

    def test_a_single_late_update_changes_nothing(self) -> None:
        rest, counted = BoardAtRest(), counter()
        for number in range(24):
            TestStretchBetweenWindows.end(rest, counted, 0.01 if number % 6 == 0 else 0.0)
        assert rest.faded_s == FADED_S

    def test_gaining_too_little_is_no_reason(self) -> None:
        rest, counted = BoardAtRest(), counter()
        for _ in range(20):
            TestStretchBetweenWindows.end(rest, counted, -0.02)
        assert rest.faded_s == FADED_S

    def test_whatever_is_seen_it_is_bounded(self) -> None:
        rest = BoardAtRest()
        for _ in range(300):
            # A counter of its own each time: one that learns takes less and less for unusual.
            TestStretchBetweenWindows.end(rest, counter(), 0.05)
        assert rest.faded_s == pytest.approx(1.0)

    def test_what_is_learned_from_a_counter_that_is_always_off_is_bounded(self) -> None:
        rest, counted = BoardAtRest(), counter()
        for _ in range(300):
            TestStretchBetweenWindows.end(rest, counted, 0.09)
        assert counted.content_s <= 0.005
