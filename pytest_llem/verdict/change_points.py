"""Change points: where in the saved history of a metric its level shifted.

Segmentation after Scott and Knott (Biometrics 30, 1974) and Olshen et al. (Biostatistics 5, 2004), on the logarithms
of the run means. A stretch of runs is compared with two alternatives: it shifted once, so that its end differs from its
beginning; or it shifted there and back, so that a middle differs from the rest. Of all places, that with the clearest
difference is taken if it is more than chance explains, and the parts are searched in the same way. Where the clearest
difference is that of fewer than :data:`MIN_STRETCH` runs, at an end or in the middle, these are outliers and no level:
they are left out, and the rest is searched again, so that an outlier does not hide a shift behind the spread that it
makes.

One place alone is tested with Student's t for two samples, with the variance of the runs about the means of their own
part, so that a shift does not hide itself by widening the spread; what other experiments say about the spread may be
added to it. Half of ``alpha`` goes to each alternative, shared among its places after Bonferroni (their statistics are
dependent, which makes this an upper bound). A history of runs that are independent, normal and without a shift
therefore gets any change point with probability ``alpha`` at most, of which leaving out an outlier spends its part;
each stretch between change points runs the same risk once more.

What the method cannot do: a level that drifts slowly is shown as steps, runs that depend on those before them raise
more alarms than stated, and several outliers of one size can hide each other. A change point explains a history; the
gate is :func:`pytest_llem.verdict.decision.judge`.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_llem.distributions import t_quantile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pytest_llem.verdict.spread import Spread

MIN_STRETCH = 3
"""Fewer runs are no level: an outlier is not a change."""

DEFAULT_ALPHA = 0.01

_LEAST_SPREAD = 1e-4
"""No board repeats better than this from process to process; values that agree better come from a coarse sensor."""


@dataclass(frozen=True)
class ChangePoint:
    """A shift of the level.

    Attributes:
        index: the first run at the new level.
        change: of the level, relative to the stretch before; positive for worse.
        interval: lowest and highest plausible change, 95% each on its own; the search picked the largest shifts, so
            that small ones are overstated.
    """

    index: int
    change: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class _Known:
    """Prior knowledge of the variance, as a sum of squares."""

    squares: float
    degrees_of_freedom: float

    @classmethod
    def of(cls, spread: Spread | None) -> _Known:
        """What a spread says."""
        df = spread.degrees_of_freedom if spread else 0.0
        return cls(df * spread.relative**2 if spread else 0.0, df)


def change_points(
    run_means: Sequence[float], spread: Spread | None = None, *, alpha: float = DEFAULT_ALPHA
) -> list[ChangePoint]:
    """Find shifts of the level, oldest first. The work grows with the square of the number of runs.

    Args:
        run_means: one value a run, oldest first, all positive and finite.
        spread: what the rest of the suite says about the spread between runs, weighted by its degrees of freedom.
        alpha: probability at most of any change point where there is none.

    Raises:
        ValueError: a mean that is not positive and finite, or ``alpha`` outside (0, 0.5).
    """
    levels = stretches(run_means, spread, alpha=alpha)
    return [
        ChangePoint(after[0], *shift([run_means[run] for run in before], [run_means[run] for run in after], spread))
        for before, after in itertools.pairwise(levels)
    ]


def stretches(
    run_means: Sequence[float], spread: Spread | None = None, *, alpha: float = DEFAULT_ALPHA
) -> list[Sequence[int]]:
    """Split runs into stretches of one level each, in order: their indices, without those of outliers. Arguments and
    errors are those of :func:`change_points`."""
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha is above 0 and below 0.5, not {alpha!r}")
    if not all(0 < mean < math.inf for mean in run_means):
        raise ValueError("run means are positive and finite")
    return _levels([math.log(mean) for mean in run_means], _Known.of(spread), alpha)


def shift(
    before: Sequence[float], after: Sequence[float], spread: Spread | None = None, *, error: float = 0.05
) -> tuple[float, tuple[float, float]]:
    """The change between two levels, relative, and its interval.

    Args:
        before, after: the means of their runs, positive and finite; three or more in all, one at least of each.
        spread: as of :func:`change_points`.
        error: how often the interval misses the true change.
    """
    known = _Known.of(spread)
    parts = [[math.log(value) for value in part] for part in (before, after)]
    means = [math.fsum(part) / len(part) for part in parts]
    squares = math.fsum((value - mean) ** 2 for part, mean in zip(parts, means, strict=True) for value in part)
    df = len(before) + len(after) - 2 + known.degrees_of_freedom
    variance = max((squares + known.squares) / df, _LEAST_SPREAD**2)
    reach = t_quantile(1 - error / 2, df) * math.sqrt(variance * (1 / len(before) + 1 / len(after)))
    difference = means[1] - means[0]
    return math.expm1(difference), (math.expm1(difference - reach), math.expm1(difference + reach))


def _levels(logs: Sequence[float], known: _Known, alpha: float) -> list[Sequence[int]]:
    """Split the runs, as indices into ``logs``, into stretches of one level each, in order and without outliers."""
    levels: list[Sequence[int]] = []
    pending = [list(range(len(logs)))]
    while pending:
        runs = pending.pop()
        start, stop = _clearest([logs[run] for run in runs], known, alpha)
        if stop - start == len(runs):
            levels.append(runs)
        elif stop - start < MIN_STRETCH:
            pending.append([*runs[:start], *runs[stop:]])
        else:
            pending += [part for part in (runs[stop:], runs[start:stop], runs[:start]) if part]
    return levels


def _clearest(logs: Sequence[float], known: _Known, alpha: float) -> tuple[int, int]:
    """The part that differs most clearly from the rest, from its first run to the one after its last; all runs where
    none differs by more than chance explains."""
    count = len(logs)
    about = np.asarray(logs) - math.fsum(logs) / max(count, 1)
    sums = np.concatenate(([0.0], np.cumsum(about)))
    total = math.fsum(about**2)
    inner = range(MIN_STRETCH, count - MIN_STRETCH + 1)
    best: tuple[float, tuple[int, int]] = (1.0, (0, count))
    if not inner:
        return best[1]
    shifts = [(length, 0, 0) for length in inner]
    excursions = [(length, MIN_STRETCH, count - MIN_STRETCH - length) for length in range(MIN_STRETCH, len(inner))]
    # An outlier matters only where there could be a shift.
    excursions += [(length, 0, count - length) for length in range(1, MIN_STRETCH)]
    for alternatives in (shifts, excursions):
        squares, part = max(_largest(sums, *places) for places in alternatives)
        number = sum(last - first + 1 for _, first, last in alternatives)
        df = count - 2 + known.degrees_of_freedom
        variance = max((max(total - squares, 0.0) + known.squares) / df, _LEAST_SPREAD**2)
        threshold = t_quantile(1 - alpha / 2 / (2 * number), df)
        best = max(best, (math.sqrt(squares / variance) / threshold, part))
    return best[1]


def _largest(sums: NDArray[np.float64], length: int, first: int, last: int) -> tuple[float, tuple[int, int]]:
    """The largest sum of squares between ``length`` runs that begin at ``first`` to ``last`` and the rest, and where it
    is, given running sums about the mean."""
    count = len(sums) - 1
    apart = (sums[first + length : last + length + 1] - sums[first : last + 1]) ** 2
    at = int(apart.argmax())
    return float(apart[at]) * count / (length * (count - length)), (first + at, first + at + length)
