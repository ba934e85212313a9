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
    from pytest_llem.meters.nvidia.power_trace import PowerTrace, Span

_COVERAGE_FACTOR = 2.0
_GAIN_SD = 0.002  # of the samples beside the counter: 0.23% at most on two H200
_TAU_SD_S = 0.0012  # of the lag, and of the dates of samples
_PHASE_SD_S = 0.0005  # of the lattice, beside the samples
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
    tau_s: float,
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
        tau_s: lag of the sensor, in seconds.
        drift_s: by how much the lattice may have drifted, standard uncertainty in seconds.
        resolution_j: step of the counter, in joules.
    """
    at_edges = [trace.at(edge.time_s) for edge in edges]
    instants_s = [instant_s for span in spans for instant_s in span][1:-1]
    at_ends = [trace.at(instant_s) for instant_s in instants_s]
    sensed_w = np.array([drawn.sensed_w for drawn in at_edges])
    shown_j = np.array([drawn.energy_j for drawn in at_edges]) - tau_s * sensed_w
    gap_j = np.array([edge.energy_j for edge in edges]) - shown_j
    offset_j = gap_j[0]
    energy_j = np.array([drawn.energy_j for drawn in at_ends])

    def kernel(a_j: np.ndarray, a_j2: np.ndarray, b_j: np.ndarray, b_j2: np.ndarray) -> np.ndarray:
        shared: np.ndarray = np.minimum(a_j2[:, None], b_j2[None, :])
        return shared + _OFFSET_SD_J**2 + _GAIN_SD**2 * np.outer(a_j, b_j)

    walk_j2 = np.array([drawn.variance_j2 for drawn in at_edges])
    ends_j2 = np.array([drawn.variance_j2 for drawn in at_ends])
    own_j2 = (sensed_w * [edge.uncertainty_s for edge in edges]) ** 2 + resolution_j**2 / 6.0 + 1e-6
    phase_s2 = _PHASE_SD_S**2 + drift_s**2
    known = kernel(shown_j, walk_j2, shown_j, walk_j2) + phase_s2 * np.outer(sensed_w, sensed_w)
    y = gap_j - offset_j
    own_j2 = _without_outliers(known, own_j2, y)
    solved = np.linalg.inv(known + np.diag(own_j2))
    cross = kernel(energy_j, ends_j2, shown_j, walk_j2)
    mean_j = energy_j + offset_j + cross @ solved @ y - tau_s * idle_w
    above_w = np.array([drawn.sensed_w for drawn in at_ends]) - idle_w
    covariance = kernel(energy_j, ends_j2, energy_j, ends_j2) - cross @ solved @ cross.T
    covariance += _TAU_SD_S**2 * np.outer(above_w, above_w)
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
    gaps_j = math.fsum(math.sqrt(ends_j2[k + 1] - ends_j2[k]) for k in range(0, len(ends_j2), 2))
    error_j = math.sqrt(start.error_j**2 + end.error_j**2 + gaps_j**2)
    total_j = math.fsum(window.joules for window in windows)
    return JoinedEnergies(windows, WindowEnergy(total_j, _COVERAGE_FACTOR * error_j))


def _without_outliers(known: np.ndarray, own_j2: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The variances of the edges, wider by their deviation for those that the others contradict.

    What the others say of an edge, and how well, is in the inverse: Rasmussen and Williams, eq. 5.12.
    """
    own_j2 = own_j2.copy()
    for _ in range(len(y) // 5 + 1):
        inverse = np.linalg.inv(known + np.diag(own_j2))
        off_j = (inverse @ y) / np.diag(inverse)
        scores = np.abs(off_j) * np.sqrt(np.diag(inverse))
        worst = int(np.argmax(scores))
        if scores[worst] <= _OUTLYING:
            break
        own_j2[worst] += off_j[worst] ** 2
    return own_j2
