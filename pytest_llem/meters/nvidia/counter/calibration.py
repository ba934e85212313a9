"""What must be known of an energy counter before it can be read well: its timing, and whether reading harms it.

Both are found by watching the counter of a board that does nothing in particular: it takes a few seconds, once
for every board and driver (``calibration_store`` keeps it). The phase of the updates is not kept: each process finds it
anew, in some periods.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from pytest_llem.meters.nvidia.counter.counter import ASSUMED_PERIOD_S, mean_power
from pytest_llem.meters.nvidia.counter.pursuit import next_edge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.meters.nvidia.counter.counter import Counter, Edge, Read

_UPDATES = 16
_FEWEST_UPDATES = 4
_PROBE_LIMIT_S = 5.0
_QUIET_STRETCH_S, _QUIET_STRETCHES = 0.5, 3
_OFTEN_S = 0.001  # pause between reads in a stretch that is read often
_STRETCH_PERIODS = 8
_STRETCH_LEAST_S = 0.5
_NVML_UNIT_J = 0.001

# Less than this share of the energy is not worth giving up edges for: they are read at a few per cent of the times that
# the test reads at.
_TOLERATED_LOSS = 0.03
_OBVIOUS_LOSS = 0.5


@dataclass(frozen=True)
class CounterTiming:
    """How an energy counter behaves.

    Attributes:
        period_s: time between two updates, in seconds.
        jitter_s: standard deviation of an update about its regular instant, in seconds.
        resolution_j: smallest step of the value, in joules.
        read_cost_s: time that one read takes, in seconds.
        regular: whether its updates keep a lattice, so that they can be predicted.
    """

    period_s: float
    jitter_s: float
    resolution_j: float
    read_cost_s: float
    regular: bool = True


@dataclass(frozen=True)
class Calibration:
    """What is known of a board's energy counter.

    Attributes:
        timing: how it behaves.
        under_reports: whether it counts less when it is read often. Then ``timing`` may be an assumption.
    """

    timing: CounterTiming
    under_reports: bool = False


def calibrate(counter: Counter) -> Calibration | None:
    """Watch a counter for a few seconds, best while nothing runs. It knows its lattice afterwards.

    Returns:
        ``None`` for a counter that stands still or changes too rarely to be of use.
    """
    first = counter.read()
    changes = counter.watch(_UPDATES, _PROBE_LIMIT_S)
    if len(changes) < _FEWEST_UPDATES:
        # It stands still or changes too rarely, or it does so only while it is looked at: a counter of so few updates
        # has none in one of three short stretches.
        often = counter.read()
        quiet = [often]
        for _ in range(_QUIET_STRETCHES):
            counter.clock.sleep(_QUIET_STRETCH_S)
            quiet.append(counter.read())
        quiet_w = min(_mean_power_w(earlier, later) for earlier, later in pairwise(quiet))
        if _mean_power_w(first, often) >= quiet_w / 2.0:
            return None
        return Calibration(CounterTiming(ASSUMED_PERIOD_S, 0.0, _NVML_UNIT_J, 0.0), under_reports=True)
    timing = _timing(counter, changes)
    counter.period_s = timing.period_s
    lost = _share_lost_by_reading(counter)
    # A board that is idle is never quite so, and being wrong here costs accuracy for as long as the driver stays:
    # measure again before a small loss is believed.
    if 0 < lost < _OBVIOUS_LOSS:
        lost = _share_lost_by_reading(counter)
    return Calibration(timing, under_reports=lost > 0)


def _timing(counter: Counter, changes: Sequence[Read]) -> CounterTiming:
    cost_s = counter.read_cost_s
    # Of values, not of their differences: at constant power those are all alike and say nothing.
    units = [round(read.energy_j / _NVML_UNIT_J) for read in changes]
    resolution_j = max(math.gcd(*units), 1) * _NVML_UNIT_J
    if counter.lattice is not None:
        return CounterTiming(counter.lattice.period_s, counter.lattice.jitter_s, resolution_j, cost_s, regular=True)
    gaps_s = [later.end_s - earlier.end_s for earlier, later in pairwise(changes)]
    # A gap of several periods is one whose update did not change the value: it would pull the mean.
    longest_s = 1.75 * statistics.median(gaps_s)
    gaps_s = [gap_s for gap_s in gaps_s if gap_s <= longest_s]
    # A gap has the jitter of both its ends.
    jitter_s = statistics.stdev(gaps_s) / math.sqrt(2.0)
    return CounterTiming(statistics.fmean(gaps_s), jitter_s, resolution_j, cost_s, regular=False)


def _mean_power_w(earlier: Read, later: Read) -> float:
    return (later.energy_j - earlier.energy_j) / max(later.start_s - earlier.start_s, 1e-9)


def _share_lost_by_reading(counter: Counter) -> float:
    """Compare a stretch that is read often with those before and after it, which are read at their ends alone.

    The difference must exceed three standard uncertainties. They hold the dates of the edges, and half the
    difference between the two quiet stretches for a power that changes meanwhile.

    Returns:
        The share of the energy that reading often costs; 0 where it is not significant.
    """
    edge = next_edge(counter, counter.clock.now_s())
    powers_w, variances = [], []
    for often in (False, True, False):
        before, edge = edge, _last_edge_of_stretch(counter, often)
        if before is None or edge is None:
            return 1.0 if often and before is not None else 0.0
        power_w, error_w = mean_power(before, edge)
        powers_w.append(power_w)
        variances.append(error_w**2)
    quiet_w = (powers_w[0] + powers_w[2]) / 2.0
    drift_w = abs(powers_w[0] - powers_w[2]) / 2.0
    uncertainty_w = math.sqrt((variances[0] + variances[2]) / 4.0 + variances[1] + drift_w**2)
    lost_w = quiet_w - powers_w[1]
    return lost_w / quiet_w if lost_w > max(3.0 * uncertainty_w, _TOLERATED_LOSS * quiet_w) else 0.0


def _last_edge_of_stretch(counter: Counter, often: bool) -> Edge | None:
    clock = counter.clock
    end_s = clock.now_s() + max(_STRETCH_PERIODS * counter.period_s, _STRETCH_LEAST_S) - counter.period_s / 2.0
    while often and clock.now_s() < end_s:
        clock.sleep(_OFTEN_S)
        counter.read()
    return next_edge(counter, end_s)
