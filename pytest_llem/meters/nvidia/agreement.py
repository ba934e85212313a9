"""Two sensors of one board, compared with each other: its energy counter and its samples of power.

After a window the driver still has the samples of its last seconds. Their integral and the counter's energy are of the
same window, so they must agree; where they do not, one of the two is wrong and which is not known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from pytest_llem.meters.base import PowerCurve
from pytest_llem.meters.nvidia.samples import integrate, unbroken
from pytest_llem.meters.nvidia.window_energy import LAG_S, WindowEnergy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.meters.nvidia.idle_power import Idle
    from pytest_llem.meters.nvidia.samples import PowerSample
    from pytest_llem.meters.nvidia.settling import Settling

# Samples every 20 ms date a step of power within 1.5 ms (standard deviation, through a lag of 12 ms) where none is late
# or lost; on an H200 whose host was slowed, beside its counter, within 2.8 ms.
_STEP_PERIODS = 0.14
# What counter and samples may differ by on a sound board: three times 5 ms of the step, 1 J, and their gains. On an
# H200 they differed by 0.6 +- 2.5 J in windows of 0.06 to 6 s, and by 0.23% at most in those of 5 s.
_ALARM_S = 3.0 * 0.005
_ALARM_J = 1.0
_GAIN = 0.005
_LOST_SHARE = 0.35
_SINGLE_GAPS = 0.3
_FEWEST_SAMPLES = 3
# Variance of a sum of samples whose noise has the correlation 0.85 with the next, beside independent ones.
_ALIKE = (1.0 + 0.85) / (1.0 - 0.85)
_COVERAGE_FACTOR = 2.0
_IDLE_TOLERANCE = 0.1
_CURVE_FROM_S = 0.1

DISAGREEMENTS = 3
"""This many windows in a row whose sensors disagree make a result invalid."""


@dataclass(frozen=True)
class SampledEnergy:
    """What the samples say of a window.

    Attributes:
        energy: of the part that they cover.
        step_w: power of the work above idle, in watts.
        from_s: where that part begins, in seconds; the start of the window unless it is longer than they are kept.
    """

    energy: WindowEnergy
    step_w: float
    from_s: float


def sampled_energy(
    samples: Sequence[PowerSample], start_s: float, end_s: float, idle: Idle, settled: Settling, at_s: float
) -> SampledEnergy | None:
    """The energy of a window from idle to idle, by samples alone; ``None`` where too many are missing.

    A delay of the samples cancels, because they are integrated until the board has settled.

    Args:
        samples: oldest first, from before the start to ``at_s``.
        start_s, end_s: when the work started and had ended, in seconds.
        idle: power before it.
        settled: power after it, at ``at_s``.
        at_s: until when the samples reach, in seconds.
    """
    samples = unbroken(samples)
    if len(samples) < _FEWEST_SAMPLES:
        return None
    from_s = max(start_s, samples[0].time_s)
    inside = [sample for sample in samples if from_s <= sample.time_s <= at_s]
    gaps_s = [b.time_s - a.time_s for a, b in pairwise(samples)]
    # Where many are lost, the usual gap is longer; where they are late, one in five is half as long.
    period_s = sorted(gaps_s)[int(_SINGLE_GAPS * len(gaps_s))]
    if (
        from_s >= end_s
        or period_s <= 0
        or len(inside) < (1.0 - _LOST_SHARE) * (at_s - from_s) / period_s - 1.0
        or len(inside) < 2
    ):
        return None
    joules = integrate(samples, from_s, at_s) - settled.surplus_j
    left_w = 0.0
    if from_s == start_s:
        # What the sensor still shows of work before the window does not belong to it.
        before = [sample for sample in samples if sample.time_s <= start_s]
        left_w = max(before[-1].power_w - idle.power_w, 0.0) if before else 0.0
        joules -= LAG_S * left_w
    step_w = max(max(sample.power_w for sample in inside) - idle.power_w, 0.0)
    error_j = math.hypot(
        math.sqrt(2.0) * _STEP_PERIODS * period_s * step_w,
        idle.noise_w * math.sqrt((at_s - from_s) * period_s * _ALIKE),
        settled.tau_s * left_w,
        settled.error_j,
    )
    return SampledEnergy(WindowEnergy(joules, _COVERAGE_FACTOR * error_j), step_w, from_s)


def disagreement(
    counted: WindowEnergy, sampled: SampledEnergy, start_s: float, end_s: float, idle: Idle, limit_w: float | None
) -> str | None:
    """How the two sensors contradict each other, as a message; ``None`` where they agree.

    Of a window longer than samples are kept, the rest is what the counter has more: its mean power must lie between
    idle power and the board's limit.
    """
    joules = sampled.energy.joules
    alarm_j = _ALARM_S * sampled.step_w + _ALARM_J + _GAIN * counted.joules
    allowed_j = math.hypot(counted.uncertainty_j, sampled.energy.uncertainty_j, alarm_j)
    said = f"its energy counter says {counted.joules:.4g} J and its power samples say {joules:.4g} J"
    rest_s, rest_j = sampled.from_s - start_s, counted.joules - joules
    if rest_s <= 0.0:
        return None if abs(rest_j) <= allowed_j else f"{said}; they may differ by {allowed_j:.2g} J"
    least_j = (1.0 - _IDLE_TOLERANCE) * idle.power_w * rest_s - allowed_j
    most_j = math.inf if limit_w is None else (1.0 + _IDLE_TOLERANCE) * limit_w * rest_s + allowed_j
    if least_j <= rest_j <= most_j:
        return None
    return (
        f"{said} for the last {end_s - sampled.from_s:.3g} s, which leaves {rest_j / rest_s:.4g} W for the "
        f"{rest_s:.3g} s before"
    )


def power_curve(samples: Sequence[PowerSample], start_s: float, at_s: float) -> PowerCurve | None:
    """The samples from a moment before a window's start to ``at_s``."""
    about = [sample for sample in unbroken(samples) if start_s - _CURVE_FROM_S <= sample.time_s <= at_s]
    if not about:
        return None
    times_s, powers_w = [sample.time_s - start_s for sample in about], [sample.power_w for sample in about]
    return PowerCurve(times_s, powers_w, partial=times_s[0] > 0)
