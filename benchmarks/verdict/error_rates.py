"""How often each rule says "regressed", by the true change: a Markdown table from a seeded simulation.

Run from the repository root with ``python benchmarks/verdict/error_rates.py [EXPERIMENTS]``; it needs numpy
and scipy. The model of the noise: runs differ by 0.7%, the rounds of a run by 1% with an autocorrelation of
0.3, ten rounds a run, all normal. The rules that know one saved run are given the latest; the verdict is
given them all, and up to two more new runs where it asks for them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from pytest_llem.verdict.decision import MAX_RUNS, Spread, Status, judge, pooled_spread
from pytest_llem.verdict.limits import parse_limit

BETWEEN_RUNS, WITHIN_RUN, AUTOCORRELATION, ROUNDS = 0.007, 0.010, 0.3, 10
CHANGES = (0.0, 0.02, 0.025, 0.03, 0.05)
SAVED = (3, 5, 10, 20)
SUITE = 20
LIMIT = parse_limit("2.5%..5%")

Runs = Sequence[Sequence[float]]
Experiment = tuple[Runs, Runs]
"""The saved runs and the new ones."""

# scipy ships no types, and the package itself does without it.
stats: Any = importlib.import_module("scipy.stats")


def experiments(count: int, saved: int, change: float, seed: int) -> Iterator[Experiment]:
    """``count`` experiments with ``saved`` runs before the change and MAX_RUNS after it."""
    generator = np.random.default_rng([seed, saved, round(change * 1e4)])
    shape = (count, saved + MAX_RUNS, ROUNDS)
    noise = generator.normal(0, WITHIN_RUN, shape)
    for i in range(1, ROUNDS):
        fresh = np.sqrt(1 - AUTOCORRELATION**2) * noise[..., i]
        noise[..., i] = AUTOCORRELATION * noise[..., i - 1] + fresh
    values = 1 + generator.normal(0, BETWEEN_RUNS, (*shape[:2], 1)) + noise
    values[:, saved:] *= 1 + change
    for experiment in values.tolist():
        yield experiment[:saved], experiment[saved:]


def verdict_status(experiment: Experiment, pool: Spread | None = None) -> tuple[Status, int]:
    """The final verdict and the number of new runs it took."""
    history, new = experiment
    for count in range(1, MAX_RUNS + 1):
        verdict = judge(history, new[:count], LIMIT, pooled_spread=pool)
        if not verdict.needs_more_runs:
            break
    return verdict.status, count


def mean_above(threshold: float) -> Callable[[Experiment], bool]:
    def rule(experiment: Experiment) -> bool:
        history, new = experiment
        return bool(np.mean(new[0]) > (1 + threshold) * np.mean(history[-1]))

    return rule


def welch(experiment: Experiment) -> bool:
    history, new = experiment
    return bool(stats.ttest_ind(new[0], history[-1], equal_var=False, alternative="greater").pvalue < 0.05)


def mann_whitney(experiment: Experiment) -> bool:
    history, new = experiment
    return bool(stats.mannwhitneyu(new[0], history[-1], alternative="greater").pvalue < 0.05)


PLAIN_RULES: dict[str, Callable[[Experiment], bool]] = {
    "mean > 5%, one saved run": mean_above(0.05),
    "mean > 2%, one saved run": mean_above(0.02),
    "Welch's t test on rounds, 5%": welch,
    "Mann-Whitney on rounds, 5%": mann_whitney,
}


def percent(share: float) -> str:
    return f"{share:.2%}" if share < 0.01 else f"{share:.1%}"


def row(name: str, cells: Sequence[str]) -> str:
    return " | ".join([f"| {name}", *cells]) + " |"


def verdict_rows(count: int, saved: int, *, pooled: bool) -> tuple[str, str]:
    """The shares of REGRESSED; and of INCONCLUSIVE, with the mean number of new runs."""
    regressed, inconclusive = [], []
    for change in CHANGES:
        statuses: list[tuple[Status, int]] = []
        suite: list[Experiment] = []
        for experiment in experiments(count, saved, change, seed=1):
            suite.append(experiment)
            if len(suite) == SUITE:
                pool = pooled_spread(history for history, _ in suite) if pooled else None
                statuses.extend(verdict_status(member, pool) for member in suite)
                suite.clear()
        total = len(statuses)
        regressed.append(percent(sum(status is Status.REGRESSED for status, _ in statuses) / total))
        undecided = percent(sum(status is Status.INCONCLUSIVE for status, _ in statuses) / total)
        inconclusive.append(f"{undecided}, {sum(runs for _, runs in statuses) / total:.2f} runs")
    name = f"`{LIMIT}`, {saved} saved runs" + (f", spread pooled over {SUITE} experiments" if pooled else "")
    return row(name, regressed), row(name, inconclusive)


def main(count: int) -> None:
    header = [row("true change", [f"{change:.1%}" for change in CHANGES]), "|---" * (len(CHANGES) + 1) + "|"]
    regressed, inconclusive = list(header), list(header)
    for name, rule in PLAIN_RULES.items():
        shares = []
        for change in CHANGES:
            flags = [rule(experiment) for experiment in experiments(count, 1, change, seed=1)]
            shares.append(percent(sum(flags) / count))
        regressed.append(row(name, shares))
    for pooled in (False, True):
        for saved in SAVED:
            first, second = verdict_rows(count, saved, pooled=pooled)
            regressed.append(first)
            inconclusive.append(second)
    print(f"Share of REGRESSED ({count} simulated experiments a cell):\n", *regressed, sep="\n")
    print("\nShare of INCONCLUSIVE in the end, and the mean number of new runs:\n", *inconclusive, sep="\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4000)
