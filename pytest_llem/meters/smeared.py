"""Energy from plain samples of power, each of which may show the power of a while before."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pytest_llem.meters.base import COVERAGE_FACTOR_95

if TYPE_CHECKING:
    from collections.abc import Sequence

_FEWEST_SAMPLES = 3


class SmearedEnergy(NamedTuple):
    """Energy between two instants and the half-width of its 95% interval, both in joules."""

    joules: float
    uncertainty_j: float


def integrate_smeared(
    times_s: Sequence[float], powers_w: Sequence[float], start_s: float, end_s: float, memory_s: float
) -> SmearedEnergy | None:
    """Energy between two instants from samples of power.

    Each sample stands for the stretch since the one before it; the time before the first and after the last is
    taken at the power of the nearest. The variance adds what is not known of the ends, P m / sqrt(6) for a
    sensor that shows a power m seconds too late or smeared by as much (each end off by up to m, uniformly), and
    what may have been drawn between samples: their standard deviation times the root of the sum of squared
    stretches.

    Args:
        times_s: when the samples were taken, in seconds, oldest first.
        powers_w: what they show, in watts; as many.
        start_s: in seconds, on the clock of the samples.
        end_s: in seconds.
        memory_s: how long an earlier power is still seen in a sample, in seconds.

    Returns:
        ``None`` for fewer than three samples inside.
    """
    inside = [power_w for time_s, power_w in zip(times_s, powers_w, strict=True) if start_s <= time_s <= end_s]
    if len(inside) < _FEWEST_SAMPLES:
        return None
    # Each sample's stretch begins at the one before it; the first and the last reach to the ends.
    bounds_s = np.array([-math.inf, *times_s[:-1], math.inf])
    stretches_s = np.diff(np.clip(bounds_s, start_s, end_s))
    joules = float(stretches_s @ np.array(powers_w))
    ends_j = joules / (end_s - start_s) * memory_s / math.sqrt(6.0)
    between_j = statistics.stdev(inside) * float(np.linalg.norm(stretches_s))
    return SmearedEnergy(joules, COVERAGE_FACTOR_95 * math.hypot(ends_j, between_j))
