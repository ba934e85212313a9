"""The plot of one quantity of an experiment over all saved results, thinned out, for the page without its script."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pytest_llem.report.history.data import QUANTITIES
from pytest_llem.report.plots import Layer, Plot
from pytest_llem.report.scales import Axis
from pytest_llem.verdict.decision import Status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_llem.report.history.changes import Moves
    from pytest_llem.report.history.data import ExperimentSeries, SavedResult

SHAPES_OF_SERIES = ("circle", "estimated", "apart", "board")
COLOURS = 6
_TICKS = 4
_DAY_S = 86_400.0

_MARKED = {Status.REGRESSED.value: "regressed now", Status.IMPROVED.value: "better improved"}

LEGEND = (
    Layer("points", "s4 circle dirty", (), "uncommitted changes"),
    Layer("points", "regressed now", (), "REGRESSED"),
    Layer("points", "better improved", (), "IMPROVED"),
    Layer("points", "wanted accepted", (), "accepted change"),
    Layer("points", "invalid", (), "invalid, at the bottom whatever its value"),
    Layer("segments", "level s4", (), "level"),
    Layer("segments", "shift", (), "level moved"),
)
"""What plots of all experiments have in common."""


def style_of(number: int) -> str:
    """The colour and the shape of a series, by its place among those of its experiment."""
    return f"s{number % COLOURS} {SHAPES_OF_SERIES[number % len(SHAPES_OF_SERIES)]}"


def history_plot(
    experiment: ExperimentSeries,
    moves: Moves,
    verdicts: Mapping[tuple[SavedResult, str], str],
    quantity: str,
    marks: int,
) -> Plot:
    """Results with the levels that they have, and where these moved.

    Args:
        marks: at most about so many results.
    """
    kind = QUANTITIES[quantity]
    shown = [series for series in experiment.series if (series, quantity) in moves.levels]
    known = [result for series in shown for result in series.valid if quantity in result.values]
    known.sort(key=_when)
    step = -(-len(known) // marks)
    # The newest one always.
    drawn = known[(len(known) - 1) % step :: step]
    kept = set(drawn)
    layers: list[Layer] = []
    for series in shown:
        place = experiment.places[series]
        levels = [level for level in moves.levels[series, quantity] if len(level.results) > 1]
        ends = [(_when(level.results[at]), level.mean) for level in levels for at in (0, -1)]
        layers.append(Layer("segments", f"level s{place % COLOURS}", ends))
        for dirty, suffix in ((False, ""), (True, " dirty")):
            alike = [one for one in series.valid if one in kept and one.session.dirty is dirty]
            layers.append(Layer("points", style_of(place) + suffix, [_point(one, quantity) for one in alike]))
    values = [result.values[quantity].value for result in drawn]
    low, high = min(values), max(values)
    moved = [
        (_when(after.results[0]), value)
        for series in shown
        for _, after in itertools.pairwise(moves.levels[series, quantity])
        for value in (low, high)
    ]
    layers.append(Layer("segments", "shift", moved))
    for status, style in _MARKED.items():
        judged = [result for result in drawn if verdicts.get((result, kind.like or quantity)) == status]
        layers.append(Layer("points", style, [_point(result, quantity) for result in judged]))
    accepted = [_point(result, quantity) for result in drawn if result.row.accepted]
    layers.append(Layer("points", "wanted accepted", accepted))
    invalid = [result for series in shown for result in series.invalid]
    at_the_bottom = [
        (_when(result), low - (high - low or low) * 0.05) for result in invalid[:: len(invalid) // marks + 1]
    ]
    layers.append(Layer("points", "invalid", at_the_bottom))
    thinned = [f"Every {_ordinal(step)} of {len(known)} results."] * (step > 1)
    name = kind.name.capitalize()
    return Plot(
        name if kind.like else f"{name} of a call",
        f"{len(known)} valid results in {len(shown)} series. The tables hold the newest values and where levels moved.",
        layers,
        Axis("date", ticks=_dates([_when(result) for result in (*drawn, *invalid)])),
        Axis(kind.name, kind.unit),
        thinned,
    )


def _when(result: SavedResult) -> float:
    return result.session.when.timestamp()


def _point(result: SavedResult, quantity: str) -> tuple[float, float]:
    return _when(result), result.values[quantity].value


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")


def _dates(times_s: Sequence[float]) -> list[tuple[float, str]]:
    """A few dates, and times where all are of a few days."""
    first, last = min(times_s), max(times_s)
    form = "%Y-%m-%d" if last - first > _TICKS * _DAY_S else "%m-%d %H:%M"
    # Within the ends, where their texts have room.
    ticks = [first + (last - first) * (number + 0.5) / _TICKS for number in range(_TICKS)]
    return [(at, f"{datetime.fromtimestamp(at, UTC):{form}}") for at in dict.fromkeys(ticks)]
