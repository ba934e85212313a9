"""Idle power of a board before the work, estimated from samples of its power."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_llem.meters.idle import BlockPower

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.meters.nvidia.samples import PowerSample

FLAT_W, FLAT_SHARE = 4.0, 0.03
"""Samples of a board at rest lie that close to each other: watts, or a share of them."""

IDLE_RISE_W = 1.5
"""By how much idle power is higher after work than before it: 1 to 4 W on two H200, if not another clock altogether."""

_FLAT_STRETCH_S = 0.3
_FEWEST_FLAT = 3
_NOISE_LEAST_W, _NOISE_MOST_W = 0.5, 4.0
_CORRELATION = 0.85  # of the noise of a power sample with that of the next (two H200)


@dataclass(frozen=True)
class Idle:
    """Power of a board at rest before the work.

    Attributes:
        power_w: in watts.
        error_w: standard uncertainty of its mean over a short stretch, in watts.
        noise_w: standard deviation of single samples, in watts.
        rise_w: by how much it is expected to be higher after work.
        whole: whether the board was seen at rest for as long as one looks back.
    """

    power_w: float
    error_w: float
    noise_w: float
    rise_w: float = IDLE_RISE_W
    whole: bool = False


def idle_from_samples(samples: Sequence[PowerSample], start_s: float) -> Idle | None:
    """Idle power before an instant: the mean of the flat stretch of samples that ends there.

    ``None`` where there are fewer than three samples of it: the power was still changing.
    """
    flat: list[float] = []
    whole = False
    for sample in reversed(samples):
        if sample.time_s > start_s:
            continue
        whole = sample.time_s < start_s - _FLAT_STRETCH_S
        if whole or (flat and not is_flat(sample.power_w, flat[0])):
            break
        flat.append(sample.power_w)
    if len(flat) < _FEWEST_FLAT:
        return None
    mean, noise_w = _mean_and_noise(flat)
    return Idle(mean.power_w, mean.uncertainty_w, noise_w, whole=whole)


def mean_of_samples(powers_w: Sequence[float]) -> BlockPower:
    """The mean of at least three neighbouring samples of a board at rest, in watts."""
    return _mean_and_noise(powers_w)[0]


def _mean_and_noise(powers_w: Sequence[float]) -> tuple[BlockPower, float]:
    # Noise of neighbouring samples is so alike that a stretch shows too little of it, and that its mean is hardly
    # better than one of them.
    alike = _mean_correlation(len(powers_w))
    noise_w = min(max(statistics.stdev(powers_w) / math.sqrt(1.0 - alike), _NOISE_LEAST_W), _NOISE_MOST_W)
    return BlockPower(statistics.fmean(powers_w), math.sqrt(alike) * noise_w), noise_w


def _mean_correlation(count: int) -> float:
    """Mean correlation of the pairs among so many neighbouring samples."""
    pairs = [(count - lag) * _CORRELATION**lag for lag in range(1, count)]
    return 2.0 * math.fsum(pairs) / (count * (count - 1))


def unknown_idle(samples: Sequence[PowerSample]) -> Idle:
    """Of a board that was never seen at rest: not above the lowest that it was seen at."""
    lowest_w = min((sample.power_w for sample in samples), default=0.0)
    return Idle(0.8 * lowest_w, 0.2 * lowest_w, _NOISE_MOST_W)


def is_flat(power_w: float, reference_w: float) -> bool:
    """Whether a board at rest may show both powers."""
    return abs(power_w - reference_w) <= max(FLAT_W, FLAT_SHARE * reference_w)
