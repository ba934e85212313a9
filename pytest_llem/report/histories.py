"""The saved runs of one metric with this session's, the verdict's band, and where the level changed."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from pytest_llem.report.estimates import mean_half_width
from pytest_llem.verdict.change_points import ChangePoint, change_points
from pytest_llem.verdict.history import UNITS
from pytest_llem.verdict.spread import log_mean, summarize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.verdict.history import SavedRow
    from pytest_llem.verdict.judging import Judged
    from pytest_llem.verdict.spread import Run

_SEARCHED = 100
"""Newest runs that are searched for change points; the search takes time with their square."""


class Likeness(Enum):
    """Of a saved row to this session's."""

    COMPARABLE = auto()
    ANOTHER_BOARD = auto()
    OTHER = auto()


@dataclass(frozen=True)
class HistoryPoint:
    """One run.

    Attributes:
        mean: of its rounds, per call.
        half_width: of the 95% interval of that mean as its rounds show it; ``None`` for a single round.
        commit, when: of its session; ``None`` for this one, or where it was not saved.
        comparable: whether it is of the same work on the same machine as this session's.
        another_board: whether it is not for being of another board of the same model alone.
        accepted: whether its change was wanted.
        current: whether it is this session's.
    """

    mean: float
    half_width: float | None
    commit: str | None
    when: str | None
    comparable: bool
    another_board: bool
    valid: bool
    accepted: bool
    current: bool


@dataclass(frozen=True)
class Band:
    """What the verdict holds a new mean against, per call.

    Attributes:
        mean: of the saved runs, geometric.
        tolerated: a mean up to here is accepted.
        limit: one from here on must be caught.
    """

    mean: float
    tolerated: float
    limit: float


@dataclass(frozen=True)
class Shift:
    """A change point and the run where it began, as an index of :attr:`History.points`."""

    at: int
    point: ChangePoint


@dataclass(frozen=True)
class History:
    """One metric of one experiment over its runs, oldest first; this session's come last.

    Attributes:
        unit: the SI symbol of all values.
        omitted: older runs that are not shown.
        band: ``None`` where the metric is not gated or nothing was saved to compare with.
        shifts: change points among the saved runs that are shown, comparable and valid. This session's do not take
            part: what they are is the verdict's to say.
    """

    metric: str
    unit: str
    points: tuple[HistoryPoint, ...]
    omitted: int
    band: Band | None
    shifts: tuple[Shift, ...]


def history_of(
    metric: str,
    current: Sequence[Run],
    saved: Sequence[SavedRow],
    likeness: Sequence[Likeness],
    judged: Sequence[Judged],
    shown: int,
) -> History:
    """Put the history of one metric together.

    Args:
        current: this session's runs.
        likeness: of each of ``saved`` to this session's.
        judged: the verdicts on the experiment.
        shown: how many of the newest points are kept.
    """
    points = [
        _point(run, row, alike)
        for row, alike in zip(saved, likeness, strict=True)
        for run in row.runs
        if _plottable(run)
    ]
    points += [_point(run, None, Likeness.COMPARABLE) for run in current if _plottable(run)]
    verdict = next((found for found in judged if found.candidate.metric == metric), None)
    kept = points[-shown:]
    return History(
        metric=metric,
        unit=UNITS[metric],
        points=tuple(kept),
        omitted=len(points) - len(kept),
        band=_band(verdict),
        shifts=tuple(_shifts(points, len(points) - len(kept))),
    )


def _plottable(run: Run) -> bool:
    return bool(run) and all(0 < value < math.inf for value in run)


def _point(run: Run, row: SavedRow | None, likeness: Likeness) -> HistoryPoint:
    return HistoryPoint(
        mean=statistics.fmean(run),
        half_width=mean_half_width(run),
        commit=row.commit if row else None,
        when=row.when if row else None,
        comparable=likeness is Likeness.COMPARABLE,
        another_board=likeness is Likeness.ANOTHER_BOARD,
        valid=row.valid if row else True,
        accepted=row.accepted if row else False,
        current=row is None,
    )


def _band(judged: Judged | None) -> Band | None:
    if judged is None:
        return None
    saved = summarize([run for row in judged.baseline.rows for run in row.runs])
    if not saved:
        return None
    mean, limit = math.exp(log_mean(saved)), judged.verdict.limit
    return Band(mean, mean * (1 + limit.tolerance), mean * (1 + limit.limit))


def _shifts(points: Sequence[HistoryPoint], omitted: int) -> list[Shift]:
    alike = [at for at, point in enumerate(points) if point.comparable and point.valid and not point.current]
    alike = alike[-_SEARCHED:]
    found = change_points([points[number].mean for number in alike])
    return [Shift(alike[change.index] - omitted, change) for change in found if alike[change.index] >= omitted]
