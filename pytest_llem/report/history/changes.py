"""Where the level of saved results moved, and what else changed there.

Within a series, whose results can be compared, :mod:`pytest_llem.verdict.change_points` finds where: the code, or what
is no part of what makes results comparable. Where a series begins because its environment is another one, its first
level is held against the last one before, if both were measured in the same way.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_llem.report.history.data import QUANTITIES, changed
from pytest_llem.verdict.change_points import DEFAULT_ALPHA, MIN_STRETCH, shift, stretches

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from pytest_llem.report.history.data import ExperimentSeries, SavedResult, SavedSession, Series


@dataclass(frozen=True)
class Level:
    """Results of one series about one mean, oldest first, without outliers."""

    results: Sequence[SavedResult]
    quantity: str

    @property
    def values(self) -> list[float]:
        """Of its results."""
        return [result.values[self.quantity].value for result in self.results]

    @property
    def mean(self) -> float:
        """Geometric."""
        return math.exp(math.fsum(map(math.log, self.values)) / len(self.results))


@dataclass(frozen=True)
class Change:
    """One quantity of one experiment moved.

    Attributes:
        before, after: the last result at the old level and the first one at the new level.
        series: of ``after``.
        change: relative; positive for worse.
        interval: lowest and highest plausible change, 95%.
    """

    experiment: ExperimentSeries
    series: Series
    quantity: str
    before: SavedResult
    after: SavedResult
    change: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Event:
    """Changes between the same two sessions, with the same differences beside the commit.

    Attributes:
        differences: what else changed, such as ``torch 2.6.0 → 2.7.0``.
    """

    before: SavedResult
    after: SavedResult
    differences: Sequence[str]
    changes: Sequence[Change]

    @property
    def moved(self) -> list[tuple[Change, dict[str, Change]]]:
        """The changes of each series, by quantity, and any of them."""
        found: dict[Series, dict[str, Change]] = {}
        for change in self.changes:
            found.setdefault(change.series, {})[change.quantity] = change
        return [(next(iter(changes.values())), changes) for changes in found.values()]


@dataclass(frozen=True)
class Moves:
    """How an experiment moved.

    Attributes:
        levels: by series and quantity.
        changes: of all its series.
        beginnings: of each series but the first, the newest result of another one before it, and what changed since.
    """

    levels: Mapping[tuple[Series, str], Sequence[Level]]
    changes: Sequence[Change]
    beginnings: Mapping[Series, tuple[SavedResult, Sequence[str]]]


def moves_of(experiment: ExperimentSeries) -> Moves:
    """Find the levels of an experiment and what lies between them."""
    levels = {
        (series, quantity): found
        for series in experiment.series
        for quantity in QUANTITIES
        if (found := _levels(series, quantity))
    }
    changes = [
        _between(experiment, series, before, after)
        for (series, quantity), found in levels.items()
        if not QUANTITIES[quantity].like
        for before, after in itertools.pairwise(found)
    ]
    beginnings = {}
    for series, (result, other) in _previous(experiment).items():
        beginnings[series] = (result, changed(result, series.valid[0]))
        if result.row.workload_hash != series.first.row.workload_hash:
            continue
        for quantity, kind in QUANTITIES.items():
            then, now = levels.get((other, quantity)), levels.get((series, quantity))
            if then is None or now is None or kind.like or not _measured_alike(series, other, quantity):
                continue
            # The level that held when this series began, which may go on after that.
            before = next((one for one in reversed(then) if one.results[0].session.when <= _began(series)), None)
            if before is None or min(len(before.results), len(now[0].results)) < MIN_STRETCH:
                continue
            low, high = shift(before.values, now[0].values, error=DEFAULT_ALPHA)[1]
            if not low <= 0 <= high:
                changes.append(_between(experiment, series, before, now[0]))
    return Moves(levels, changes, beginnings)


def events_of(changes: Sequence[Change]) -> list[Event]:
    """Put changes together that have the same reason, the newest first."""
    found: dict[tuple[SavedSession, SavedSession, tuple[str, ...]], list[Change]] = {}
    for change in changes:
        differences = tuple(changed(change.before, change.after))
        found.setdefault((change.before.session, change.after.session, differences), []).append(change)
    events = [
        Event(alike[0].before, alike[0].after, differences, alike) for (_, _, differences), alike in found.items()
    ]
    return sorted(events, key=lambda event: event.after.session.when, reverse=True)


def _levels(series: Series, quantity: str) -> list[Level]:
    known = [result for result in series.valid if quantity in result.values]
    if not known:
        return []
    # What is proportional to another quantity moves with it.
    like = QUANTITIES[quantity].like or quantity
    known = [result for result in known if like in result.values]
    found = stretches([result.values[like].value for result in known])
    return [Level([known[index] for index in stretch], quantity) for stretch in found if stretch]


def _previous(experiment: ExperimentSeries) -> dict[Series, tuple[SavedResult, Series]]:
    """The newest valid result before each series began and its series, of the same boards where there is one."""
    results = [(result, series) for series in experiment.series for result in series.valid]
    results.sort(key=lambda pair: pair[0].session.when)
    found: dict[Series, tuple[SavedResult, Series]] = {}
    newest: dict[str, tuple[SavedResult, Series]] = {}
    last = None
    for result, series in results:
        if result is series.valid[0] and last is not None:
            found[series] = newest.get(series.board, last)
        last = newest[series.board] = (result, series)
    return found


def _measured_alike(series: Series, other: Series, metric: str) -> bool:
    """Whether values of a metric can be held against each other at all."""
    return _way(series, metric) == _way(other, metric)


def _way(series: Series, metric: str) -> list[object]:
    row = series.rows[metric]
    meters = [series.first.estimated, *map(row.environment.get, ("meter", "host_sensor"))]
    return [row.boundaries, *(meters if QUANTITIES[metric].unit == "J" else ())]


def _began(series: Series) -> datetime:
    return series.valid[0].session.when


def _between(experiment: ExperimentSeries, series: Series, before: Level, after: Level) -> Change:
    change, interval = shift(before.values, after.values)
    first = after.results[0]
    # Those of another board may go on meanwhile.
    last = next(one for one in reversed(before.results) if one.session.when <= first.session.when)
    return Change(experiment, series, before.quantity, last, first, change, interval)
