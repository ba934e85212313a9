"""The energy of a window, from idle to idle.

The energy of a window is what its board drew above idle power because of the work, until that has settled, plus idle
power over the window's time. So it is what an energy counter gained from an edge e0 before the work to an edge e1 after
it, less what was drawn before and after the work (t0 to t1) at the idle power of either side::

    E = C(e1) - C(e0) - P_before (t0 - e0) - P_after (e1 - t1) + what is still to come after e1

Samples of power around the window show both idle powers, whether the board was at rest before the work, and how far it
had settled at e1 (``settling``). A lag of the sensor cancels, because both ends are idle; so does
a wrong phase of the counter's lattice, but for the difference of both idle powers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pytest_llem.meters.nvidia.idle_power import is_flat
from pytest_llem.meters.nvidia.samples import integrate, power_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.meters.nvidia.counter.counter import Edge
    from pytest_llem.meters.nvidia.idle_power import Idle
    from pytest_llem.meters.nvidia.samples import PowerSample
    from pytest_llem.meters.nvidia.settling import Settling

_COVERAGE_FACTOR = 2.0
_PLAIN_FACTOR = 2.2  # of plain reads, whose errors are few and bounded and may all have one sign

HELD_S = 0.03
"""A step of power so long before an edge is still seen at it, in seconds: three lags of the sensor."""

LAG_S = 0.012
"""Lag of the sensor, in seconds: 10 to 14 ms on two H200."""

# Power above idle at the end of the work, in units of its mean during the work: standard deviation about one.
_END_TO_MEAN_SD = 0.46
_SENSOR_DATE_S, _START_DATE_S = 0.006, 0.003  # how far samples may be shifted against the counter, and its lag be off


class WindowEnergy(NamedTuple):
    """Energy of a window.

    Attributes:
        joules: the energy, in joules.
        uncertainty_j: half-width of its 95% interval, in joules.
    """

    joules: float
    uncertainty_j: float


@dataclass(frozen=True)
class Head:
    """What the counter gained from an edge to the start of the work.

    Attributes:
        joules: in joules.
        error_j: its standard uncertainty, in joules.
        disturbed: whether the board was not at rest all the while.
    """

    joules: float
    error_j: float
    disturbed: bool


def head(edge_s: float, start_s: float, idle: Idle, samples: Sequence[PowerSample], tau_s: float = LAG_S) -> Head:
    """Energy that the counter shows between an edge and the start of the work.

    Idle power, where the samples say that the board was at rest. Where there was other work just before, which the
    meter did not see, their integral instead, plus what the sensor has yet to show of it at the start.

    Args:
        edge_s: the edge before the work, in seconds.
        start_s: when the work started, in seconds.
        idle: the power before it.
        samples: those before ``start_s``, oldest first; may be empty.
        tau_s: time constant by which this board was seen to settle, in seconds.
    """
    joules = idle.power_w * (start_s - edge_s)
    error_j = idle.error_w * abs(start_s - edge_s)
    before = [sample for sample in samples if sample.time_s <= start_s]
    about = [sample for sample in before if sample.time_s >= edge_s - max(HELD_S, 3.0 * tau_s)]
    if not about or all(is_flat(sample.power_w, about[-1].power_w) for sample in about):
        return Head(joules, error_j, disturbed=False)
    # The power that everything before has faded to is not seen yet: what is left is taken to fade at the known rate.
    at_edge_w, at_start_w = power_at(before, edge_s), before[-1].power_w
    rest_w = min(idle.power_w, at_start_w)
    left_w = (at_start_w - rest_w) * math.exp(-max(start_s - before[-1].time_s, 0.0) / tau_s)
    joules = integrate(before, edge_s, start_s) + LAG_S * left_w
    # Of a slower fall, a lag of the sensor would still show the rest after the start, a board would not draw it.
    open_s = max(tau_s - LAG_S, 0.0)
    joules += open_s * left_w / 2.0
    error_j = math.hypot(
        error_j,
        _SENSOR_DATE_S * abs(at_edge_w - idle.power_w),
        (_START_DATE_S + open_s / math.sqrt(12.0)) * left_w,
    )
    return Head(joules, error_j, disturbed=True)


def window_energy(
    before: Edge,
    after: Edge,
    start: Head,
    settled: Settling,
    idle: Idle,
    resolution_j: float = 0.0,
) -> WindowEnergy:
    """Energy of a window between two edges, with its 95% interval.

    Args:
        before: an edge before the work.
        after: an edge after it.
        start: what the counter gained from ``before`` to the start.
        settled: the board's power after the work, at ``after``.
        idle: its power before the work.
        resolution_j: step of the counter, in joules.
    """
    joules = after.energy_j - before.energy_j - start.joules - settled.surplus_j
    error_j = math.hypot(
        idle.power_w * before.uncertainty_s,
        (settled.idle_w + max(settled.excess_w, 0.0)) * after.uncertainty_s,
        start.error_j,
        settled.error_j,
        resolution_j / math.sqrt(6.0),
    )
    return WindowEnergy(joules, _COVERAGE_FACTOR * error_j)


def interpolated_energy(
    before: Edge, start_s: float, end_s: float, after: Edge, idle_power_w: float, idle_uncertainty_w: float
) -> WindowEnergy | None:
    """Energy of a window from two plain reads, for where waiting is not wanted.

    Both reads show an update that lies before them (:meth:`~pytest_llem.meters.nvidia.counter.counter.Counter.glance`):
    what the board used before the start is taken at idle power, what it used after the last update at the
    window's mean power. An update of unknown phase has the standard uncertainty T / sqrt(12); at the end that
    costs the power times as much.

    Args:
        before: the update that the counter showed at the start.
        start_s: when the work started, in seconds.
        end_s: when it had ended, in seconds.
        after: the update that the counter showed at the end.
        idle_power_w: power before the start, in watts.
        idle_uncertainty_w: its standard uncertainty, in watts.

    Returns:
        The energy and the half-width of its 95% interval, in joules; ``None`` when no update of the counter
        is known to lie inside the window: it is below the counter's resolution.
    """
    seen_s = after.time_s - start_s
    if after.energy_j <= before.energy_j or seen_s <= after.uncertainty_s:
        return None
    head_s = max(start_s - before.time_s, 0.0)
    seen_j = after.energy_j - before.energy_j - idle_power_w * head_s
    mean_w = seen_j / seen_s
    missing_s = max(end_s - after.time_s, 0.0)
    excess_w = max(mean_w - idle_power_w, 0.0)
    # What a sensor that lags has not shown yet of the work; whether this one does is not known.
    late_j = excess_w * LAG_S
    variance = (
        # A later update means that less is missing, and that the mean power was lower.
        (mean_w * (1.0 + missing_s / seen_s) * after.uncertainty_s) ** 2
        + (idle_power_w * before.uncertainty_s) ** 2
        + (idle_uncertainty_w * head_s) ** 2
        + (_END_TO_MEAN_SD * excess_w * missing_s) ** 2
        + late_j**2
    )
    return WindowEnergy(seen_j + mean_w * missing_s + late_j, _PLAIN_FACTOR * math.sqrt(variance))
