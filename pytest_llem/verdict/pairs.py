"""Is one state of the code worse than another? Pairs of processes, one of each, measured here and now.

The sample is the pair. Windows of one pair share its two processes, which differ by themselves: taken for samples they
call 18% of equal code a regression where processes differ by 2%. What both sides share, such as the board, its
temperature and a drift within a session, is not in the difference of a pair, if their windows take turns.

A side counts with the mean of its windows, and a pair with the logarithm of their ratio. The mean, because the limit is
one on the energy or time of all calls; a mean of logarithms would call code better whose windows scatter more. The
spread between pairs is theirs, and that of a usual pair beforehand, :data:`PRIOR_SPREAD`, counted as two observations:
three pairs that agree by luck would else decide alone.

Looks come after every pair from the third on, and all of them together are wrong at the stated rates, see
:mod:`pytest_llem.verdict.pair_looks`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_llem.distributions import t_quantile
from pytest_llem.verdict.decision import (
    Status,
    Verdict,
    check_error_rates,
    decide,
    judge_point,
    percent,
    relative_change,
)
from pytest_llem.verdict.limits import Limit, parse_limit
from pytest_llem.verdict.spread import Run, Spread, sample_variance, summarize

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Pair = tuple[Run, Run]
"""The windows of this side's process and of the other's, each in the order measured."""

MIN_PAIRS = 3
"""Fewer pairs do not show their own spread."""

MAX_PAIRS = 10

PRIOR_SPREAD = 0.02
"""Standard deviation of the difference of a pair of equal code, before any is seen; what windows scatter comes on top.

