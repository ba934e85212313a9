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

from pytest_llem.distributions import t_quantile

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    run_means = list(run_means)
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha is above 0 and below 0.5, not {alpha!r}")
    if not all(0 < mean < math.inf for mean in run_means):
        raise ValueError("run means are positive and finite")
    logs = [math.log(mean) for mean in run_means]
    df = spread.degrees_of_freedom if spread else 0.0
    known = _Known(df * spread.relative**2 if spread else 0.0, df)
    levels = _levels(logs, range(len(logs)), known, alpha)
    return [
        _change_point([logs[run] for run in before], [logs[run] for run in after], after[0], known)
        for before, after in itertools.pairwise(levels)
    ]


def _levels(logs: Sequence[float], runs: Sequence[int], known: _Known, alpha: float) -> list[Sequence[int]]:
    """Split ``runs``, indices into ``logs``, into stretches of one level each, in order and without outliers."""
    count = len(runs)
    mean = math.fsum(logs[run] for run in runs) / max(count, 1)
    about = [logs[run] - mean for run in runs]
    sums = [0.0, *itertools.accumulate(about)]
    total = math.fsum(value**2 for value in about)
    inner = range(MIN_STRETCH, count - MIN_STRETCH + 1)
    once = [(_between(sums, 0, cut), (0, cut)) for cut in inner]
    excursions = [
        (_between(sums, start, stop), (start, stop))
        for start in inner
        for stop in range(start + MIN_STRETCH, count - MIN_STRETCH + 1)
    ]
    if once:
        # An outlier matters only where there could be a shift.
        excursions += [
            (_between(sums, start, start + length), (start, start + length))
            for length in range(1, MIN_STRETCH)
            for start in range(count - length + 1)
        ]
    best: tuple[float, tuple[int, int]] = (1.0, (0, count))
    for alternatives in (once, excursions):
        if not alternatives:
            continue
        squares, part = max(alternatives)
        df = count - 2 + known.degrees_of_freedom
        variance = max((max(total - squares, 0.0) + known.squares) / df, _LEAST_SPREAD**2)
        threshold = t_quantile(1 - alpha / 2 / (2 * len(alternatives)), df)
        best = max(best, (math.sqrt(squares / variance) / threshold, part))
    _, (start, stop) = best
    if stop - start == count:
        return [runs]
    if stop - start < MIN_STRETCH:
        return _levels(logs, [*runs[:start], *runs[stop:]], known, alpha)
    parts = (runs[:start], runs[start:stop], runs[stop:])
    return [level for part in parts if part for level in _levels(logs, part, known, alpha)]


def _between(sums: Sequence[float], start: int, stop: int) -> float:
    """Sum of squares between the runs from ``start`` to ``stop`` and the rest, given running sums about the mean."""
    count, inside = len(sums) - 1, stop - start
    return (sums[stop] - sums[start]) ** 2 * count / (inside * (count - inside))


def _change_point(before: Sequence[float], after: Sequence[float], index: int, known: _Known) -> ChangePoint:
    means = [math.fsum(part) / len(part) for part in (before, after)]
    squares = math.fsum(
        (value - mean) ** 2 for part, mean in zip((before, after), means, strict=True) for value in part
    )
    df = len(before) + len(after) - 2 + known.degrees_of_freedom
    variance = max((squares + known.squares) / df, _LEAST_SPREAD**2)
    reach = t_quantile(0.975, df) * math.sqrt(variance * (1 / len(before) + 1 / len(after)))
    difference = means[1] - means[0]
    return ChangePoint(index, math.expm1(difference), (math.expm1(difference - reach), math.expm1(difference + reach)))
