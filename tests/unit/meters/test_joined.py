"""Windows one after the other with meters that are read at either edge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.meters import MeterRequest, SimpleMeter, Window
from pytest_llem.meters.base import Disturbance
from pytest_llem.meters.estimate import EstimateMeter
from pytest_llem.meters.none import NoMeter
from tests.simulators import SimulatedClock

if TYPE_CHECKING:
    from collections.abc import Iterator


class Scripted(SimpleMeter):
    """Says what it was told to."""

    name = "scripted"

    def __init__(self, clock: SimulatedClock, *answers: tuple[float | None, float | None], by_chance: bool) -> None:
        super().__init__(MeterRequest(clock=clock))
        self._answers: Iterator[tuple[float | None, float | None]] = iter(answers)
        self._by_chance = by_chance

    def fill(self, window: Window, started: Any) -> None:
        window.joules, window.uncertainty_j = next(self._answers)
        window.errors_average_out = self._by_chance
        if window.joules is None:
            window.reason = "below the resolution"
        else:
            window.boards_j = {"package-0": window.joules}


def total_of(meter: SimpleMeter, clock: SimulatedClock, count: int) -> Window:
    synchronised = []
    with meter.joined_windows(lambda: synchronised.append(clock.now_s())) as joined:
        for _ in range(count):
            with joined.window() as window:
                clock.work(0.5)
            assert window.seconds == pytest.approx(0.5)
            clock.sleep(0.2)  # belongs to no window
            meter.between_calls()
    assert len(joined.windows) == count
    assert len(synchronised) == 2 * count
    return joined.total


@pytest.mark.parametrize(("by_chance", "width_j"), [(True, 5.0), (False, 7.0)])
def test_half_widths_add_as_their_errors_do(by_chance: bool, width_j: float) -> None:
    clock = SimulatedClock()
    total = total_of(Scripted(clock, (10.0, 3.0), (20.0, 4.0), by_chance=by_chance), clock, 2)
    assert total.joules == 30.0
    assert total.uncertainty_j == pytest.approx(width_j)
    assert total.seconds == pytest.approx(1.0)
    assert total.boards_j == {"package-0": 30.0}
    assert total.errors_average_out is by_chance
    assert not total.joined


def test_a_sum_with_an_unknown_term_is_unknown() -> None:
    clock = SimulatedClock()
    total = total_of(Scripted(clock, (10.0, 3.0), (None, None), (10.0, 3.0), by_chance=True), clock, 3)
    assert (total.joules, total.uncertainty_j) == (None, None)
    assert total.reason == "below the resolution"
    assert total.seconds == pytest.approx(1.5)


def test_without_uncertainties_there_is_none_of_the_sum() -> None:
    clock = SimulatedClock()
    meter = EstimateMeter(MeterRequest(clock=clock, watts_per_core=10.0))
    assert meter.joins is None
    total = total_of(meter, clock, 3)
    assert total.joules == pytest.approx(15.0)
    assert total.uncertainty_j is None
    assert len(total.warnings) == 1


def test_time_alone_adds_up_too() -> None:
    clock = SimulatedClock()
    total = total_of(NoMeter(MeterRequest(clock=clock)), clock, 2)
    assert total.joules is None
    assert total.reason
    assert total.seconds == pytest.approx(1.0)


def test_what_disturbed_one_window_disturbs_the_sum() -> None:
    clock = SimulatedClock()
    meter = Scripted(clock, (10.0, 3.0), (20.0, 4.0), by_chance=True)
    with meter.joined_windows() as joined:
        for number in range(2):
            with joined.window() as window:
                clock.work(0.5)
            if number == 0:
                window.disturb(Disturbance("reset", "it was reset"))
    assert not joined.total.valid
    assert joined.total.warnings == ["it was reset"]


def test_an_exception_propagates_and_the_window_does_not_count() -> None:
    clock = SimulatedClock()
    meter = Scripted(clock, (10.0, 3.0), by_chance=True)
    with meter.joined_windows() as joined:
        with pytest.raises(RuntimeError), joined.window():
            raise RuntimeError
        with joined.window():
            clock.work(0.5)
    assert len(joined.windows) == 1
    assert joined.total.joules == 10.0


def test_without_a_window_there_is_no_energy() -> None:
    with Scripted(SimulatedClock(), by_chance=True).joined_windows() as joined:
        pass
    assert (joined.total.joules, joined.total.reason) == (None, "there was no window")
