"""What saved runs of several boards of one model decide: Markdown tables from a seeded simulation.

Run from the repository root with ``PYTHONPATH=. python benchmarks/verdict/pools.py [EXPERIMENTS]``; it needs numpy. The
model of the noise: the energy that boards take for the same work differs by 4%, that of the runs of a board by 0.7%,
all normal. The limit is 2.5%..5%.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import numpy as np

from pytest_llem.verdict import pools
from pytest_llem.verdict.decision import MAX_RUNS, Status
from pytest_llem.verdict.history import SavedRow
from pytest_llem.verdict.judging import Candidate, ErrorRates, Judged, judge_candidates
from pytest_llem.verdict.limits import parse_limit

BETWEEN_BOARDS, BETWEEN_RUNS = 0.04, 0.007
CHANGES = (0.0, 0.02, 0.025, 0.03, 0.05)
LIMIT = parse_limit("2.5%..5%")
SUITE = 60

# The board that is judged has the number 0.
Runs = Sequence[tuple[int, float]]
"""Of each run the number of its board and the logarithm of its mean, oldest first."""


def saved_row(board: int, values: Sequence[float]) -> SavedRow:
    """A row with these runs."""
    environment = {"boards": [{"uuid": f"GPU-{board}", "name": "simulated", "driver_version": "580.1"}]}
    runs = tuple((float(np.exp(value)),) for value in values)
    return SavedRow("a", "energy", runs, "workload", f"board {board}", environment)


def measured(boards: Sequence[int], generator: np.random.Generator, own_spread: float = BETWEEN_RUNS) -> list[float]:
    """A run on each of these boards, those of board 0 with a spread of their own."""
    gains = generator.normal(0, BETWEEN_BOARDS, max(boards) + 1)
    return [gains[board] + generator.normal(0, BETWEEN_RUNS if board else own_spread) for board in boards]


def judged(saved: Runs, new: Sequence[float]) -> Judged:
    history = {("a", "energy"): [saved_row(board, [value]) for board, value in saved]}
    candidate = Candidate("a", "a", "energy", LIMIT, saved_row(0, new))
    return judge_candidates([candidate], history, rates=ErrorRates(), last=20)[0]


def among(own: int, boards: int, each: int) -> list[int]:
    """Runs on other boards, then those on board 0, which other runs so lie between."""
    return [*range(1, boards + 1)] * each + [0] * own


LAYOUTS: dict[str, tuple[list[int], float]] = {
    "3 runs of the board alone": (among(3, 0, 0), BETWEEN_RUNS),
    "3 runs, 10 other boards with 3 each": (among(3, 10, 3), BETWEEN_RUNS),
    "3 runs, 15 other boards with 2 each": (among(3, 15, 2), BETWEEN_RUNS),
    "1 run, 10 other boards with 3 each": (among(1, 10, 3), BETWEEN_RUNS),
    "10 runs, 10 other boards with 3 each": (among(10, 10, 3), BETWEEN_RUNS),
    "3 runs that differ by 1.4%, 10 other boards with 3 each": (among(3, 10, 3), 2 * BETWEEN_RUNS),
    "10 runs that differ by 1.4%, 10 other boards with 3 each": (among(10, 10, 3), 2 * BETWEEN_RUNS),
    "no run, 10 other boards with 3 each": (among(0, 10, 3), BETWEEN_RUNS),
}
"""The boards of the saved runs, and the spread of board 0."""


def verdict_cells(count: int, boards: Sequence[int], own_spread: float, change: float) -> tuple[str, str]:
    """The shares of REGRESSED with one new run and in the end; and of OK in the end."""
    generator = np.random.default_rng([1, round(change * 1e4)])
    first, statuses = 0, []
    for _ in range(count):
        values = measured([*boards, *[0] * MAX_RUNS], generator, own_spread)
        saved = list(zip(boards, values, strict=False))
        new = [value + float(np.log1p(change)) for value in values[len(boards) :]]
        for runs in range(1, MAX_RUNS + 1):
            verdict = judged(saved, new[:runs]).verdict
            first += runs == 1 and verdict.status is Status.REGRESSED
            if not verdict.needs_more_runs:
                break
        statuses.append(verdict.status)
    regressed, fine = (statuses.count(status) / count for status in (Status.REGRESSED, Status.OK))
    return f"{percent(first / count)}, {percent(regressed)}", percent(fine)


def unseen_cell(count: int, boards: int, change: float) -> str:
    """How often the interval of a board without a saved run does not hold 0, and its mean half-width."""
    generator = np.random.default_rng([2, boards, round(change * 1e4)])
    outside, widths = 0, []
    for _ in range(count):
        values = np.array(measured(range(boards + 1), generator))
        others = [[[value]] for value in np.exp(values[1:]).tolist()]
        found = pools.deviation([[float(np.exp(values[0])) * (1 + change)]], others, 0.05)
        assert found is not None
        outside += not found.interval[0] <= 0 <= found.interval[1]
        widths.append((found.interval[1] - found.interval[0]) / 2)
    return f"{percent(outside / count)}, ±{float(np.median(widths)):.0%}"


def suite_cell(count: int, others: int, in_common: float) -> str:
    """How many of a suite's experiments say that board 0 stands out, which it does not; and how often any does.

    Args:
        in_common: the part of a board's variance that it has in all experiments.
    """
    generator = np.random.default_rng([3, others, round(in_common * 100)])
    boards = among(3, others, 3)
    remarks = []
    for _ in range(count):
        gains = BETWEEN_BOARDS * np.sqrt(in_common) * generator.normal(size=others + 1)
        own = generator.normal(0, BETWEEN_BOARDS * np.sqrt(1 - in_common), (SUITE, others + 1))
        values = (gains + own)[:, boards] + generator.normal(0, BETWEEN_RUNS, (SUITE, len(boards)))
        remarks.append(sum(bool(said(list(zip(boards, row, strict=True)))) for row in values.tolist()))
    return f"{np.mean(remarks):.3f}, {percent(np.count_nonzero(remarks) / count)}"


def said(runs: Runs) -> tuple[str, ...]:
    pool = [saved_row(board, [value]) for board, value in runs]
    own = [row for row, (board, _) in zip(pool, runs, strict=True) if board == 0]
    return pools.remarks(own, pool, LIMIT.tolerance)


def stands_out_cell(count: int, others: int, between: float, deviation: float) -> str:
    """How often a board is said to stand out that is so far from the mean of the model."""
    generator = np.random.default_rng([4, others, round(between * 1e3), round(deviation * 1e3)])
    boards = among(3, others, 3)
    found = 0
    for _ in range(count):
        gains = generator.normal(0, between, others + 1)
        gains[0] = np.log1p(deviation)
        values = gains[boards] + generator.normal(0, BETWEEN_RUNS, len(boards))
        found += any("stands out" in remark for remark in said(list(zip(boards, values.tolist(), strict=True))))
    return percent(found / count)


# How far the energy of board 0 and of the others moved, by the part of the time that is over.
Course = Callable[[np.ndarray], np.ndarray]
COURSES: dict[str, tuple[Course, Course]] = {
    "nothing moves": (np.zeros_like, np.zeros_like),
    "the board by 2.5%, evenly": (lambda part: 0.025 * part, np.zeros_like),
    "the board by 5%, evenly": (lambda part: 0.05 * part, np.zeros_like),
    "the board by 8%, evenly": (lambda part: 0.08 * part, np.zeros_like),
    "all boards by 5%, evenly": (lambda part: 0.05 * part, lambda part: 0.05 * part),
    "all boards by 6% at a commit in the middle": (lambda part: 0.06 * (part > 0.5), lambda part: 0.06 * (part > 0.5)),
}


def ages_cell(count: int, own: int, courses: tuple[Course, Course]) -> str:
    """How often a board is said to age, whose runs lie at random among 30 of 10 others."""
    generator = np.random.default_rng([5, own])
    found = 0
    for _ in range(count):
        boards = generator.permutation(among(own, 10, 3))
        part = np.linspace(0, 1, len(boards))
        moved = np.where(boards == 0, courses[0](part), courses[1](part))
        values = np.array(measured(boards.tolist(), generator)) + np.log1p(moved)
        runs = list(zip(boards.tolist(), values.tolist(), strict=True))
        found += any("ages" in remark for remark in said(runs))
    return percent(found / count)


def percent(share: float) -> str:
    return f"{share:.2%}" if share < 0.01 else f"{share:.1%}"


def table(corner: str, columns: Sequence[str], rows: dict[str, list[str]]) -> None:
    print(f"| {' | '.join([corner, *columns])} |", "|---" * (len(columns) + 1) + "|", sep="\n")
    for name, cells in rows.items():
        print(f"| {' | '.join([name, *cells])} |")


def main(count: int) -> None:
    changes = [f"{change:.1%}" for change in CHANGES]
    cells = {name: [verdict_cells(count, *layout, change) for change in CHANGES] for name, layout in LAYOUTS.items()}
    print(f"Share of REGRESSED with one new run, and with up to {MAX_RUNS} ({count} simulated experiments a cell):\n")
    table("true change", changes, {name: [regressed for regressed, _ in row] for name, row in cells.items()})
    print("\nShare of OK in the end:\n")
    table("true change", changes, {name: [fine for _, fine in row] for name, row in cells.items()})
    print("\nA board without a saved run: share of 95% intervals that do not hold 0, and their median half-width:\n")
    unseen = {f"{boards} other boards": [unseen_cell(count, boards, c) for c in CHANGES] for boards in (3, 5, 10, 30)}
    table("true change", changes, unseen)
    sessions = max(count // 10, 1)
    others = (4, 9, 19)
    print(
        f"\nFalse remarks that a board stands out, in a suite of {SUITE} experiments: their mean number, and the share"
    )
    print(f"of suites with any ({sessions} suites a cell):\n")
    parts = {f"{part:.0%} of the variance between boards in common": part for part in (0.0, 0.5, 0.9)}
    suites = {name: [suite_cell(sessions, number, part) for number in others] for name, part in parts.items()}
    table("other boards", [str(number) for number in others], suites)
    print("\nShare of boards said to stand out:\n")
    apart = {
        f"boards differ by {between:.0%}, this one is off by {off:.0%}": [
            stands_out_cell(count, number, between, off) for number in others
        ]
        for between, off in ((0.04, 0.1), (0.04, 0.2), (0.04, 0.3), (0.01, 0.05), (0.01, 0.1))
    }
    table("other boards", [str(number) for number in others], apart)
    print("\nShare of boards said to age:\n")
    numbers = (8, 12, 20)
    ages = {name: [ages_cell(count, number, courses) for number in numbers] for name, courses in COURSES.items()}
    table("saved runs of the board", [str(number) for number in numbers], ages)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
