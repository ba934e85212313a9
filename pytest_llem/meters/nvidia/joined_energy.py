"""Energies of windows that were measured back to back, from a board's counter and the samples of its power.

Up to any instant t the board has drawn::

    E(t) = C_k + integral of what the sensor shows from e_k to t + tau q(t)

with C_k the counter since its edge e_k, q what the sensor shows and tau its lag. The integral is that of the samples
(:mod:`pytest_llem.meters.nvidia.power_trace`), which drifts slowly from the counter, and each edge is off by some
0.7 ms, a few by 10 ms. So the difference of counter and samples is taken for a Gaussian process, a random walk as wide
as the integral's errors plus a gain, that the edges show with errors of their own: the energy at the ends of all
windows, with their covariance, is its regression (Rasmussen and Williams, Gaussian Processes for Machine Learning,
eqs. 2.22 to 2.24). An edge that is too far from what the others say is a late update, and counts as little as that.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pytest_llem.meters.nvidia.window_energy import WindowEnergy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.meters.nvidia.counter.counter import Edge
    from pytest_llem.meters.nvidia.power_trace import Drawn, PowerTrace
    from pytest_llem.meters.nvidia.sensor_lag import Lag, Span

_COVERAGE_FACTOR = 2.0
_GAIN_SD = 0.002  # of the samples beside the counter: 0.23% at most on two H200
_PHASE_SD_S = 0.02  # of the counter beside the samples: boards may show it late
_OUTLYING = 3.5  # standard deviations
_OFFSET_SD_J = 1e3


class Anchor(NamedTuple):
    """Energy at the settled start or end of the stretch, in joules of the counter, and its standard uncertainty."""

    energy_j: float
    error_j: float


class JoinedEnergies(NamedTuple):
    """Energies of a board's windows.

    Attributes:
        windows: in their order.
        total: their sum.
    """

    windows: list[WindowEnergy]
    total: WindowEnergy


def joined_energies(
    spans: Sequence[Span],
    edges: Sequence[Edge],
    trace: PowerTrace,
    start: Anchor,
    end: Anchor,
    idle_w: float,
    lag: Lag,
    drift_s: float = 0.0,
    resolution_j: float = 0.0,
) -> JoinedEnergies:
    """Energies of the windows of a stretch.

    Args:
        spans: the windows, in their order.
        edges: of the counter, oldest first: the one before the stretch, those seen between windows, those after it.
        trace: the power of the stretch.
        start: what the counter had shown at the start of the first window, of a board at rest.
        end: the same when all that the last window caused has settled, less idle power since its end.
        idle_w: power while nothing runs, in watts.
        lag: of the sensor.
        drift_s: by how much the lattice may have drifted, standard uncertainty in seconds.
        resolution_j: step of the counter, in joules.
    """
    at_edges = [trace.at(edge.time_s) for edge in edges]
    instants_s = [instant_s for span in spans for instant_s in span][1:-1]
    at_ends = [trace.at(instant_s) for instant_s in instants_s]
    edge, target = _Points(at_edges), _Points(at_ends)
    sensed_w = edge.sensed_w
    gap_j = np.array([seen.energy_j for seen in edges]) - edge.energy_j + lag.seconds * sensed_w
    # What is drawn between two parts, of which there are no samples, is known by their edges alone.
    offsets_j = {part: gap_j[np.flatnonzero(edge.part == part)[0]] for part in set(edge.part.tolist())}
    offset_j = np.array([offsets_j[part] for part in edge.part])
    assumed_j = np.array([offsets_j.get(part, gap_j[0]) for part in target.part])

    own_j2 = (sensed_w * [seen.uncertainty_s for seen in edges]) ** 2 + resolution_j**2 / 6.0 + 1e-6
    phase_s2 = _PHASE_SD_S**2 + drift_s**2
    known = _kernel(edge, edge) + phase_s2 * np.outer(sensed_w - idle_w, sensed_w - idle_w)
    y = gap_j - offset_j
    own_j2, misfit = _without_outliers(known, own_j2, y)
    solved = np.linalg.inv(known + np.diag(own_j2))
    cross = _kernel(target, edge)
    mean_j = target.energy_j + assumed_j + cross @ solved @ y - lag.seconds * idle_w
    above_w = target.sensed_w - idle_w
    covariance = _kernel(target, target) - cross @ solved @ cross.T
    # More scatter than all this explains widens it: the factor of Birge, as in the CODATA adjustments.
    covariance *= misfit
    covariance += lag.error_s**2 * np.outer(above_w, above_w)
    # The outer ends are the settled ones.
    all_j = np.concatenate(([start.energy_j], mean_j, [end.energy_j]))
    whole = np.zeros((len(all_j), len(all_j)))
    whole[1:-1, 1:-1] = covariance
    whole[0, 0], whole[-1, -1] = start.error_j**2, end.error_j**2
    windows = []
    for first in range(0, len(all_j), 2):
        variance = whole[first, first] + whole[first + 1, first + 1] - 2.0 * whole[first, first + 1]
        half_width_j = _COVERAGE_FACTOR * math.sqrt(max(float(variance), 0.0))
        windows.append(WindowEnergy(float(all_j[first + 1] - all_j[first]), half_width_j))
    # A gap's own error is common to all: the power that is left in it.
    gaps_j = math.fsum(
        _gap_error_j(at_ends[k], at_ends[k + 1], covariance[k : k + 2, k : k + 2]) for k in range(0, len(at_ends), 2)
    )
    error_j = math.sqrt(start.error_j**2 + end.error_j**2 + gaps_j**2)
    total_j = math.fsum(window.joules for window in windows)
    return JoinedEnergies(windows, WindowEnergy(total_j, _COVERAGE_FACTOR * error_j))


def _gap_error_j(from_: Drawn, to: Drawn, covariance: np.ndarray) -> float:
    """Standard uncertainty of what is drawn in a gap, in joules: neither edges nor lag matter in one without a hole."""
    variance = to.variance_j2 - from_.variance_j2
    if to.part != from_.part:
        variance = float(covariance[0, 0] + covariance[1, 1] - 2.0 * covariance[0, 1])
    return math.sqrt(max(variance, 0.0))


class _Points:
    """States of the trace at several instants."""

    def __init__(self, drawn: Sequence[Drawn]) -> None:
        self.energy_j = np.array([state.energy_j for state in drawn])
        self.sensed_w = np.array([state.sensed_w for state in drawn])
        self.variance_j2 = np.array([state.variance_j2 for state in drawn])
        self.part = np.array([state.part for state in drawn], dtype=int)


def _kernel(a: _Points, b: _Points) -> np.ndarray:
    """Covariance of the difference of counter and samples, of which nothing is known across a hole in the samples."""
    walk = np.minimum(a.variance_j2[:, None], b.variance_j2[None, :])
    together = a.part[:, None] == b.part[None, :]
    found: np.ndarray = together * (walk + _OFFSET_SD_J**2 + _GAIN_SD**2 * np.outer(a.energy_j, b.energy_j))
    return found


def _without_outliers(known: np.ndarray, own_j2: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """The variances of the edges, wider by their deviation for those that the others contradict.

    What the others say of an edge, and how well, is in the inverse: Rasmussen and Williams, eq. 5.12.

    Returns:
        The variances; and the mean square of the normalised deviations that are left, at least 1.
    """
    own_j2 = own_j2.copy()
    for left in range(len(y) // 5 + 1, -1, -1):
        inverse = np.linalg.inv(known + np.diag(own_j2))
        off_j = (inverse @ y) / np.diag(inverse)
        scores = np.abs(off_j) * np.sqrt(np.diag(inverse))
        worst = int(np.argmax(scores))
        if scores[worst] <= _OUTLYING or not left:
            break
        own_j2[worst] += off_j[worst] ** 2
    return own_j2, max(float(np.mean(scores**2)), 1.0)
