"""What must be known of an energy counter before it can be read well: its timing, and whether reading harms it.

Both are found by watching the counter of a board that does nothing in particular: it takes a few seconds, once
for every board and driver (:mod:`pytest_llem.meters.calibration_store` keeps it).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_llem.errors import MeasurementError
from pytest_llem.meters.alignment import CounterResetError, CounterTiming, EdgeFinder, probe_timing

if TYPE_CHECKING:
    from pytest_llem.meters.alignment import Edge, ReadJoules
    from pytest_llem.meters.base import Clock

ASSUMED_UPDATE_PERIOD_S = 0.1
"""Longest update period that users of the counter report, in seconds; for counters that cannot be watched."""

_PROBE_LIMIT_S = 4.0
_QUIET_STRETCH_S = 1.0
_OFTEN_S = 0.001  # pause between reads in a stretch that is read often
_STRETCH_PERIODS = 8
_STRETCH_LEAST_S = 0.5
_UPDATES_LIMIT = 10  # periods without an update after which a stretch is given up

# Less than this share of the energy is not worth giving up aligned edges for: they are read at a few per cent
# of the times that the test reads at.
_TOLERATED_LOSS = 0.03
_OBVIOUS_LOSS = 0.5


@dataclass(frozen=True)
class Calibration:
    """What is known of a board's energy counter.

    Attributes:
        timing: how it behaves.
        under_reports: whether it counts less when it is read often. Then ``timing`` may be an assumption.
    """

    timing: CounterTiming
    under_reports: bool = False


def calibrate(read: ReadJoules, clock: Clock) -> Calibration | None:
    """Watch a counter for a few seconds, best while nothing runs.

    Args:
        read: reads the counter, in joules.
        clock: the clock to date its updates by.

    Returns:
        ``None`` for a counter that stands still or changes too rarely to be of use.

    Raises:
        CounterResetError: the counter went backwards.
    """
    start_s, start_j = clock.now_s(), read()
    try:
        timing = probe_timing(read, clock, timeout_s=_PROBE_LIMIT_S)
    except CounterResetError:
        raise
    except MeasurementError:
        # It stands still, or it does so only while it is looked at.
        often_s, often_j = clock.now_s(), read()
        clock.sleep(_QUIET_STRETCH_S)
        quiet_w = (read() - often_j) / (clock.now_s() - often_s)
        if (often_j - start_j) / (often_s - start_s) >= quiet_w / 2.0:
            return None
        return Calibration(CounterTiming(ASSUMED_UPDATE_PERIOD_S, 0.0, 0.001, 0.0), under_reports=True)
    lost = _share_lost_by_reading(read, clock, timing)
    # A board that is idle is never quite so, and being wrong here costs accuracy for as long as the driver stays:
    # ask again before believing in a small loss.
    if 0 < lost < _OBVIOUS_LOSS:
        lost = _share_lost_by_reading(read, clock, timing)
    return Calibration(timing, under_reports=lost > 0)


def _share_lost_by_reading(read: ReadJoules, clock: Clock, timing: CounterTiming) -> float:
    """Compare a stretch that is read often with those before and after it, which are read at their ends alone.

    The difference must exceed three standard uncertainties. They hold the dates of the edges, and half the
    difference between the two quiet stretches for a power that changes meanwhile.

    Returns:
        The share of the energy that reading often costs; 0 where that cannot be told from nothing.
    """
    finder = EdgeFinder(read, clock, timing)
    edge = finder.wait_for_edge()
    powers_w, variances = [], []
    for often in (False, True, False):
        before, edge = edge, _last_edge_of_stretch(finder, often)
        if before is None or edge is None:
            return 1.0 if often and before is not None else 0.0
        seconds = edge.time_s - before.time_s
        power_w = (edge.energy_j - before.energy_j) / seconds
        date_s = math.hypot(before.uncertainty_s, edge.uncertainty_s, math.sqrt(2.0) * timing.jitter_s)
        powers_w.append(power_w)
        variances.append((power_w * date_s / seconds) ** 2)
    quiet_w = (powers_w[0] + powers_w[2]) / 2.0
    drift_w = abs(powers_w[0] - powers_w[2]) / 2.0
    uncertainty_w = math.sqrt((variances[0] + variances[2]) / 4.0 + variances[1] + drift_w**2)
    lost_w = quiet_w - powers_w[1]
    return lost_w / quiet_w if lost_w > max(3.0 * uncertainty_w, _TOLERATED_LOSS * quiet_w) else 0.0


def _last_edge_of_stretch(finder: EdgeFinder, often: bool) -> Edge | None:
    clock, period_s = finder.clock, finder.timing.period_s
    stretch_s = max(_STRETCH_PERIODS * period_s, _STRETCH_LEAST_S)
    end_s = clock.now_s() + stretch_s - period_s / 2.0
    if not often:
        clock.sleep(end_s - clock.now_s())
        return finder.wait_for_edge()
    finder.begin()
    while clock.now_s() < end_s + _UPDATES_LIMIT * period_s:
        clock.sleep(_OFTEN_S)
        edge = finder.poll()
        if edge is not None:
            if edge.time_s >= end_s:
                return edge
            finder.begin()
    return None