Two processes that each differ by 1.4%, which is more than most do.
"""

PRIOR_DF = 2
"""Observations of the spread that :data:`PRIOR_SPREAD` counts for."""

_POWER = 0.8


@dataclass(frozen=True)
class _Difference:
    """One pair on the logarithmic scale.

    Attributes:
        log_ratio: logarithm of this side's mean over the other's.
        window_variance: of ``log_ratio``, by the scatter of the windows alone; ``None`` where they are too few.
    """

    log_ratio: float
    window_variance: float | None


def judge_pairs(
    pairs: Iterable[Pair],
    limit: str | Limit = "2.5%..5%",
    *,
    alpha: float = 0.05,
    beta: float = 0.025,
    max_pairs: int = MAX_PAIRS,
    interleaved: bool = True,
) -> Verdict:
    """Judge this side against the other after every pair of processes, until no more are needed.

    With a limit ``m0..m1`` and an interval ``low..high`` for the change, in this order: REGRESSED if ``low`` is above
    ``m0``, IMPROVED if ``high`` is below ``-m0``, OK if ``high`` is below ``m1`` and, while there may be more pairs,
    ``low`` above ``-m1`` (else an improvement would end as OK); else INCONCLUSIVE. With ``rule=point`` the estimate
    alone is held against ``m1``, from the first pair on.

    Args:
        pairs: the pairs so far, in order. Nothing is decided where one has windows that are not all positive and
            finite: a pair that is left out could be the one that tells.
        limit: the tolerated change and the limit, as on the command line.
        alpha: probability at most, over all looks, of REGRESSED at a true change of ``m0``.
        beta: the same of OK at a true change of ``m1``, and of IMPROVED at ``-m0``.
        max_pairs: how many pairs there may be; every further look costs some precision.
        interleaved: the windows of both sides took turns, as ABBA; else one process ran after the other.

    Raises:
        ValueError: a malformed limit, an error rate outside [0.001, 0.5), or ``max_pairs`` below 3.
    """
    limit = parse_limit(limit) if isinstance(limit, str) else limit
    check_error_rates(alpha, beta)
    if max_pairs < MIN_PAIRS:
        raise ValueError(f"max_pairs is at least {MIN_PAIRS}, not {max_pairs!r}")
    differences = [_difference(*pair, interleaved=interleaved) for pair in pairs]
    known = [difference for difference in differences if difference is not None]
    count = len(differences)
    open_verdict = Verdict(
        status=Status.INCONCLUSIVE,
        change=None,
        interval=None,
        detectable_change=None,
        runs=count,
        saved=count,
        limit=limit,
        reason="not measured yet",
        needs_more_runs=count < MIN_PAIRS,
        spread=None,
    )
    if len(known) < count:
        reason = (
            f"pair {differences.index(None) + 1} has a side without windows, or with some that are no positive numbers"
        )
        return replace(open_verdict, reason=reason, needs_more_runs=False)
    if not count:
        return open_verdict
    if limit.rule == "point":
        return judge_point(replace(open_verdict, needs_more_runs=False), _mean(known))
    if count < MIN_PAIRS:
        reason = f"{count} of at least {MIN_PAIRS} pairs"
        return replace(open_verdict, change=relative_change(_mean(known)), reason=reason)
    return _judge_interval(open_verdict, _mean(known), _spread(known), alpha, beta, max(max_pairs, count))


def pair_difference(this: Run, other: Run) -> float | None:
    """Logarithm of the mean of this side's windows over the mean of the other's.

    Returns:
        ``None`` where a side has no windows, or some that are not positive and finite.
    """
    sides = summarize([this, other])
    return sides[0].log_mean - sides[1].log_mean if len(sides) == 2 else None


def spread_of_pairs(pairs: Iterable[Pair], *, interleaved: bool = True) -> Spread | None:
    """How much the differences of pairs differ, as :func:`judge_pairs` takes it.

    Returns:
        ``None`` for fewer than :data:`MIN_PAIRS`, or where a window of any is not positive and finite.
    """
    differences = [_difference(*pair, interleaved=interleaved) for pair in pairs]
    known = [difference for difference in differences if difference is not None]
    return _spread(known) if len(known) == len(differences) >= MIN_PAIRS else None


def expected_spread(standard_deviation: float, pairs: int) -> Spread:
    """What :func:`judge_pairs` will take for the spread, about, where pairs truly differ by this standard deviation:
    quiet ones count as noisier than they are, because so few do not prove it."""
    df = _degrees_of_freedom(pairs)
    squares = PRIOR_DF * PRIOR_SPREAD**2 + (pairs - 1) * standard_deviation**2
    return Spread(math.sqrt(squares / df), df)


def detectable_by_pairs(
    spread: Spread, limit: str | Limit, pairs: int, *, alpha: float = 0.05, max_pairs: int = MAX_PAIRS
) -> float:
    """The smallest true change that is called a regression by the look after ``pairs`` pairs with probability 0.8.

    Args:
        spread: of the differences, as a verdict takes it: after three pairs the true one is with a probability of 0.8
            at most 1.56 times as large. Before any see :func:`expected_spread`.

    Raises:
        ValueError: a malformed limit, an error rate outside [0.001, 0.5), or fewer than 3 pairs.
    """
    limit = parse_limit(limit) if isinstance(limit, str) else limit
    check_error_rates(alpha, alpha)
    if pairs < MIN_PAIRS:
        raise ValueError(f"the first look is after {MIN_PAIRS} pairs, not {pairs!r}")
    reach = _threshold(alpha, pairs, max(max_pairs, pairs)) + t_quantile(_POWER, _degrees_of_freedom(pairs))
    return relative_change(math.log1p(limit.tolerance) + reach * spread.relative / math.sqrt(pairs))


def _judge_interval(
    open_verdict: Verdict, log_ratio: float, spread: Spread, alpha: float, beta: float, max_pairs: int
) -> Verdict:
    limit, count = open_verdict.limit, open_verdict.runs
    standard_error = spread.relative / math.sqrt(count)
    low = relative_change(log_ratio - _threshold(alpha, count, max_pairs) * standard_error)
    high = relative_change(log_ratio + _threshold(beta, count, max_pairs) * standard_error)
    status, reason = decide(low, high, limit)
    if status is Status.OK and low <= -limit.limit and count < max_pairs:
        status = Status.INCONCLUSIVE
        reason = f"between {low:+.2%} and {high:+.2%}: no regression, but perhaps an improvement"
    inconclusive = status is Status.INCONCLUSIVE
    detectable = detectable_by_pairs(spread, limit, max_pairs, alpha=alpha, max_pairs=max_pairs)
    if inconclusive and detectable > limit.limit:
        found = f"{max_pairs} find a change of {percent(detectable)} four times in five"
        reason += f"; pairs differ by {spread.relative:.2%}: {found}"
    return replace(
        open_verdict,
        status=status,
        change=relative_change(log_ratio),
        interval=(low, high),
        detectable_change=detectable,
        reason=reason,
        needs_more_runs=inconclusive and count < max_pairs,
        spread=spread,
    )


def _difference(this: Run, other: Run, *, interleaved: bool) -> _Difference | None:
    log_ratio = pair_difference(this, other)
    return None if log_ratio is None else _Difference(log_ratio, _window_variance(this, other, interleaved=interleaved))


def _window_variance(this: Run, other: Run, *, interleaved: bool) -> float | None:
    """Variance of the difference of two valid sides by their windows: from blocks, which a drift does not widen."""
    if interleaved and len(this) == len(other) >= 4:
        # A block is ABBA or BAAB: two windows of each side.
        blocks = [pair_difference(this[i : i + 2], other[i : i + 2]) for i in range(0, len(this) - 1, 2)]
        return sample_variance([block for block in blocks if block is not None]) / len(blocks)
    if min(len(this), len(other)) < 2:
        return None
    return math.fsum(side.variance / side.rounds for side in summarize([this, other]))


def _mean(differences: Sequence[_Difference]) -> float:
    return math.fsum(difference.log_ratio for difference in differences) / len(differences)


def _spread(differences: Sequence[_Difference]) -> Spread:
    """Of two pairs or more: their own scatter, and that of a usual pair with windows like theirs."""
    df = _degrees_of_freedom(len(differences))
    by_windows = [difference.window_variance for difference in differences if difference.window_variance is not None]
    prior = PRIOR_SPREAD**2 + (math.fsum(by_windows) / len(by_windows) if by_windows else 0.0)
    squares = (len(differences) - 1) * sample_variance([difference.log_ratio for difference in differences])
    return Spread(math.sqrt((PRIOR_DF * prior + squares) / df), df)


def _degrees_of_freedom(pairs: int) -> int:
    return pairs - 1 + PRIOR_DF


def _threshold(error_rate: float, pairs: int, max_pairs: int) -> float:
    """What Student's t of the look after ``pairs`` pairs must exceed, so that all looks err with ``error_rate``."""
    # Here, so that a verdict by saved runs costs no import of numpy.
    from pytest_llem.verdict.pair_looks import nominal_level

    return t_quantile(1 - nominal_level(error_rate, MIN_PAIRS, max_pairs, PRIOR_DF), _degrees_of_freedom(pairs))
