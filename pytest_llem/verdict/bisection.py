"""Which commit changed it? Probabilistic bisection over commits in a row, with noisy probes.

A plain bisection believes every answer, so that it ends at a wrong commit as soon as one is wrong. Here each commit has
a probability of being the culprit, and each probe, the difference of one pair of a commit and the good end, shifts it:
commits up to the probed one were more likely where the difference looks like the change, later ones where it looks like
none (Horstein, IEEE Transactions on Information Theory 9, 1963; Waeber, Frazier and Henderson, SIAM Journal on Control
and Optimization 51, 2013). The next probe is where the culprit lies on either side with the same probability.

How large the change is and how much pairs scatter is not known exactly either. So a probability belongs to a commit, a
size and a spread, starts from the pairs that judged the ends, and is summed over sizes and spreads. One size taken for
known names the wrong commit in one case of five, where it is 5% in place of 3.5%; the spread of the ends taken for
known does so in one of six, where pairs differ by 3%, because ends are judged soonest whose pairs agree by luck.

It takes for granted that one commit made the change, and all of it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pytest_llem.verdict.pairs import PRIOR_DF, PRIOR_SPREAD

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

_USUAL_SIZES = (0.02, 0.10)
"""Smallest and largest change, as differences of logarithms."""

_SPREADS = np.geomspace(0.0025, 0.08, 11)


class Bisection:
    """The probability of each commit, given the differences of the pairs so far.

    Commits are numbered from 0, the first after the good end, to the bad end itself. Every difference is the logarithm
    of a commit's mean over the good end's, see :func:`pytest_llem.verdict.pairs.pair_difference`.

    Args:
        commits: how many may be the culprit: those after the good end, up to the bad one.
        ends: differences of the pairs that showed that the bad end differs; they say in which direction, about how much
            and how much pairs scatter.

    Raises:
        ValueError: no commit, or ends that show no direction.
    """

    def __init__(self, commits: int, ends: Sequence[float]) -> None:
        estimate = math.fsum(ends) / len(ends) if ends else 0.0
        if commits < 1 or estimate == 0:
            raise ValueError(
                f"nothing to bisect: {commits} commits, {len(ends)} pairs of ends that differ by {estimate}"
            )
        self._sizes = _sizes(estimate)[:, None]
        # What is known of the spread before any pair, as in a verdict. By commit, size and spread.
        prior = -PRIOR_DF * (np.log(_SPREADS) + PRIOR_SPREAD**2 / (2 * _SPREADS**2))
        self._log_weights = np.zeros((commits, len(self._sizes), 1)) + prior
        for difference in ends:
            self.update(commits - 1, difference)

    def update(self, commit: int, difference: float) -> None:
        """Take in the difference of one pair of ``commit`` and the good end."""
        self._log_weights[: commit + 1] += _log_likelihood(difference - self._sizes)
        self._log_weights[commit + 1 :] += _log_likelihood(np.full_like(self._sizes, difference))

    @property
    def probability(self) -> list[float]:
        """Of each commit, that it made the change; their sum is 1."""
        weights = np.exp(self._log_weights - self._log_weights.max()).sum(axis=(1, 2))
        return [float(weight) for weight in weights / weights.sum()]

    def found(self, certainty: float = 0.95) -> int | None:
        """The commit that made the change with this probability or more; ``None`` while there is none."""
        probability = self.probability
        best = max(range(len(probability)), key=probability.__getitem__)
        return best if probability[best] >= certainty else None

    def next_probe(self, left_out: Collection[int] = ()) -> int | None:
        """The commit to measure next, so that the culprit is about as likely up to it as after it.

        Args:
            left_out: commits that cannot be measured.

        Returns:
            ``None`` where no commit is left that tells any from others.
        """
        # The bad end, the last, tells commits from each other no better than before.
        able = [commit for commit in range(len(self._log_weights) - 1) if commit not in left_out]
        up_to = np.cumsum(self.probability)
        return min(able, key=lambda commit: abs(up_to[commit] - 0.5), default=None)


def _log_likelihood(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """By error and spread, of Student's t with four degrees of freedom: an outlier counts for little."""
    return -np.log(_SPREADS) - 2.5 * np.log1p(errors**2 / (2.5 * _SPREADS**2))


def _sizes(estimate: float) -> NDArray[np.float64]:
    """Differences of logarithms that the change may be: the usual ones, or those about an estimate beyond them."""
    low, high = _USUAL_SIZES
    if not low <= abs(estimate) <= high:
        low, high = 0.5 * abs(estimate), 1.5 * abs(estimate)
    return np.copysign(np.linspace(low, high, 17), estimate)
