"""How well windows know their mean, and when there are enough of them.

The mean energy of B windows with J_i joules and stated half-widths U_i has, with P = 95%::

    U^2 = (t_{B-1} s / sqrt(B))^2 + mean(U_i^2) + U_drift^2

What the meter states is not divided by B unless it says that its errors average out: idle power and the way a board
settles are misjudged alike in every window. Windows that are joined have one statement for all of them in its place. A
drift through the rounds leaves the mean unknown by its own rectangular half-width (JCGM 100:2008, 4.3.7, 5.1 and G.3).

Where the number of rounds is decided by looking at this very interval, again and again, it is narrower than it says:
looking stops when the windows happen to be alike. With the quantile of 95% such an interval holds the truth in 90% only
where the precision is reached after ten rounds or so; with that of 97.5% in 94.8 to 97.6%, whatever the noise
(simulated; see docs/measurement.md). So that quantile is used for the looks and for the interval.
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

from pytest_llem.distributions import t_quantile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.meters.base import Window

FEWEST_ROUNDS = 3
"""Where the rounds decide how many they are, there are so many at least."""

# Probability below the upper end of an interval: of a number of rounds that was fixed, and of one that was not.
_FIXED, _SEQUENTIAL = 0.975, 0.9875
# With fewer windows a drift is hardly distinguished from chance.
_LEAST_FOR_DRIFT = 4
# Half-width of the 95% interval of a rectangular distribution of full width 1.
_RECTANGULAR_95 = 0.475


def mean_energy(
    windows: Sequence[Window], total: Window | None = None, *, sequential: bool = False
) -> tuple[float | None, float | None]:
    """Mean energy of the windows and the half-width of its 95% interval, in joules; ``None`` where unknown.

    Args:
        total: all of them together, where they were joined.
        sequential: whether their number was decided while they ran.
    """
    return _mean([window.joules for window in windows], _reading_j(windows, total), sequential)


def mean_with_host(
    windows: Sequence[Window], total: Window | None = None, *, sequential: bool = False
) -> tuple[tuple[float | None, float | None], tuple[float | None, float | None]]:
    """The same of the host, and of boards and host together: their spread is that of the windows' own sums.

    What a sensor of the host states does not average out. It is independent of what the boards' meter states.

    Args:
        total, sequential: see :func:`mean_energy`.
    """
    boards_j = _reading_j(windows, total)
    own_j = _root_mean_square([None if window.host is None else window.host.uncertainty_j for window in windows])
    both_j = None if boards_j is None or own_j is None else math.hypot(boards_j, own_j)
    of_machine = any(window.host is not None and window.host.covers == "machine" for window in windows)
    host_j, total_j = (both_j, own_j) if of_machine else (own_j, both_j)
    return (
        _mean([window.host_joules for window in windows], host_j, sequential),
        _mean([window.total_joules for window in windows], total_j, sequential),
    )


def _reading_j(windows: Sequence[Window], total: Window | None) -> float | None:
    """Half-width of the mean that comes from what the meter states of its windows; ``None`` where it does not."""
    stated_j = _root_mean_square([window.uncertainty_j for window in windows])
    if stated_j is None:
        return None
    if total is not None and total.uncertainty_j is not None:
        return total.uncertainty_j / len(windows)
    averages_out = all(window.errors_average_out for window in windows)
    return stated_j / math.sqrt(len(windows)) if averages_out else stated_j


def _root_mean_square(half_widths: Sequence[float | None]) -> float | None:
    known = [half_width for half_width in half_widths if half_width is not None]
    return math.sqrt(statistics.fmean(known_j**2 for known_j in known)) if len(known) == len(half_widths) else None


def _mean(
    values: Sequence[float | None], reading_j: float | None, sequential: bool
) -> tuple[float | None, float | None]:
    joules = [value for value in values if value is not None]
    if len(joules) < len(values):
        return None, None
    mean_j, count = statistics.fmean(joules), len(joules)
    if reading_j is None or count == 1:
        return mean_j, reading_j
    drift_j = abs(drift(joules) or 0.0) * mean_j * _RECTANGULAR_95
    return mean_j, math.hypot(_between(joules, sequential), reading_j, drift_j)


def relative_half_width(windows: Sequence[Window], total: Window | None = None) -> float | None:
    """What the rounds of an undecided number have reached: of the energy, or of the time where no energy is known.

    ``None`` for fewer than two windows.

    Args:
        total: all of them together, where they were joined and have settled.
    """
    # Of joined windows, the energy of a few may be known only when all have ended: until then the others tell.
    windows = [window for window in windows if window.joules is not None or not window.joined] or windows
    if len(windows) < 2:
        return None
    mean, half_width = mean_energy(windows, total, sequential=True)
    if mean is None or half_width is None:
        seconds = [window.seconds for window in windows]
        mean, half_width = statistics.fmean(seconds), _between(seconds, sequential=True)
    return half_width / mean if mean > 0 else None


def drift(values: Sequence[float]) -> float | None:
    """The change from the first to the last value of a straight line through them, as a fraction of their mean.

    ``None`` where it is not significant: the slope's t statistic has to exceed its 99.9% quantile.
    """
    count = len(values)
    mean = statistics.fmean(values)
    if count < _LEAST_FOR_DRIFT or mean == 0:
        return None
    positions = [number - (count - 1) / 2 for number in range(count)]
    scatter = math.fsum(position**2 for position in positions)
    slope = math.fsum(position * value for position, value in zip(positions, values, strict=True)) / scatter
    residuals = [value - mean - slope * position for position, value in zip(positions, values, strict=True)]
    error = math.sqrt(math.fsum(residual**2 for residual in residuals) / (count - 2) / scatter)
    if abs(slope) <= t_quantile(0.9995, count - 2) * error:
        return None
    return slope * (count - 1) / mean


def _between(values: Sequence[float], sequential: bool) -> float:
    count = len(values)
    quantile = t_quantile(_SEQUENTIAL if sequential else _FIXED, count - 1)
    return quantile * statistics.stdev(values) / math.sqrt(count)
