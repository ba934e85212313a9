"""Verdicts by pairs of processes, by the true change: Markdown tables from a seeded simulation.

Run from the repository root with ``python benchmarks/verdict/pairs.py [EXPERIMENTS]``; it needs numpy. The model: the
gain of a session's board is off by up to 10%; it drifts by 5% over the session; processes differ by 0.7% or 2%; windows
scatter by 1% with an autocorrelation of 0.3 in each process; all normal. A pair takes 30 s to start, then 16 windows of
1 s in ABBA blocks, whose first side is drawn. The peers' rule gets one process of each side, 8 windows each.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pytest_llem.verdict.bisection import Bisection
from pytest_llem.verdict.decision import Status, Verdict
from pytest_llem.verdict.limits import parse_limit
from pytest_llem.verdict.pairs import MAX_PAIRS, judge_pairs, pair_difference

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED = 20261126
LIMIT = parse_limit("2.5%..5%")
GAIN, DRIFT, WITHIN_PROCESS, AUTOCORRELATION = 0.10, 0.05, 0.010, 0.3
BLOCKS, START_S = 4, 30
WINDOWS = 2 * BLOCKS
SPREADS = (0.007, 0.02)
DRIFTS = ("none", "random walk", "step", "line")
CHANGES = (0.0, 0.025, 0.05, -0.05)
COMMITS, MOST_PROBES = 16, 100

Values = NDArray[np.float64]
Pairs = list[tuple[list[float], list[float]]]


class Session:
    """Pairs of one session on one board, each with new processes, as its clock goes on."""

    def __init__(self, generator: np.random.Generator, spread: float, drift: str) -> None:
        self._generator = generator
        self._spread = spread
        self._gain = 1 + generator.uniform(-GAIN, GAIN)
        seconds = MAX_PAIRS * (START_S + 2 * WINDOWS)
        time = np.arange(seconds) / seconds
        self._drift = {
            "none": np.zeros(seconds),
            "random walk": np.cumsum(generator.normal(0, DRIFT / math.sqrt(seconds), seconds)),
            "step": DRIFT * (time > generator.uniform()),
            "line": DRIFT * time,
        }[drift] * generator.choice((-1, 1))
        self._now = 0

    def pair(self, change: float, *, interleaved: bool = True) -> tuple[list[float], list[float]]:
        """Windows of a process with the change and of one without; not interleaved, the one without comes first."""
        first = bool(self._generator.integers(2))
        turns = [first, not first, not first, first] * BLOCKS if interleaved else [False] * WINDOWS + [True] * WINDOWS
        at = (self._now + START_S) % len(self._drift) + np.arange(2 * WINDOWS)
        if not interleaved:
            at[WINDOWS:] += START_S
        self._now = int(at[-1]) + 1
        gain = self._gain * np.exp(self._drift[at])
        is_this = np.array(turns)
        this, other = self._process(change), self._process(0.0)
        return (this * gain[is_this]).tolist(), (other * gain[~is_this]).tolist()

    def _process(self, change: float) -> Values:
        noise = self._generator.normal(0, WITHIN_PROCESS, WINDOWS)
        for i in range(1, WINDOWS):
            noise[i] = AUTOCORRELATION * noise[i - 1] + math.sqrt(1 - AUTOCORRELATION**2) * noise[i]
        return (1 + change) * np.exp(self._generator.normal(0, self._spread) + noise)


def sessions(count: int, spread: float, drift: str, change: float) -> Iterator[Session]:
    generator = np.random.default_rng([SEED, round(spread * 1e4), DRIFTS.index(drift), round((change + 1) * 1e4)])
    for _ in range(count):
        yield Session(generator, spread, drift)


def judged(session: Session, change: float) -> tuple[Verdict, Pairs]:
    """The verdict in the end, and the pairs that it took."""
    pairs: Pairs = []
    while True:
        pairs.append(session.pair(change))
        verdict = judge_pairs(pairs, LIMIT)
        if not verdict.needs_more_runs:
            return verdict, pairs


def plain_rule(here: tuple[list[float], list[float]], there: tuple[list[float], list[float]]) -> tuple[bool, bool]:
    """Mean above 5%: against the process before it on this board, and against that of another session."""
    new = np.mean(here[0])
    return bool(new > 1.05 * np.mean(here[1])), bool(new > 1.05 * np.mean(there[1]))


def bisected(session: Session, change: float, culprit: int) -> tuple[int, bool | None] | None:
    """Probes, and whether the commit found was the right one (None: none found); None where no change was seen."""
    verdict, pairs = judged(session, change)
    if verdict.status not in (Status.REGRESSED, Status.IMPROVED):
        return None
    bisection = Bisection(COMMITS, [difference(pair) for pair in pairs])
    for probes in range(MOST_PROBES):
        if (found := bisection.found()) is not None:
            return probes, found == culprit
        commit = bisection.next_probe()
        if commit is None:
            return probes, None
        bisection.update(commit, difference(session.pair(change if culprit <= commit else 0.0)))
    return MOST_PROBES, None


def difference(pair: tuple[list[float], list[float]]) -> float:
    found = pair_difference(*pair)
    assert found is not None
    return found


def percent(share: float) -> str:
    return f"{share:.2%}" if share < 0.01 else f"{share:.1%}"


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def verdict_table(count: int) -> Iterator[str]:
    titles = ("flagged at 0%", "REGRESSED at 2.5%", "at 5%", "OK at 5%", "IMPROVED at -5%", "pairs at 0, 2.5, 5, -5%")
    yield row("processes differ by", "drift of 5%", *titles)
    yield "|---|---|" + "---:|" * len(titles)
    for spread in SPREADS:
        for drift in DRIFTS:
            statuses, pairs = {}, []
            for change in CHANGES:
                found = [judged(session, change) for session in sessions(count, spread, drift, change)]
                statuses[change] = [verdict.status for verdict, _ in found]
                pairs.append(f"{sum(len(pairs) for _, pairs in found) / count:.1f}")
            flagged = sum(status in (Status.REGRESSED, Status.IMPROVED) for status in statuses[0.0])
            wanted = ((0.025, Status.REGRESSED), (0.05, Status.REGRESSED), (0.05, Status.OK), (-0.05, Status.IMPROVED))
            shares = [percent(each / count) for each in (flagged, *(statuses[c].count(status) for c, status in wanted))]
            yield row(f"{spread:.1%}", drift, *shares, ", ".join(pairs))


def plain_table(count: int) -> Iterator[str]:
    yield row(
        "processes differ by", "drift of 5%", "one after the other, at 0, 2.5, 5%", "another session, at 0, 2.5, 5%"
    )
    yield "|---|---|---:|---:|"
    for spread in SPREADS:
        for drift in DRIFTS:
            shares: tuple[list[str], list[str]] = ([], [])
            for change in CHANGES[:3]:
                new = [session.pair(change, interleaved=False) for session in sessions(count, spread, drift, change)]
                # Its own neighbour is another board at another time.
                flags = [plain_rule(here, there) for here, there in zip(new, new[1:] + new[:1], strict=True)]
                for i in (0, 1):
                    shares[i].append(percent(sum(flag[i] for flag in flags) / count))
            yield row(f"{spread:.1%}", drift, *map(", ".join, shares))


def bisection_table(count: int) -> Iterator[str]:
    yield row(
        "processes differ by", "true change", "mean probes, one pair each", "90% need at most", "wrong", "not found"
    )
    yield "|---|---:|---:|---:|---:|---:|"
    for spread in SPREADS:
        for change in (0.05, -0.05, 0.20):
            culprits = np.random.default_rng(SEED).integers(COMMITS, size=count)
            simulated = zip(sessions(count, spread, "random walk", change), culprits.tolist(), strict=True)
            found = [one for session, culprit in simulated if (one := bisected(session, change, culprit))]
            probes = np.array([one[0] for one in found])
            wrong, unfound = (sum(one[1] is which for one in found) / len(found) for which in (False, None))
            shares = (percent(wrong), percent(unfound))
            yield row(
                f"{spread:.1%}", f"{change:+.0%}", f"{probes.mean():.1f}", f"{np.quantile(probes, 0.9):.0f}", *shares
            )


def main(count: int) -> None:
    print(f"Verdicts by pairs, `{LIMIT}` ({count} simulated sessions a row, seed {SEED}):\n")
    print(*verdict_table(count), sep="\n", flush=True)
    print(f"\nShare that the rule `mean > 5%` calls a regression ({count} a row):\n")
    print(*plain_table(count), sep="\n", flush=True)
    print(f"\nBisection of {COMMITS} commits, until one has 95% ({count // 4} a row, drift a random walk):\n")
    print(*bisection_table(count // 4), sep="\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
