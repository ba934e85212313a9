"""Student's t and its relatives, and a truncated normal distribution, in the standard library: a verdict must not cost
an import of scipy."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@lru_cache(maxsize=1024)
def t_quantile(probability: float, degrees_of_freedom: float) -> float:
    """The value that a Student t variable stays below with this probability.

    Newton's method, kept inside a bracket, on the tail area ``I_x(df/2, 1/2) / 2`` with ``x = df / (df +
    t^2)`` (NIST DLMF 8.17). The relative error is below 1e-8 for tails down to 1e-9 and any real
    ``degrees_of_freedom >= 1``.

    Raises:
        ValueError: the probability is not inside (0, 1), or there is less than one degree of freedom.
    """
    df = degrees_of_freedom
    if not 0 < probability < 1 or not df >= 1:
        raise ValueError(f"no t quantile for probability {probability!r} and {df!r} degrees of freedom")
    if probability < 0.5:
        return -t_quantile(1 - probability, df)
    if probability == 0.5:
        return 0.0
    tail = 1 - probability
    low, high = 0.0, 1.0
    while _t_tail(high, df) > tail:
        low, high = high, 2 * high
    log_scale = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)
    t = (low + high) / 2
    for _ in range(100):
        excess = _t_tail(t, df) - tail
        low, high = (t, high) if excess > 0 else (low, t)
        density = math.exp(log_scale - (df + 1) / 2 * math.log1p(t * t / df))
        step = excess / density
        following = t + step if low < t + step < high else (low + high) / 2
        if abs(following - t) <= 1e-13 * following:
            return following
        t = following
    return t


def _t_tail(t: float, df: float) -> float:
    """Probability that a Student t variable exceeds ``t >= 0``."""
    return _incomplete_beta(df / 2, 0.5, df / (df + t * t)) / 2


def f_tail(ratio: float, numerator_df: float, denominator_df: float) -> float:
    """Probability that the ratio of two sample variances of one true variance exceeds ``ratio >= 0`` (NIST DLMF 8.17;
    Fisher's F)."""
    share = denominator_df / (denominator_df + numerator_df * ratio)
    return _incomplete_beta(denominator_df / 2, numerator_df / 2, share)


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularized incomplete beta function, by the continued fraction DLMF 8.17.22 (modified Lentz)."""
    if x <= 0 or x >= 1:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast only below this point
        return 1 - _incomplete_beta(b, a, 1 - x)
    tiny = 1e-300
    fraction, c, d = 1.0, 1.0, 0.0
    for term in range(10_000):
        m = term // 2
        if term == 0:
            numerator = 1.0
        elif term % 2 == 0:
            numerator = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            numerator = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / ((1 + numerator * d) or tiny)
        c = (1 + numerator / c) or tiny
        fraction *= c * d
        if term and abs(c * d - 1) < 1e-15:
            break
    log_front = a * math.log(x) + b * math.log1p(-x) - _log_beta(a, b) - math.log(a)
    return math.exp(log_front) * (fraction - 1)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


@lru_cache(maxsize=1024)
def repeated_looks_quantile(
    probability: float, degrees_of_freedom: float, saved: float, looks: tuple[int, ...]
) -> float:
    """The threshold that t statistics at several looks all stay below with this probability.

    At each look the mean of the new runs so far is compared with the same mean of ``saved`` runs, over the
    same estimated spread. The statistics are then those of a group sequential design with information ``1 /
    (1/saved + 1/n)`` after ``n`` new runs (Jennison and Turnbull, Group Sequential Methods, 2000, chapters 3
    and 4), and the threshold is Pocock's: the same at every look. Given the last look but one, the looks
    before and after it are independent, which leaves one integral over that look and one over the estimated
    spread.

    Args:
        probability: of no crossing at any look, above 0.5 and at most 0.999, where the quadrature is still
            good to 0.2%.
        degrees_of_freedom: of the estimated spread.
        saved: number of saved runs.
        looks: number of new runs at each look, increasing; one to three looks.

    Raises:
        ValueError: the looks are not one to three increasing counts, or the probability is out of range.
    """
    if not 0.5 < probability <= 0.999:
        raise ValueError(f"no threshold for probability {probability!r}")
    if not 1 <= len(looks) <= 3 or sorted(set(looks)) != list(looks) or looks[0] < 1:
        raise ValueError(f"one to three looks at increasing numbers of runs, not {looks!r}")
    alone = t_quantile(probability, degrees_of_freedom)
    if len(looks) == 1:
        return alone
    information = [1 / (1 / saved + 1 / n) for n in looks]
    correlations = [math.sqrt(a / b) for a, b in pairwise(information)]
    bonferroni = t_quantile(1 - (1 - probability) / len(looks), degrees_of_freedom)

    def shortfall(threshold: float) -> float:
        return probability - _no_crossing(threshold, degrees_of_freedom, correlations)

    # The secant method: the answer lies between one look's threshold and Bonferroni's, a short and smooth
    # stretch.
    low, high = alone, bonferroni
    shortfall_low, shortfall_high = shortfall(low), shortfall(high)
    for _ in range(8):
        low, high = high, high - shortfall_high * (high - low) / (shortfall_high - shortfall_low)
        shortfall_low, shortfall_high = shortfall_high, shortfall(high)
        if abs(high - low) < 1e-7:
            break
    return high


def _no_crossing(threshold: float, df: float, correlations: Sequence[float]) -> float:
    """Probability that no look crosses ``threshold``; ``correlations`` are those of neighbouring looks."""
    # The estimated spread over the true one is a chi variable over sqrt(df); its density is normalised
    # numerically.
    centre, reach = math.sqrt((df - 1) / df), 8 / math.sqrt(2 * df)
    lowest = max(0.0, centre - reach)
    total = weight_sum = 0.0
    for node, weight in _gauss_legendre(32):
        spread = lowest + (centre + reach - lowest) * node
        density = weight * math.exp((df - 1) * math.log(spread) - df * (spread * spread - 1) / 2)
        weight_sum += density
        bound = threshold * spread
        inner = 0.0
        highest = min(bound, 8.0)
        for inner_node, inner_weight in _gauss_legendre(32):
            z = -8 + (highest + 8) * inner_node
            value = inner_weight * math.exp(-z * z / 2)
            for correlation in correlations:
                rest = math.sqrt(2 * (1 - correlation * correlation))
                value *= math.erfc((correlation * z - bound) / rest) / 2
            inner += value
        total += density * inner * (highest + 8) / math.sqrt(2 * math.pi)
    return total / weight_sum


@lru_cache(maxsize=4)
def _gauss_legendre(order: int) -> tuple[tuple[float, float], ...]:
    """Nodes and weights on (0, 1), by Newton's method on the Legendre polynomial (DLMF 3.5.v)."""
    pairs = []
    for i in range(order):
        x = math.cos(math.pi * (i + 0.75) / (order + 0.5))
        for _ in range(100):
            previous, value = 1.0, x
            for k in range(2, order + 1):
                previous, value = value, ((2 * k - 1) * x * value - (k - 1) * previous) / k
            slope = order * (x * value - previous) / (x * x - 1)
            x -= value / slope
            if abs(value / slope) < 1e-15:
                break
        pairs.append(((1 + x) / 2, 1 / ((1 - x * x) * slope * slope)))
    return tuple(pairs)


def digamma(x: float) -> float:
    """Derivative of the logarithm of the gamma function at ``x > 0`` (DLMF 5.5.2 and 5.11.2)."""
    shift = 0.0
    while x < 8:
        shift -= 1 / x
        x += 1
    square = 1 / (x * x)
    return shift + math.log(x) - 0.5 / x - square * (1 / 12 - square * (1 / 120 - square * (1 / 252 - square / 240)))


def trigamma(x: float) -> float:
    """Derivative of :func:`digamma` at ``x > 0``."""
    shift = 0.0
    while x < 8:
        shift += 1 / (x * x)
        x += 1
    square = 1 / (x * x)
    series = 1 / 6 - square * (1 / 30 - square * (1 / 42 - square / 30))
    return shift + (1 + 0.5 / x + square * series) / x


def inverse_trigamma(y: float) -> float:
    """The ``x > 0`` with ``trigamma(x) == y``, for ``y > 0``.

    Newton's method on ``1 / trigamma``, which is nearly linear, from below (Smyth, Statistical Applications
    in Genetics and Molecular Biology 3(1), 2004, appendix).
    """
    x = 0.5 + 1 / y
    for _ in range(50):
        value = trigamma(x)
        step = value * (1 - value / y) / _tetragamma(x)
        x += step
        if abs(step) <= 1e-10 * x:
            break
    return x


def _tetragamma(x: float) -> float:
    """Derivative of :func:`trigamma`."""
    shift = 0.0
    while x < 8:
        shift -= 2 / x**3
        x += 1
    square = 1 / (x * x)
    return shift - square * (1 + 1 / x + square * (0.5 - square * (1 / 6 - square * (1 / 6 - square * 0.3))))


def truncated_normal_mean(centre: float, sd: float, low: float, high: float) -> float:
    """Mean of a normal distribution about ``centre`` that is cut off at ``low`` and ``high``.

    https://en.wikipedia.org/wiki/Truncated_normal_distribution#Moments
    """
    if centre < low:
        return low + high - truncated_normal_mean(low + high - centre, sd, low, high)
    a, b = (low - centre) / sd, (high - centre) / sd
    density = (math.exp(-a * a / 2) - math.exp(-b * b / 2)) / math.sqrt(2 * math.pi)
    return centre + sd * density / (_normal_below(b) - _normal_below(a))


def truncated_normal_quantiles(
    probabilities: Sequence[float], centre: float, sd: float, low: float, high: float
) -> list[float]:
    """What a normal variable about ``centre`` that is cut off at ``low`` and ``high`` stays below with each of these
    probabilities."""
    if centre < low:
        mirrored = [1 - probability for probability in probabilities]
        return [low + high - x for x in truncated_normal_quantiles(mirrored, low + high - centre, sd, low, high)]
    below_low, below_high = (_normal_below((bound - centre) / sd) for bound in (low, high))
    inside, quantile = below_high - below_low, NormalDist(centre, sd).inv_cdf
    return [min(max(quantile(below_low + probability * inside), low), high) for probability in probabilities]


def _normal_below(z: float) -> float:
    """What of a standard normal distribution is below ``z``; precise in the lower tail, hence the mirrors above."""
    return math.erfc(-z / math.sqrt(2)) / 2
