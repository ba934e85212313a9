"""The Pareto front of a sweep: which points are worth choosing between, in two quantities where less is better.

The estimates alone make the front that is drawn. A point is *dominated* only where another one is better in both
quantities by more than the uncertainty of their ratio (its 95% interval leaves out 1): what lies between may be on the
front as far as was measured. So a point without an interval dominates none and is dominated by none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_llem.report.estimates import surely_more

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.report.estimates import Estimate

    Both = tuple[Estimate, Estimate]


@dataclass(frozen=True)
class Behind:
    """Why a point is not on the front.

    Attributes:
        other: a point that equals or beats it in both quantities by the estimates; where there are several, the one of
            which most is sure, those of the front first.
        sure: of each quantity whether that one is better by more than the uncertainty.
    """

    other: int
    sure: tuple[bool, bool]


def front(points: Sequence[Both]) -> list[int]:
    """Which points no other one equals or beats in both quantities by its estimates, by the first quantity."""
    order = sorted(range(len(points)), key=lambda at: (points[at][0].value, points[at][1].value))
    found: list[int] = []
    for at in order:
        if not found or points[at][1].value < points[found[-1]][1].value:
            found.append(at)
    return found


def behind(points: Sequence[Both]) -> list[Behind | None]:
    """For each point why it is not on the front; ``None`` where it is."""
    best = dict.fromkeys(front(points))
    # A point of the front may be less sure than one that it beats.
    order = list(best | dict.fromkeys(range(len(points))))
    return [None if at in best else _behind(at, order, points) for at in range(len(points))]


def _behind(at: int, order: Sequence[int], points: Sequence[Both]) -> Behind | None:
    (first, second), found = points[at], None
    for other in order:
        if other == at or points[other][0].value > first.value or points[other][1].value > second.value:
            continue
        sure = (surely_more(first, points[other][0]), surely_more(second, points[other][1]))
        if found is None or sum(sure) > sum(found.sure):
            found = Behind(other, sure)
        if all(sure):
            break
    return found
