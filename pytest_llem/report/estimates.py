"""Values with an uncertainty, and the ratio of two."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_llem.distributions import t_quantile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.measurement.result import ExperimentResult

_NORMAL_QUANTILE = statistics.NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Estimate:
    """A quantity per call.

    Attributes:
        value: in an SI unit.
        half_width: of its 95% interval; ``None`` where none is stated.
        degrees_of_freedom: of the half-width; ``inf`` for one that a meter states for a single window.
    """

    value: float
    half_width: float | None
    degrees_of_freedom: float

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The 95% interval."""
        return None if self.half_width is None else (self.value - self.half_width, self.value + self.half_width)


@dataclass(frozen=True)
class Ratio:
    """One quantity over another of its kind.

    Attributes:
        value: 1 for no difference.
        interval: the 95% interval; ``None`` where one of the two has none.
    """

    value: float
    interval: tuple[float, float] | None


def energy(result: ExperimentResult) -> Estimate | None:
    """Joules of a call, with the half-width that the result states; ``None`` when it was not measured."""
    if result.energy_j is None:
        return None
    df = result.rounds - 1 if result.rounds > 1 else math.inf
    return Estimate(result.energy_j, result.energy_uncertainty_j, df)


def latency(result: ExperimentResult) -> Estimate | None:
    """Seconds of a call. The half-width is that of the mean of the rounds: t(0.975, B - 1) s / sqrt(B)."""
    if result.latency_s is None:
        return None
    per_call_s = [window.seconds / result.calls_per_round for window in result.per_round]
    return Estimate(result.latency_s, mean_half_width(per_call_s), max(len(per_call_s) - 1, 1))


def time_per_output_token(result: ExperimentResult) -> Estimate | None:
    """Seconds between the further tokens of a sequence. They come from a few instrumented calls, which state no
    uncertainty: relative to it, they are taken to be as uncertain as the time of a single call. A round of n calls
    differs from others by s, so a call by s sqrt(n), if calls differ by chance alone: t(0.975, B - 1) s sqrt(n)."""
    if result.time_per_output_token_s is None:
        return None
    rounds_s = [window.seconds for window in result.per_round]
    mean_half_width_s = mean_half_width(rounds_s)
    half_width_s = None
    if mean_half_width_s is not None:
        relative = mean_half_width_s * math.sqrt(len(rounds_s) * result.calls_per_round) / statistics.fmean(rounds_s)
        half_width_s = relative * result.time_per_output_token_s
    return Estimate(result.time_per_output_token_s, half_width_s, max(len(rounds_s) - 1, 1))


def mean_half_width(values: Sequence[float]) -> float | None:
    """Half-width of the 95% interval of a mean; ``None`` for fewer than two values."""
    if len(values) < 2:
        return None
    return t_quantile(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


def ratio(numerator: Estimate | None, denominator: Estimate | None) -> Ratio | None:
    """The ratio of two independent quantities with its 95% interval, ``value * exp(+- t u)``.

    The relative standard uncertainty of a ratio is ``u^2 = (u_a / a)^2 + (u_b / b)^2`` (JCGM 100:2008, 5.1.6), which
    is the standard uncertainty of its logarithm; t has the effective degrees of freedom of Welch and Satterthwaite
    (ibid., G.4.1). It covers what the rounds of one process show, not what would change with another process.

    Returns:
        ``None`` when one of the two is unknown or not positive.
    """
    if numerator is None or denominator is None or numerator.value <= 0 or denominator.value <= 0:
        return None
    value = numerator.value / denominator.value
    if numerator.half_width is None or denominator.half_width is None:
        return Ratio(value, None)
    parts = [_relative(estimate) for estimate in (numerator, denominator)]
    uncertainty = math.hypot(*parts)
    if uncertainty == 0:
        return Ratio(value, (value, value))
    freedoms = (numerator.degrees_of_freedom, denominator.degrees_of_freedom)
    spent = math.fsum((u / uncertainty) ** 4 / df for u, df in zip(parts, freedoms, strict=True))
    factor = math.exp(min(_quantile(1 / spent if spent else math.inf) * uncertainty, 700.0))
    return Ratio(value, (value / factor, value * factor))


def surely_more(one: Estimate, other: Estimate) -> bool:
    """Whether a quantity is larger than another one by more than the uncertainty: the interval of their :func:`ratio`
    lies above 1. Without intervals that is not known."""
    if one.half_width is None or other.half_width is None or not one.value > other.value > 0:
        return False
    # No t is below the normal quantile. Each pair has degrees of freedom of its own, whose t takes long to find.
    if math.log(one.value / other.value) <= _NORMAL_QUANTILE * math.hypot(_relative(one), _relative(other)):
        return False
    found = ratio(one, other)
    return found is not None and found.interval is not None and found.interval[0] > 1


def _relative(estimate: Estimate) -> float:
    """The relative standard uncertainty; 0 where none is stated."""
    return (estimate.half_width or 0.0) / _quantile(estimate.degrees_of_freedom) / estimate.value


def _quantile(degrees_of_freedom: float) -> float:
    return _NORMAL_QUANTILE if math.isinf(degrees_of_freedom) else t_quantile(0.975, max(degrees_of_freedom, 1.0))
