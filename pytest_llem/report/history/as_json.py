"""All saved results as the block of JSON that a page's script reads, in as few characters as is reasonable.

Lists run in parallel: what is said of a result stands at the same place in each of its series' lists.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pytest_llem.report.history.data import QUANTITIES
from pytest_llem.report.history.plots import COLOURS, SHAPES_OF_SERIES
from pytest_llem.report.phrases import short_commit
from pytest_llem.verdict.decision import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_llem.report.history.changes import Moves
    from pytest_llem.report.history.data import ExperimentSeries, SavedResult, SavedSession, Series, Store

_LETTERS = {
    Status.OK.value: "O",
    Status.REGRESSED.value: "R",
    Status.IMPROVED.value: "B",
    Status.INCONCLUSIVE.value: "I",
    Status.NO_BASELINE.value: "N",
}
"""Of a verdict; in lower case where it was judged afterwards."""

_LONGEST_REASON = 300


class _Numbered:
    """Texts by number, each once."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __call__(self, text: str | None) -> int:
        return self.numbers.setdefault(text or "", len(self.numbers))


def page_json(
    store: Store,
    moves: Sequence[Moves],
    verdicts: Mapping[tuple[SavedResult, str], str],
    afterwards: Mapping[tuple[SavedResult, str], str],
) -> str:
    """The block, safe within a script element: nothing in it ends that, or begins a comment.

    Args:
        moves: of each experiment.
        verdicts: all; of which ``afterwards`` were not saved.
    """
    numbers = {session: number for number, session in enumerate(store.sessions)}
    commits, branches, boards, reasons = _Numbered(), _Numbered(), _Numbered(), _Numbered()
    letters = {
        key: _LETTERS[status].lower() if key in afterwards else _LETTERS[status]
        for key, status in verdicts.items()
        if status in _LETTERS
    }
    data = {
        "when": _steps(int(session.when.timestamp()) for session in store.sessions),
        "commit": [commits(short_commit(session.commit)) for session in store.sessions],
        "branch": [branches(session.branch) for session in store.sessions],
        "dirty": "".join("01"[session.dirty] for session in store.sessions),
        "experiments": [
            {
                "name": experiment.nodeid,
                "series": [
                    _series(experiment, series, moved, numbers, letters, boards, reasons)
                    for series in experiment.series
                ],
            }
            for experiment, moved in zip(store.experiments, moves, strict=True)
        ],
        "quantities": {
            key: {"name": kind.name, "unit": kind.unit, "like": kind.like} for key, kind in QUANTITIES.items()
        },
        "verdicts": {letter: status for status, letter in _LETTERS.items()},
        "shapes": SHAPES_OF_SERIES,
        "colours": COLOURS,
    }
    texts = {"commits": commits, "branches": branches, "boards": boards, "reasons": reasons}
    data |= {name: list(numbered.numbers) for name, numbered in texts.items()}
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _series(
    experiment: ExperimentSeries,
    series: Series,
    moves: Moves,
    numbers: Mapping[SavedSession, int],
    letters: Mapping[tuple[SavedResult, str], str],
    boards: _Numbered,
    reasons: _Numbered,
) -> dict[str, Any]:
    results = sorted((*series.valid, *series.invalid), key=lambda result: numbers[result.session])
    places = {result: place for place, result in enumerate(results)}
    known = [key for key in QUANTITIES if any(key in result.values for result in results)]
    verdicts = {metric: "".join(letters.get((one, metric), ".") for one in results) for metric in series.rows}
    return {
        "apart": experiment.apart[series],
        "board": boards(series.board),
        "session": _steps(numbers[result.session] for result in results),
        "state": "".join("x" if not one.row.valid else "a" if one.row.accepted else "v" for one in results),
        "why": {str(places[one]): reasons("; ".join(one.warnings)[:_LONGEST_REASON]) for one in series.invalid},
        "verdict": {metric: found for metric, found in verdicts.items() if found.strip(".")},
        "values": {key: [_rounded(one, key) for one in results] for key in known},
        "widths": {key: [_width(one, key) for one in results] for key in known},
        "levels": {
            key: [[places[one.results[0]], places[one.results[-1]], float(f"{one.mean:.5g}")] for one in levels]
            for key in known
            if (levels := moves.levels.get((series, key)))
        },
    }


def _steps(numbers: Iterable[int]) -> list[int]:
    """The first one, and from each to the next."""
    listed = list(numbers)
    return [number - before for before, number in zip([0, *listed], listed, strict=False)]


def _rounded(result: SavedResult, quantity: str) -> float | None:
    value = result.values.get(quantity)
    return None if value is None else float(f"{value.value:.5g}")


def _width(result: SavedResult, quantity: str) -> int | None:
    """The half-width in millionths of the value, to two digits; 0 where it is not known."""
    value = result.values.get(quantity)
    if value is None or value.half_width is None:
        return 0
    return int(float(f"{value.half_width / value.value * 1e6:.2g}"))
