"""The lattice that sightings of updates lie on."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import pytest

from pytest_llem.meters.nvidia.counter.lattice import Lattice, Period, Sighting, fit_lattice
from tests.simulators import RECORDED_READ_COSTS_S

if TYPE_CHECKING:
    from collections.abc import Iterable

ORIGIN_S = 1000.0123


def sightings_of(updates_s: Iterable[float], seed: int = 0, costs_s: tuple[float, ...] = (0.001,)) -> list[Sighting]:
    """Updates seen by reads without a break that take these times, each of which takes its value at any moment."""
    generator = random.Random(seed)  # noqa: S311
    seen = []
    for update_s in updates_s:
        # The read about the update: it still shows the old value or shows the new one already.
        cost_s = generator.choice(costs_s)
        start_s = update_s - generator.uniform(0.0, cost_s)
        taken_s = start_s + generator.uniform(0.0, cost_s)
        if taken_s < update_s:
            seen.append(Sighting(start_s, start_s + cost_s + 0.0005 + generator.choice(costs_s)))
        else:
            seen.append(Sighting(start_s - 0.0005 - generator.choice(costs_s), start_s + cost_s))
    return seen


def regular(period_s: float, count: int) -> list[float]:
    return [ORIGIN_S + number * period_s for number in range(count)]


def phase_error_s(lattice: Lattice, period_s: float) -> float:
    return abs(math.remainder(lattice.origin_s - ORIGIN_S, period_s))


class TestLattice:
    LATTICE = Lattice(0.1, 50.0)

    @pytest.mark.parametrize(
        ("at_s", "before_s", "from_s"), [(50.04, 50.0, 50.1), (49.96, 49.9, 50.0), (51.29, 51.2, 51.3)]
    )
    def test_the_updates_on_either_side_of_an_instant(self, at_s: float, before_s: float, from_s: float) -> None:
        assert self.LATTICE.last_before(at_s) == pytest.approx(before_s)
        assert self.LATTICE.first_from(at_s) == pytest.approx(from_s)

    def test_an_exact_period_reaches_for_a_minute_and_an_uncertain_one_until_it_may_slip(self) -> None:
        # 50 millionths of a minute, by which two clocks may differ, are 3 ms.
        assert self.LATTICE.reaches(50.0 + 59.0)
        assert not self.LATTICE.reaches(50.0 + 61.0)
        # 100 periods of which each may be wrong by 0.1 ms are wrong by 10 ms: an eighth of a period is 12.5 ms.
        uncertain = Lattice(0.1, 50.0, period_error_s=0.0001)
        assert uncertain.reaches(60.0)
        assert not uncertain.reaches(63.0)
        assert not uncertain.reaches(37.0)


@pytest.mark.parametrize("period_s", [0.02, 0.06, 0.1, 0.25])
@pytest.mark.parametrize("seed", range(3))
def test_a_whole_multiple_of_5_ms_is_known_exactly_after_a_second(period_s: float, seed: int) -> None:
    lattice = fit_lattice(sightings_of(regular(period_s, 10), seed))
    assert lattice is not None
    assert lattice.period_s == pytest.approx(period_s, abs=1e-12)
    assert lattice.period_error_s == 0.0
    assert phase_error_s(lattice, period_s) < 0.001


@pytest.mark.parametrize("seed", range(3))
def test_reads_of_up_to_32_ms_date_updates_within_two_milliseconds(seed: int) -> None:
    lattice = fit_lattice(sightings_of(regular(0.1, 30), seed, RECORDED_READ_COSTS_S))
    assert lattice is not None
    assert lattice.period_s == pytest.approx(0.1, abs=1e-12)
    assert lattice.reach_s == 0.0
    assert phase_error_s(lattice, 0.1) < 0.002


@pytest.mark.parametrize("period_s", [0.0326, 0.0973, 0.1125])
@pytest.mark.parametrize("seed", range(3))
def test_a_period_that_is_none_is_as_uncertain_as_is_stated(period_s: float, seed: int) -> None:
    lattice = fit_lattice(sightings_of(regular(period_s, 16), seed))
    assert lattice is not None
    assert 0.0 < lattice.period_error_s < 0.0001
    assert abs(lattice.period_s - period_s) <= 3.0 * lattice.period_error_s
    # The newest sighting is the origin, from where predictions go on.
    assert phase_error_s(lattice, period_s) < 0.001 + 16 * abs(lattice.period_s - period_s)


def test_a_period_that_is_none_is_refined_by_each_further_sighting() -> None:
    seen = sightings_of(regular(0.0973, 200), 1)
    known = None
    errors_s = []
    for last in range(16, 200, 16):
        lattice = fit_lattice(seen[max(last - 30, 0) : last], known)
        assert lattice is not None
        known = Period(lattice.period_s, lattice.period_error_s)
        errors_s.append(lattice.period_error_s)
        assert abs(lattice.period_s - 0.0973) <= 3.0 * lattice.period_error_s
    assert errors_s == sorted(errors_s, reverse=True)
    assert errors_s[-1] < errors_s[0] / 2.0


def test_one_from_the_store_is_exact_where_it_is_a_whole_multiple_of_5_ms() -> None:
    assert Period.from_store(0.1) == Period(0.1, 0.0)
    assert Period.from_store(0.0973).error_s > 0.0


def test_a_known_period_bridges_gaps_of_many_periods() -> None:
    every_tenth = regular(0.0973, 100)[::10]
    lattice = fit_lattice(sightings_of(every_tenth), Period(0.0973, 0.00001))
    assert lattice is not None
    assert lattice.period_s == pytest.approx(0.0973, abs=0.00003)


def test_a_known_period_that_is_wrong_gives_way_to_what_is_seen() -> None:
    lattice = fit_lattice(sightings_of(regular(0.06, 16)), Period(0.1, 0.0))
    assert lattice is not None
    assert lattice.period_s == pytest.approx(0.06, abs=1e-12)


@pytest.mark.parametrize("late_s", [0.008, 0.02])
@pytest.mark.parametrize("late", [(4,), (15,), (2, 14)])
def test_late_updates_move_neither_period_nor_phase(late: tuple[int, ...], late_s: float) -> None:
    updates_s = [at_s + (late_s if number in late else 0.0) for number, at_s in enumerate(regular(0.1, 16))]
    lattice = fit_lattice(sightings_of(updates_s))
    assert lattice is not None
    assert lattice.period_s == pytest.approx(0.1, abs=1e-12)
    assert phase_error_s(lattice, 0.1) < 0.001


def test_the_origin_is_the_newest_update_because_predictions_look_forward() -> None:
    lattice = fit_lattice(sightings_of(regular(0.1, 16)))
    assert lattice is not None
    assert lattice.origin_s == pytest.approx(ORIGIN_S + 1.5, abs=0.001)


@pytest.mark.parametrize("period_s", [0.1008, 0.0992])
def test_a_period_beside_a_multiple_of_5_ms_is_not_taken_for_it(period_s: float) -> None:
    lattice = fit_lattice(sightings_of(regular(period_s, 24)))
    assert lattice is not None
    assert lattice.period_s == pytest.approx(period_s, abs=0.0001)


@pytest.mark.parametrize("jitter_s", [0.002, 0.005])
def test_jitter_is_told_and_the_phase_is_the_middle_of_it(jitter_s: float) -> None:
    generator = random.Random(7)  # noqa: S311
    updates_s = [at_s + generator.uniform(-1, 1) * math.sqrt(3) * jitter_s for at_s in regular(0.1, 30)]
    lattice = fit_lattice(sightings_of(updates_s))
    assert lattice is not None
    assert lattice.period_s == pytest.approx(0.1, abs=1e-12)
    assert lattice.jitter_s == pytest.approx(jitter_s, rel=0.4)
    assert lattice.jitter_s < lattice.reach_s < 2.5 * jitter_s
    assert phase_error_s(lattice, 0.1) < jitter_s / 2.0


def test_late_updates_do_not_move_the_middle_of_a_jitter() -> None:
    generator = random.Random(7)  # noqa: S311
    updates_s = [
        at_s + generator.uniform(-0.004, 0.004) + (0.04 if number in (3, 17) else 0.0)
        for number, at_s in enumerate(regular(0.1, 30))
    ]
    lattice = fit_lattice(sightings_of(updates_s))
    assert lattice is not None
    assert phase_error_s(lattice, 0.1) < 0.0015


def test_reads_far_longer_than_the_jitter_hide_it() -> None:
    generator = random.Random(7)  # noqa: S311
    updates_s = [at_s + generator.uniform(-1, 1) * 0.0012 for at_s in regular(0.1, 30)]
    lattice = fit_lattice(sightings_of(updates_s, 0, RECORDED_READ_COSTS_S))
    assert lattice is not None
    assert lattice.jitter_s < 0.0007


def test_a_walk_is_no_lattice() -> None:
    """Its irregularities add up: each is off like its neighbours, and after some periods predictions are worthless."""
    # A slow swing of 8 ms about any lattice, and no two neighbours farther off than 3 ms.
    updates_s = [at_s + 0.008 * math.sin(number / 3.0) for number, at_s in enumerate(regular(0.1, 24))]
    assert fit_lattice(sightings_of(updates_s)) is None


def test_updates_at_any_moment_are_no_lattice() -> None:
    generator = random.Random(3)  # noqa: S311
    updates_s = [at_s + generator.uniform(-0.04, 0.04) for at_s in regular(0.1, 20)]
    assert fit_lattice(sightings_of(updates_s)) is None


def test_two_updates_tell_no_lattice() -> None:
    seen = sightings_of(regular(0.1, 3))
    assert fit_lattice(seen[:2]) is None
    assert fit_lattice(seen) is not None
