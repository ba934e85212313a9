"""Power of an experiment's windows: as the boards' drivers sampled it, and the mean of each window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_llem.measurement.summary import MOST_CALLS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_llem.measurement.result import ExperimentResult, Round
    from pytest_llem.report.plots import Point

# Of a window's length, on either side of it: what the board draws at rest, and how it gets there.
_ABOUT = 0.25
# More could not be told apart.
_MOST_BOARDS = 8


@dataclass(frozen=True)
class PowerWindow:
    """Mean power of one window.

    Attributes:
        start_s: since the experiment's first window.
        prefill: whether its calls stopped after their first token.
    """

    start_s: float
    seconds: float
    power_w: float
    prefill: bool
    valid: bool


@dataclass(frozen=True)
class PowerLine:
    """Power of one board about one window.

    Attributes:
        points: seconds since the window's start, and watts.
    """

    board: str
    points: tuple[Point, ...]
    valid: bool


@dataclass(frozen=True)
class Power:
    """Power of an experiment.

    Attributes:
        windows: with a known start and energy, in the order of time.
        omitted: such windows that are left out.
        lines: of the boards in the first windows of whole calls, window by window; empty where no driver sampled any.
        sampled, lines_of: how many windows have such lines, and of how many they are.
        boards: of how many boards they could be.
        seconds: length of the first of them.
        prefill, decode: from when to when each ran in it, in seconds since its start.
        unmarked: why these are empty although prefill was measured apart.
    """

    windows: tuple[PowerWindow, ...]
    omitted: int
    lines: tuple[PowerLine, ...] = ()
    sampled: int = 0
    lines_of: int = 0
    boards: int = 0
    seconds: float = 0.0
    prefill: tuple[tuple[float, float], ...] = ()
    decode: tuple[tuple[float, float], ...] = ()
    unmarked: str | None = None


def power_of(result: ExperimentResult, most_windows: int, most_lines: int) -> Power:
    """Put the power of an experiment together.

    Args:
        most_windows, most_lines: how many windows are shown with their mean, and with what was sampled in them.
    """
    means = sorted(
        [*_means(result.per_round, prefill=False), *_means(result.prefill_rounds, prefill=True)],
        key=lambda window: window.start_s,
    )
    windows, omitted = tuple(means[:most_windows]), max(0, len(means) - most_windows)
    sampled = [window for window in result.per_round if any(curve.times_s for curve in window.power_curves.values())]
    if not sampled:
        return Power(windows, omitted)
    shown, first = sampled[:most_lines], sampled[0]
    boards = list(dict.fromkeys(board for window in shown for board in window.power_curves))
    prefill, decode, unmarked = _phases(result, first)
    return Power(
        windows,
        omitted,
        lines=tuple(line for window in shown for line in _lines(window, boards[:_MOST_BOARDS])),
        sampled=len(sampled),
        lines_of=len(shown),
        boards=len(boards),
        seconds=first.seconds,
        prefill=prefill,
        decode=decode,
        unmarked=unmarked,
    )


def _means(rounds: Sequence[Round], *, prefill: bool) -> Iterable[PowerWindow]:
    return [
        PowerWindow(window.start_s, window.seconds, window.joules / window.seconds, prefill, window.valid)
        for window in rounds
        if window.start_s is not None and window.joules is not None and window.seconds > 0
    ]


def _lines(window: Round, boards: Sequence[str]) -> Iterable[PowerLine]:
    begin_s, end_s = -_ABOUT * window.seconds, (1 + _ABOUT) * window.seconds
    for board in boards:
        curve = window.power_curves.get(board)
        samples = () if curve is None else zip(curve.times_s, curve.powers_w, strict=True)
        points = tuple((time_s, power_w) for time_s, power_w in samples if begin_s <= time_s <= end_s)
        if points:
            yield PowerLine(board, points, window.valid)


Spans = tuple[tuple[float, float], ...]


def _phases(result: ExperimentResult, window: Round) -> tuple[Spans, Spans, str | None]:
    """When prefill and decoding ran in a window, or why that is not told. Only where phases come from the samples is it
    known that all sequences of a call have their first token at once; else some decode while others prefill."""
    prefill_s = result.prefill_latency_s
    if prefill_s is None or result.phases_by is None:
        return (), (), None
    if result.phases_by != "power samples":
        return (), (), "it was measured in calls of its own"
    if result.calls_per_round > MOST_CALLS:
        return (), (), f"{result.calls_per_round} calls of a window are too many"
    if not window.calls_s:
        return (), (), "when each call began is not known"
    begun_s, prefill, decode = window.calls_s, [], []
    for start_s, end_s in zip(begun_s, [*begun_s[1:], window.seconds], strict=True):
        first_s = min(start_s + prefill_s, end_s)
        prefill.append((start_s, first_s))
        decode += [(first_s, end_s)] * (first_s < end_s)
    return tuple(prefill), tuple(decode), None
