"""The Pareto front of a sweep: which points are worth choosing between, in two quantities where less is better.

The estimates alone make the front that is drawn. A point is *dominated* only where one of the front is better in both
quantities by more than the uncertainty of their ratio (its 95% interval leaves out 1): what lies between may be on the
front as far as was measured. So a point without an interval dominates none and is dominated by none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llem.report.estimates import ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.report.estimates import Estimate

    Both = tuple[Estimate, Estimate]


def front(points: Sequence[Both]) -> list[int]:
    """Which points no other one equals or beats in both quantities by its estimates, by the first quantity."""
    order = sorted(range(len(points)), key=lambda at: (points[at][0].value, points[at][1].value))
    found: list[int] = []
    for at in order:
        if not found or points[at][1].value < points[found[-1]][1].value:
            found.append(at)
    return found


def dominators(points: Sequence[Both]) -> list[int | None]:
    """For each point the first one of the front that surely dominates it; ``None`` where none does."""
    best = front(points)
    return [
        next((at for at in best if all(_surely_worse(*both) for both in zip(point, points[at], strict=True))), None)
        for point in points
    ]


def _surely_worse(one: Estimate, other: Estimate) -> bool:
    found = ratio(one, other) if one.value > other.value else None
    return found is not None and found.interval is not None and found.interval[0] > 1
