"""The price of looking after every pair: how surprising one look must be, for all looks together to be wrong rarely.

Of ``n`` differences, with what is known of their spread beforehand counted as a few more observations of it, the vector
of both has no preferred direction where there is no change. So ``U = sum of the differences / length of the vector`` is
a Markov chain: one more difference makes it ``U cos(phi) + sin(phi)``, where ``sin(phi)``, the difference over the new
length, does not depend on what came before. With ``k`` coordinates so far it is one coordinate of a random point on the
sphere in ``k + 1`` dimensions, so that ``phi`` has a density of ``cos(phi)^(k - 1)`` (Muirhead, Aspects of Multivariate
Statistical Theory, 1982, section 1.5), and Student's t of the differences grows with ``U`` alone. The probability that
no look crosses its threshold follows by recursion from the last look back, as in Armitage, McPherson and Rowe (Journal
of the Royal Statistical Society A 132, 1969), who had a known spread.

What is known beforehand comes from no sample: where pairs spread much more than it says, the error rate is exceeded a
little (5.5 to 5.9% in place of 5% at twice that spread).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.polynomial import chebyshev
from numpy.polynomial.legendre import leggauss

from pytest_llem.distributions import t_quantile

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Values = NDArray[np.float64]

_NODES = 24
"""Of a series, and of an integral: with 40 more no level changes by more than 1e-4 of itself."""

_BENDS = 2
"""How many the series are cut at: the others are too faint."""

_FAR = 6.5
"""Standard deviations beyond which there is next to nothing."""


@lru_cache(maxsize=256)
def nominal_level(error_rate: float, first_look: int, last_look: int, prior_df: int) -> float:
    """The one-sided level, the same for each look, with which any look errs with ``error_rate``.

    The look after ``n`` pairs compares Student's t with its quantile at ``n - 1 + prior_df`` degrees of freedom. There
    is one after each pair, from ``first_look`` on, at least 3. The relative error is below 1e-4.

    Args:
        error_rate: probability of any crossing where there is no change, above 0 and at most 0.5.
        prior_df: observations of the spread that what is known of it beforehand counts for.
    """
    if first_look == last_look:
        return error_rate

    def excess(log_level: float) -> float:
        thresholds = {n: _threshold(math.exp(log_level), n, prior_df) for n in range(first_look, last_look + 1)}
        return math.log(_crossing(thresholds, prior_df) / error_rate)

    # Between Bonferroni's level and that of one look; the logarithms are nearly on a line.
    return math.exp(_root(excess, math.log(error_rate / (last_look - first_look + 1)), math.log(error_rate)))


def _root(increasing: Callable[[float], float], low: float, high: float) -> float:
    """Where a function is zero between ``low`` and ``high``: regula falsi, in the variant called Illinois."""
    at_low, at_high = increasing(low), increasing(high)
    side = 0
    while True:
        middle = (low * at_high - high * at_low) / (at_high - at_low)
        value = increasing(middle)
        if abs(value) < 1e-5 or high - low < 1e-9:
            return middle
        if value > 0:
            at_low /= 2 if side > 0 else 1
            high, at_high, side = middle, value, 1
        else:
            at_high /= 2 if side < 0 else 1
            low, at_low, side = middle, value, -1


def _threshold(level: float, pairs: int, prior_df: int) -> float:
    """The ``U`` at which Student's t of this many pairs has its quantile."""
    df = pairs - 1 + prior_df
    t = t_quantile(1 - level, df)
    return math.sqrt(pairs) * t / math.sqrt(df + t * t)


@dataclass(frozen=True)
class _NoCrossing:
    """Probability that no later look crosses, by the ``U`` of one look that does not, as Chebyshev series.

    From a ``U`` of less than ``sqrt(threshold^2 - 1)`` even the largest difference, which widens the spread as well,
    does not cross at the next look. Above this bend the probability of crossing rises like a square root, so that the
    series is in the root; and each bend of one look makes a fainter one at the look before.

    Attributes:
        edges: of the pieces, in order: the lowest ``U`` that matters, bends, the threshold.
        series: one a piece; beyond the first in the root of the distance from its lower edge.
    """

    edges: tuple[float, ...]
    series: tuple[Values, ...]

    def __call__(self, piece: int, u: Values) -> Values:
        low, high = self.edges[piece : piece + 2]
        share = np.clip((u - low) / max(high - low, 1e-12), 0, 1)
        return chebyshev.chebval(2 * (np.sqrt(share) if piece else share) - 1, self.series[piece])


