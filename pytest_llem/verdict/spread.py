"""How much runs of unchanged code differ, by an experiment's saved runs and by the rest of its suite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_llem.distributions import digamma, f_tail, inverse_trigamma, trigamma

Run = Sequence[float]
"""The rounds of one run, each a value per call: seconds, joules or another quantity where lower is better."""

MIN_SAVED_RUNS = 3
"""Fewer saved runs do not show their own spread."""

MIN_SPREAD = 1e-4
"""No board repeats better than this from process to process; equal saved values come from a coarse sensor."""

_NOISY_VARIANCE_RATIO = 4.0
"""Rounds that scatter more than twice as much as the saved ones: a disturbed run, no longer chance."""

_NOISIER = 0.01
"""So rare among equals, runs that differ more than others of their experiment speak for themselves."""


@dataclass(frozen=True)
class Spread:
    """How much runs of unchanged code differ.

    Attributes:
        relative: standard deviation between runs as a fraction of their mean.
        degrees_of_freedom: how well that is known, above 0; of a pool: how much it says about one experiment.
    """

    relative: float
    degrees_of_freedom: float


@dataclass(frozen=True)
class RunSummary:
    """One run on the logarithmic scale, where a relative change is a difference.

    Attributes:
        log_mean: natural logarithm of the mean of the rounds.
        rounds: how many they are.
        variance: of the rounds, relative to the squared mean; 0 for a single round.
    """

    log_mean: float
    rounds: int
    variance: float


def summarize(runs: Sequence[Run]) -> list[RunSummary]:
    """The runs on the logarithmic scale, without those that lack rounds or hold any that is not positive."""
    summaries = []
    for run in runs:
        count = len(run)
        if count == 0 or not all(0 < value < math.inf for value in run):
            continue
        largest = max(run)
        shares = [value / largest for value in run]  # so that no sum overflows and no mean is rounded to zero
        mean = math.fsum(shares) / count
        variance = sample_variance(shares) / mean**2 if count > 1 else 0.0
        summaries.append(RunSummary(math.log(largest) + math.log(mean), count, variance))
    return summaries


def log_mean(runs: Sequence[RunSummary]) -> float:
    """The mean of the runs, each counted once, as a logarithm."""
    return math.fsum(run.log_mean for run in runs) / len(runs)


def pooled_spread(histories: Iterable[Sequence[Run]]) -> Spread | None:
    """The spread between runs that the experiments of a suite have in common.

    A short history hardly knows its own spread; the other experiments of the suite, or the history before a
    restart, know what is usual. How far one experiment may rely on that depends on how much the experiments
    differ from one another, which their variances show: the empirical Bayes estimate of Smyth (Statistical
    Applications in Genetics and Molecular Biology 3(1), 2004). Experiments that are all alike give the
    degrees of freedom of them all, unlike ones few.

    Args:
        histories: the saved runs of each experiment, one sequence for each stretch with a common mean.

    Returns:
        ``None`` when no experiment has two saved runs.
    """
    variances: list[tuple[float, int]] = []
    for history in histories:
        log_means = [run.log_mean for run in summarize(history)]
        if len(log_means) >= 2:
            variances.append((max(sample_variance(log_means), MIN_SPREAD**2), len(log_means) - 1))
    if not variances:
        return None
    total = sum(df for _, df in variances)
    common = math.fsum(variance * df for variance, df in variances) / total
    if len(variances) == 1:
        return Spread(math.sqrt(common), total)
    # A sample variance is the true one times chi-squared / df; these are its log's mean and variance removed.
    logs = [math.log(variance) - digamma(df / 2) + math.log(df / 2) for variance, df in variances]
    heterogeneity = sample_variance(logs) - math.fsum(trigamma(df / 2) for _, df in variances) / len(variances)
    if heterogeneity <= 0:
        return Spread(math.sqrt(common), total)
    half = inverse_trigamma(heterogeneity)
    typical = math.exp(math.fsum(logs) / len(logs) + digamma(half) - math.log(half))
    return Spread(math.sqrt(typical), min(2 * half, total))


def between_run_spread(
    saved: Sequence[RunSummary], pooled: Spread | None, elsewhere: Iterable[Sequence[RunSummary]] = ()
) -> Spread | None:
    """What the experiment's own runs and the pool together say; ``None`` when that is too little.

    Args:
        elsewhere: runs of the same experiment about other means, such as those on other boards. They do not count, nor
            does the pool, where the own runs differ more than by chance.
    """
    df: float = len(saved) - 1
    variance = sample_variance([run.log_mean for run in saved]) if df else 0.0
    stretches = [[run.log_mean for run in stretch] for stretch in elsewhere if len(stretch) > 1]
    if stretches:
        other_df = sum(len(stretch) - 1 for stretch in stretches)
        other = math.fsum(sample_variance(stretch) * (len(stretch) - 1) for stretch in stretches) / other_df
        if df and f_tail(variance / max(other, MIN_SPREAD**2), df, other_df) < _NOISIER:
            pooled = None
        else:
            variance = (df * variance + other_df * other) / (df + other_df)
            df += other_df
    if pooled is not None:
        pool_df = pooled.degrees_of_freedom
        variance = (df * variance + pool_df * pooled.relative**2) / (df + pool_df)
        # Not their sum: the experiment's own runs are commonly part of the pool and must not count twice.
        df = max(df, pool_df)
    if df < MIN_SAVED_RUNS - 1:
        return None
    # Even runs with nothing but their rounds' noise in them differ by the standard error of a mean of rounds.
    rounds_noise = math.fsum(run.variance / run.rounds for run in saved) / len(saved)
    return Spread(math.sqrt(max(variance, rounds_noise, MIN_SPREAD**2)), df)


def run_weights(new: Sequence[RunSummary], saved: Sequence[RunSummary], spread: float) -> list[float]:
    """How much each new run counts, 1 for one that is like the saved runs.

    The spread between saved runs holds the noise of a mean of their rounds. A new run of fewer or of noisier
    rounds has more of it, and counts by the inverse of its variance: a disturbed run cannot raise an alarm
    alone.
    """
    degrees = sum(run.rounds - 1 for run in saved)
    usual = math.fsum(run.variance * (run.rounds - 1) for run in saved) / degrees if degrees else 0.0
    in_spread = usual * math.fsum(1 / run.rounds for run in saved) / len(saved)
    weights = []
    for run in new:
        noisy = degrees and run.variance > _NOISY_VARIANCE_RATIO * usual
        excess = max(0.0, (run.variance if noisy else usual) / run.rounds - in_spread)
        weights.append(max(1 / (1 + excess / spread**2), 1e-9))
    return weights


def sample_variance(values: Sequence[float]) -> float:
    """Of two values or more."""
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
