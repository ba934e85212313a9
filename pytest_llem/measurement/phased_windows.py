"""Windows with the calls in them, and when the first tokens of such calls come."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_llem.distributions import t_quantile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_llem.meters.base import PowerCurve, Window

_NORMAL_95 = 2.0
# So long after the work a lag has faded; what is drawn above idle power then: a share of the work's, and watts.
_FADED_S, _TAIL_SHARE, _TAIL_W = 0.06, 0.05, 8.0
# How far a token's arrival at the host is from what the device did; the spread of first tokens that is expected before
# any is seen, and how many times of them that is worth.
_TOKEN_SD_S, _USUAL_SPREAD, _USUAL_WORTH = 0.0003, 0.05, 2


@dataclass(frozen=True)
class TimedCall:
    """A call in a window.

    Attributes:
        index: which one of the pass it is.
        start_s, end_s: since the window's start, in seconds.
    """

    index: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class PhasedWindow:
    """A window and the calls in it.

    Attributes:
        seconds: between its edges, in seconds.
        calls: in the order of time.
        power_curves: the driver's samples, by board.
        boards_j: its joules, by board; empty where there are none.
        uncertainty_j: half-width of the 95% interval of each board's joules.
        previous_end_s: when the work before it ended, in seconds since its start (so not above 0), where that was so
            short a time ago that the sensor still shows it: windows back to back. ``None``: the board was at rest.
    """

    seconds: float
    calls: Sequence[TimedCall]
    power_curves: Mapping[str, PowerCurve]
    boards_j: Mapping[str, float]
    uncertainty_j: float | None = None
    previous_end_s: float | None = None

    @classmethod
    def of(cls, window: Window, calls: Sequence[TimedCall], previous_end_s: float | None = None) -> PhasedWindow:
        """What a meter measured, with the calls in it."""
        boards_j = window.boards_j if window.joules is not None else {}
        if not window.joined:
            boards_j = {uuid: joules for uuid, joules in boards_j.items() if not _has_tail(window, uuid)}
        return cls(window.seconds, calls, window.power_curves, boards_j, window.uncertainty_j, previous_end_s)


def _has_tail(window: Window, uuid: str) -> bool:
    """Whether the board drew power because of the work after its end: the window's joules hold that, its calls not."""
    curve = window.power_curves.get(uuid)
    if curve is None:
        return False
    samples = list(zip(curve.times_s, curve.powers_w, strict=True))
    before_w = [power_w for time_s, power_w in samples if time_s < 0.0]
    inside_w = [power_w for time_s, power_w in samples if 0.0 <= time_s <= window.seconds]
    after_w = [power_w for time_s, power_w in samples if time_s > window.seconds + _FADED_S]
    if not (before_w and inside_w and after_w):
        return False
    idle_w = statistics.median(before_w)
    return after_w[0] - idle_w > max(_TAIL_SHARE * (statistics.fmean(inside_w) - idle_w), _TAIL_W)


@dataclass(frozen=True)
class FirstTokens:
    """When first tokens come.

    Attributes:
        mean_s: by the call's index, in seconds.
        spread: standard deviation from call to call, in units of the mean.
        error: standard uncertainty of the mean over the measured calls, in units of it.
    """

    mean_s: Mapping[int, float]
    spread: float
    error: float

    @classmethod
    def of(cls, times_s: Mapping[int, Sequence[float]], windows: Sequence[PhasedWindow]) -> FirstTokens:
        calls = [call for window in windows for call in window.calls]
        mean_s = {index: statistics.fmean(of_index) for index, of_index in times_s.items() if of_index}
        ratios = [time_s / mean_s[index] for index in mean_s for time_s in times_s[index]]
        degrees = len(ratios) - len(mean_s) + _USUAL_WORTH
        squares = math.fsum((ratio - 1.0) ** 2 for ratio in ratios)
        spread = math.sqrt((squares + _USUAL_WORTH * _USUAL_SPREAD**2) / degrees)
        # A pass is fast or slow as a whole, so the calls of one count as one.
        passes = min(len(of_index) for of_index in times_s.values() if of_index)
        mean_call_s = statistics.fmean(mean_s[call.index] for call in calls)
        error = math.hypot(
            t_quantile(0.975, degrees) / _NORMAL_95 * spread * math.sqrt(1.0 / passes + 1.0 / len(calls)),
            _TOKEN_SD_S / mean_call_s,
            _pace(windows),
        )
        return cls(mean_s, spread, error)


def _pace(windows: Sequence[PhasedWindow]) -> float:
    """Standard deviation between windows of how long equal calls take, in units of that: the host is no constant."""
    lengths_s: dict[int, list[float]] = {}
    for call in (call for window in windows for call in window.calls):
        lengths_s.setdefault(call.index, []).append(call.end_s - call.start_s)
    usual_s = {index: statistics.fmean(of_index) for index, of_index in lengths_s.items()}
    paces = [
        statistics.fmean((call.end_s - call.start_s) / usual_s[call.index] for call in window.calls)
        for window in windows
        if window.calls
    ]
    return statistics.stdev(paces) if len(paces) > 1 else 0.0
