"""One self-contained HTML page of all saved results: read as it is, or with its one script filtered and zoomed.

Without the script it has every table and a plot of each quantity, thinned out. The script draws the same from all
results, which lie in the page as one block of JSON.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from markupsafe import Markup

from pytest_llem.report.data import WORST_FIRST
from pytest_llem.report.history.as_json import page_json
from pytest_llem.report.history.changes import Event, Moves, events_of, moves_of
from pytest_llem.report.history.data import QUANTITIES
from pytest_llem.report.history.plots import LEGEND, history_plot, style_of
from pytest_llem.report.html import Script, render
from pytest_llem.report.plots import Layer
from pytest_llem.report.quantities import UNKNOWN, with_uncertainty
from pytest_llem.verdict.history import METRICS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_llem.report.history.data import ExperimentSeries, SavedResult, Series, Store
    from pytest_llem.report.plots import Plot
    from pytest_llem.verdict.decision import Status

    Verdicts = Mapping[tuple[SavedResult, str], str]

_MARKS_OF_ALL, _LEAST_MARKS, _MOST_MARKS = 12_000, 20, 200
"""Marks in the plots of a page without its script; of one plot."""

_EVENTS = 200
_INVALID = 10
_LEFT_OUT = 100
_SERIES = 16


@dataclass(frozen=True)
class ExperimentHistory:
    """What the page says about one experiment.

    Attributes:
        number: from 1.
        marks: at most so many in a plot.
    """

    number: int
    source: ExperimentSeries
    moves: Moves
    verdicts: Verdicts
    marks: int

    @property
    def shown_series(self) -> list[Series]:
        """Those that are listed: the ones with the newest results."""
        ended = {one: max(result.session.when for result in (*one.valid, *one.invalid)) for one in self.source.series}
        newest = sorted(ended, key=lambda series: ended[series])[-_SERIES:]
        return sorted(newest, key=lambda series: self.source.places[series])

    @property
    def legend(self) -> list[Layer]:
        """The marks of each of these."""
        return [
            Layer("points", style_of(self.source.places[series]), (), self.source.label(series))
            for series in self.shown_series
        ]

    @property
    def invalid(self) -> list[SavedResult]:
        """The newest first."""
        found = [result for series in self.source.series for result in series.invalid]
        return sorted(found, key=lambda result: result.session.when, reverse=True)

    @property
    def shown_invalid(self) -> list[SavedResult]:
        """Of :attr:`invalid` those that are listed."""
        return self.invalid[:_INVALID]

    def verdict(self, result: SavedResult) -> str:
        """All that were given on it, as text."""
        found = [f"{metric} {status}" for metric in METRICS if (status := self.verdicts.get((result, metric)))]
        return ", ".join(found) or UNKNOWN

    def plots(self) -> Iterator[tuple[str, Plot]]:
        """Of each quantity that is known."""
        for key in QUANTITIES:
            if any((series, key) in self.moves.levels for series in self.source.series):
                yield key, history_plot(self.source, self.moves, self.verdicts, key, self.marks)


@dataclass(frozen=True)
class HistoryPage:
    """The whole page.

    Attributes:
        created: when, as text.
        origin: where the results are saved.
        events: where levels moved, the newest first.
        verdicts: all, by result and metric.
        afterwards: those of them that were not saved.
        gates: by which these were judged, as text.
    """

    created: str
    origin: str
    store: Store
    experiments: Sequence[ExperimentHistory]
    events: Sequence[Event]
    verdicts: Verdicts
    afterwards: Verdicts
    gates: str

    @property
    def counts(self) -> Mapping[Status, int]:
        """Verdicts of each status."""
        counted = Counter(self.verdicts.values())
        return {status: counted[status.value] for status in WORST_FIRST if counted[status.value]}


def build_page(store: Store, afterwards: Verdicts, origin: str, gates: str = "") -> HistoryPage:
    """Put the page together.

    Args:
        afterwards: verdicts on results that were saved without one, see :mod:`pytest_llem.report.history.verdicts`.
        origin, gates: for people.
    """
    saved = {(result, metric): status for result in store.results for metric, status in result.verdicts.items()}
    verdicts = {**afterwards, **saved}
    moves = [moves_of(experiment) for experiment in store.experiments]
    plots = sum(len({quantity for _, quantity in moved.levels}) for moved in moves)
    marks = min(_MOST_MARKS, max(_LEAST_MARKS, _MARKS_OF_ALL // max(plots, 1)))
    return HistoryPage(
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        origin=origin,
        store=store,
        experiments=[
            ExperimentHistory(number, source, moved, verdicts, marks)
            for number, (source, moved) in enumerate(zip(store.experiments, moves, strict=True), 1)
        ],
        events=events_of([change for moved in moves for change in moved.changes]),
        verdicts=verdicts,
        afterwards=afterwards,
        gates=gates,
    )


def render_page(page: HistoryPage) -> str:
    """The page as the text of an HTML file."""
    moves = [experiment.moves for experiment in page.experiments]
    return render(
        "history.html.jinja",
        report=page,
        brief=True,
        quantities=QUANTITIES,
        numbers={experiment.source.nodeid: experiment.number for experiment in page.experiments},
        legend=LEGEND,
        moving=[key for key in QUANTITIES if any(key in changes for one in page.events for _, changes in one.moved)],
        shown_events=page.events[:_EVENTS],
        shown_left_out=page.store.left_out[:_LEFT_OUT],
        with_uncertainty=with_uncertainty,
        script=Script.of("history.js"),
        # Written here, and with nothing in it that would end the element.
        data=Markup(page_json(page.store, moves, page.verdicts, page.afterwards)),  # noqa: S704
    )
