"""Did it regress? Statistics on plain numbers, lower is better.

The sample is the run (a process), not the round: rounds of one process share its temperature, its placement
and its noise, so tests on rounds call a quarter of unchanged commits a regression. A run counts with the mean
of its rounds. The spread between runs comes from the saved runs, and the change from their mean is known up
to ``t * spread * sqrt(1/saved + 1/new)``. The work is done on logarithms, where a relative change is a
difference.

The saved runs must be of the same workload and environment, and recent: an environment that shifted by 1%
since then looks like a change of 1%. A slow drift widens the spread, and so the interval; a step has to
restart the history.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from pytest_llem.distributions import repeated_looks_quantile, t_quantile
from pytest_llem.verdict.limits import Limit, parse_limit
from pytest_llem.verdict.spread import (
    MIN_SAVED_RUNS,
    Run,
    RunSummary,
    Spread,
    between_run_spread,
    log_mean,
    pooled_spread,
    run_weights,
    summarize,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["MAX_RUNS", "MIN_SAVED_RUNS", "Run", "Spread", "Status", "Verdict", "judge", "pooled_spread"]

MAX_RUNS = 3
"""New runs, each in a fresh process, that a verdict may ask for."""

_ROUNDING = 1e-12
"""Of a change computed from floats: 105 against 100 is 5%, not more."""


class Status(StrEnum):
    """The five statuses of a verdict."""

    OK = "OK"
    REGRESSED = "REGRESSED"
    IMPROVED = "IMPROVED"
    INCONCLUSIVE = "INCONCLUSIVE"
    NO_BASELINE = "NO-BASELINE"


@dataclass(frozen=True)
class Verdict:
    """What the runs say about a change; every change is a fraction of the saved mean, positive for worse.

    Attributes:
        status: one of the five.
        change: the best estimate; ``None`` without both saved and new runs.
        interval: the lowest and the highest change that the runs leave plausible, at the given error
            rates; ``None`` where no spread is known or none is used (``rule=point``).
        detectable_change: the smallest true change that this many runs (before the first one: ``max_runs``)
            would have called a regression with probability ``1 - beta``; ``None`` where ``interval`` is because
            no spread is known. Of pairs: the one that the most there may be find with probability 0.8.
        runs: number of new runs; of pairs: how many they are.
        saved: number of saved runs used; of pairs: how many they are.
        limit: the limit judged against.
        reason: why this status, in a sentence.
        needs_more_runs: another run in a fresh process could settle it.
        spread: the spread between runs that was used; ``None`` where ``interval`` is. Of pairs: of their differences.
    """

    status: Status
    change: float | None
    interval: tuple[float, float] | None
    detectable_change: float | None
    runs: int
    saved: int
    limit: Limit
    reason: str
    needs_more_runs: bool
    spread: Spread | None


def judge(
    history: Iterable[Run],
    runs: Iterable[Run],
    limit: str | Limit = "5%",
    *,
    alpha: float = 0.05,
    beta: float = 0.025,
    pooled_spread: Spread | None = None,
    elsewhere: Iterable[Iterable[Run]] = (),
    max_runs: int = MAX_RUNS,
) -> Verdict:
    """Judge new runs against saved ones.

    With a limit ``m0..m1`` and an interval ``low..high`` for the change: REGRESSED if ``low`` is above
    ``m0``, IMPROVED if ``high`` is below ``-m0``, OK if ``high`` is below ``m1``; else INCONCLUSIVE, and
    another run may settle it until there are ``max_runs``. Judge again then, with all the new runs. With
    ``rule=point`` the estimate alone is held against ``m1``, as pytest-benchmark does.

    Args:
        history: the saved runs. One whose rounds are not all positive and finite is left out, and ``reason``
            says so.
        runs: the new runs; with none, only what could be detected is reported.
        limit: the tolerated change and the limit, as on the command line.
        alpha: probability at most, over all looks, of REGRESSED at a true change of ``m0``.
        beta: the same of OK at a true change of ``m1``, and of IMPROVED at ``-m0``.
        pooled_spread: what other experiments say about the spread, from :func:`pooled_spread`.
        elsewhere: saved runs of the same experiment in stretches with other means, on other boards or before an
            accepted change, whose spread counts like that of ``history``.
        max_runs: how many new runs there may be, 1 to 3; every further look costs some precision.

    Raises:
        ValueError: a malformed limit, an error rate outside [0.001, 0.5), or ``max_runs`` outside 1 to 3.
    """
    limit = parse_limit(limit) if isinstance(limit, str) else limit
    check_error_rates(alpha, beta)
    if not 1 <= max_runs <= MAX_RUNS:
        raise ValueError(f"max_runs is 1 to {MAX_RUNS}, not {max_runs!r}")
    history, runs = list(history), list(runs)
    saved = summarize(history)
    new = summarize(runs)
    open_verdict = Verdict(
        status=Status.INCONCLUSIVE,
        change=None,
        interval=None,
        detectable_change=None,
        runs=len(runs),
        saved=len(saved),
        limit=limit,
        reason="not measured yet",
        needs_more_runs=not runs,
        spread=None,
    )
    if not saved:
        verdict = replace(
            open_verdict,
            status=Status.NO_BASELINE,
            reason="no saved run to compare with",
            needs_more_runs=False,
        )
    elif len(new) < len(runs):
        verdict = replace(open_verdict, reason="a new run has no rounds, or some that are no positive numbers")
    elif limit.rule == "point":
        verdict = judge_point(open_verdict, log_mean(new) - log_mean(saved)) if new else open_verdict
    elif (spread := between_run_spread(saved, pooled_spread, map(summarize, map(list, elsewhere)))) is None:
        verdict = replace(
            open_verdict,
            change=relative_change(log_mean(new) - log_mean(saved)) if new else None,
            reason=f"unknown spread between runs: {len(saved)} of at least {MIN_SAVED_RUNS} saved runs",
            needs_more_runs=False,
        )
    else:
        verdict = _judge_interval(open_verdict, saved, new, spread, alpha, beta, max_runs)
    if left_out := len(history) - len(saved):
        note = f"{_count(left_out, 'saved run')} left out: rounds that are no positive numbers"
        verdict = replace(verdict, reason=f"{verdict.reason}; {note}")
    return verdict


def check_error_rates(alpha: float, beta: float) -> None:
    """Raises ValueError: for one outside [0.001, 0.5)."""
    if not 0.001 <= alpha < 0.5 or not 0.001 <= beta < 0.5:
        raise ValueError(f"error rates are at least 0.001 and below 0.5, not alpha={alpha!r}, beta={beta!r}")


def judge_point(open_verdict: Verdict, log_ratio: float) -> Verdict:
    """Hold the estimate alone against the limit."""
    change = relative_change(log_ratio)
    threshold = open_verdict.limit.limit
    if change - threshold > _ROUNDING:
        status, relation = Status.REGRESSED, "above"
    elif -change - threshold > _ROUNDING:
        status, relation = Status.IMPROVED, "a gain of more than"
    else:
        status, relation = Status.OK, "within"
    reason = f"the estimate is {relation} {percent(threshold)}, whatever the spread between runs"
    return replace(open_verdict, status=status, change=change, reason=reason)


def _judge_interval(
    open_verdict: Verdict,
    saved: Sequence[RunSummary],
    new: Sequence[RunSummary],
    spread: Spread,
    alpha: float,
    beta: float,
    max_runs: int,
) -> Verdict:
    limit = open_verdict.limit
    df = spread.degrees_of_freedom
    looks = (*range(1, max_runs), max(max_runs, len(new)))
    t_alpha = repeated_looks_quantile(1 - alpha, df, len(saved), looks)
    t_beta = repeated_looks_quantile(1 - beta, df, len(saved), looks)

    sigma, count, difference = spread.relative, float(max_runs), 0.0
    notes = []
    if new:
        weights = run_weights(new, saved, spread.relative)
        count = math.fsum(weights)
        mean = math.fsum(w * run.log_mean for w, run in zip(weights, new, strict=True)) / count
        difference = mean - log_mean(saved)
        # New runs that differ among themselves more than the saved ones do are no steadier for their number.
        scatter = math.fsum(w * (run.log_mean - mean) ** 2 for w, run in zip(weights, new, strict=True))
        sigma = max(sigma, math.sqrt((df * sigma**2 + scatter) / (df + len(new) - 1)))
        if noisy := sum(weight < 0.5 for weight in weights):
            notes.append(f"{_count(noisy, 'new run')} counted for less: fewer or noisier rounds than the saved runs")
    standard_error = sigma * math.sqrt(1 / len(saved) + 1 / count)
    detectable = relative_change(math.log1p(limit.tolerance) + (t_alpha + t_quantile(1 - beta, df)) * standard_error)
    if not new:
        return replace(open_verdict, detectable_change=detectable, spread=spread)

    low = relative_change(difference - t_alpha * standard_error)
    high = relative_change(difference + t_beta * standard_error)
    status, reason = decide(low, high, limit)
    inconclusive = status is Status.INCONCLUSIVE
    if inconclusive and detectable > limit.limit:
        notes.append(f"runs differ by {sigma:.2%}: only a change of {percent(detectable)} is sure to be seen")
    return replace(
        open_verdict,
        status=status,
        change=relative_change(difference),
        interval=(low, high),
        detectable_change=detectable,
        reason="; ".join([reason, *notes]),
        needs_more_runs=inconclusive and len(new) < max_runs,
        spread=spread,
    )


def decide(low: float, high: float, limit: Limit) -> tuple[Status, str]:
    """The status of an interval of relative changes, and why."""
    tolerance, threshold = percent(limit.tolerance), percent(limit.limit)
    if low > limit.tolerance:
        return Status.REGRESSED, f"at least {low:+.2%}, tolerated {tolerance}"
    if high < -limit.tolerance:
        return Status.IMPROVED, f"at most {high:+.2%}, a gain of more than {tolerance}"
    if high < limit.limit:
        return Status.OK, f"at most {high:+.2%}, limit {threshold}"
    between = f"between {low:+.2%} and {high:+.2%}"
    return Status.INCONCLUSIVE, f"{between}: neither surely above {tolerance} nor surely below {threshold}"


def relative_change(log_ratio: float) -> float:
    """The relative change of a difference of logarithms; capped where a float would overflow."""
    return math.expm1(min(log_ratio, 700.0))


def percent(fraction: float) -> str:
    """Of a change, in a reason."""
    return f"{fraction * 100:.3g}%"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