def _crossing(thresholds: dict[int, float], prior_df: int) -> float:
    """Probability that ``U`` crosses any of the thresholds, which are by number of pairs, in order."""
    first, *_, last = thresholds
    quiet = _NoCrossing((-_FAR, thresholds[last]), (np.ones(1),))
    for pairs in range(last - 1, first - 1, -1):
        quiet = _look_before(quiet, pairs, thresholds[pairs], pairs + prior_df)
    # U over its largest value is a coordinate of a random point, too.
    largest, exponent = math.sqrt(first), (first + prior_df - 3) / 2
    total = 0.0
    for piece, (low, high) in enumerate(pairwise(quiet.edges)):
        at, weights = _nodes(piece)
        u = low + (high - low) * at
        density = np.maximum(1 - (u / largest) ** 2, 0) ** exponent
        total += float(np.sum(weights * density * quiet(piece, u))) * (high - low)
    log_whole = math.lgamma(exponent + 1) - math.lgamma(exponent + 1.5) + math.log(math.pi) / 2
    return 1 - total / largest / math.exp(log_whole)


def _look_before(later: _NoCrossing, pairs: int, threshold: float, coordinates: int) -> _NoCrossing:
    """The same one look earlier, after ``pairs``."""
    bends = [min(math.sqrt(max(edge**2 - 1, 0.0)), threshold) for edge in later.edges[1:][-_BENDS:]]
    edges = (-min(math.sqrt(pairs), _FAR), *bends, threshold)
    chebyshev_nodes = chebyshev.chebpts1(_NODES)
    shares = (chebyshev_nodes + 1) / 2
    u = np.concatenate(
        [low + (high - low) * (shares**2 if piece else shares) for piece, (low, high) in enumerate(pairwise(edges))]
    )
    # With u = tan(theta) the next U is sin(phi + theta) / cos(theta): it rises to its highest, and falls again.
    theta = np.arctan(u)[:, None]
    reach = min(_FAR / math.sqrt(coordinates - 1), math.pi / 2)
    quiet = np.zeros(len(u))
    for piece, (low, high) in enumerate(pairwise(later.edges)):
        at, weights = _nodes(piece)
        enters, leaves = (np.arcsin(np.clip(edge * np.cos(theta), -1, 1)) for edge in (low, high))
        if piece == 0:
            enters = np.full_like(theta, -math.pi)
        for start, stop in ((enters, leaves), (math.pi - enters, math.pi - leaves)):
            first, last = np.clip(start - theta, -reach, reach), np.clip(stop - theta, -reach, reach)
            if np.array_equal(first, last):
                continue  # out of reach, as most of the fall is after many pairs
            phi = first + (last - first) * at
            probability = later(piece, np.sin(phi + theta) / np.cos(theta))
            quiet += np.abs(last - first)[:, 0] * np.sum(
                weights * np.cos(phi) ** (coordinates - 1) * probability, axis=1
            )
    log_whole = math.lgamma(coordinates / 2) - math.lgamma((coordinates + 1) / 2) + math.log(math.pi) / 2
    fit = 2 / _NODES * chebyshev.chebvander(chebyshev_nodes, _NODES - 1).T
    fit[0] /= 2
    values = quiet.reshape(-1, _NODES) / math.exp(log_whole)
    return _NoCrossing(edges, tuple(fit @ part for part in values))


@lru_cache(maxsize=8)
def _nodes(piece: int) -> tuple[Values, Values]:
    """Nodes and weights on (0, 1); beyond the first piece for what is smooth in the root of the distance from 0."""
    nodes, weights = leggauss(_NODES)
    root = (nodes + 1) / 2
    return (root**2, weights * root) if piece else (root, weights / 2)
