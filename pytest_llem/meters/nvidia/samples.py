"""The driver's own samples of a board's power.

NVML keeps the last two seconds or so of them (``nvmlDeviceGetSamples``, total power), each with a date. On two H200
they are taken every 20.000 ms; their dates, in microseconds of the wall clock, are late by 0 to 3 ms, and every fifth,
when the energy counter is updated too, by 10 to 11 ms. So dates are put back on their lattice.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from pytest_llem.meters.nvidia.library import lost_board

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.meters.base import Clock
    from pytest_llem.meters.nvidia.library import Board, Nvml

_FEWEST = 3
_STEP_S, _SLEWED = 0.005, 0.0005  # a wall clock that is off by more than that, and so much of the time, was set
_SINGLE_GAPS = 0.35  # quantile: even if many samples are lost this gap is about one period
_SEARCHED = np.linspace(0.85, 1.15, 301)  # periods that are tried, in such gaps
_FUTURE_S = 0.05  # a date that is later than now by more is not of our wall clock
_BREAK_S, _BREAK_PERIODS = 0.09, 4.5  # a slowed host loses some samples in a row, not so many

KEPT = 50_000
"""Samples that a buffer keeps by default: a quarter of an hour of them on real boards."""

_LATTICE_SAMPLES = 30
_RECENT = 500  # dates that are looked at again when more have come
_SNAP_S = 0.001
_LATENESS_S = 0.003  # of most dates; the phase lies so far below their crowd
_LATTICE_SHARE = 0.6  # of the dates that must agree before they are put back


@dataclass(frozen=True)
class PowerSample:
    """Power of a board at an instant.

    Attributes:
        time_s: on the clock of the meter, in seconds.
        power_w: in watts.
    """

    time_s: float
    power_w: float


class SampleBuffer:
    """What NVML keeps of a board's power, fetched now and then; a ``MeasurementError`` when it stopped answering.

    Attributes:
        period_s: time between two samples, in seconds.
        span_s: how far back NVML keeps them, in seconds.
    """

    def __init__(self, nvml: Nvml, board: Board, clock: Clock, period_s: float, span_s: float, keep: int) -> None:
        """Use a buffer that answers; see :func:`open_samples`."""
        self.period_s = period_s
        self.span_s = span_s
        self._nvml = nvml
        self._board = board
        self._handle = nvml.handle(board.uuid)
        self._clock = clock
        self._newest_us = 0
        self._due_s = -math.inf
        self._offset_s: float | None = None
        self._dated: deque[tuple[float, float]] = deque(maxlen=_RECENT)
        self._samples: deque[PowerSample] = deque(maxlen=keep)

    @property
    def newest_s(self) -> float:
        """Date of the newest sample that was fetched, in seconds; minus infinity before there is one."""
        return self._samples[-1].time_s if self._samples else -math.inf

    def fetch_in_time(self) -> None:
        """Fetch, if that was last done half of the time ago that NVML keeps samples for."""
        if self._clock.now_s() >= self._due_s:
            self.fetch()

    def fetch(self) -> None:
        """Fetch the samples that have come since the last call."""
        self._due_s = self._clock.now_s() + self.span_s / 2.0
        binding = self._nvml.binding
        try:
            _, found = binding.nvmlDeviceGetSamples(self._handle, binding.NVML_TOTAL_POWER_SAMPLES, self._newest_us)
        except (binding.NVMLError_NotFound, binding.NVMLError_InsufficientSize):
            return  # none since the last call, or one came between asking for their number and for them
        except binding.NVMLError as error:
            raise lost_board(self._board, error) from error
        offset_s = _wall_to_clock_s(self._clock)
        fresh = sorted((new.timeStamp, new.sampleValue.uiVal) for new in found if new.timeStamp > self._newest_us)
        if fresh:
            since_s = (fresh[-1][0] - self._newest_us) / 1e6
            self._newest_us = fresh[-1][0]
            last_s, self._offset_s = self._offset_s, offset_s
            if last_s is not None and abs(offset_s - last_s) > _STEP_S + _SLEWED * since_s:
                # The wall clock was set: which of these are dated by the old one is not known.
                self._dated.clear()
                self._samples.clear()
                return
            self._dated.extend((date_us / 1e6 + offset_s, power_mw / 1e3) for date_us, power_mw in fresh)
            placed = on_lattice(list(self._dated)[-(_LATTICE_SAMPLES + len(fresh)) :], self.period_s)
            while self._samples and self._samples[-1].time_s >= placed[0].time_s - self.period_s / 2.0:
                self._samples.pop()
            self._samples.extend(placed)

    def between(self, from_s: float, to_s: float) -> list[PowerSample]:
        """The samples fetched so far of a stretch, oldest first."""
        found: list[PowerSample] = []
        for sample in reversed(self._samples):
            if sample.time_s < from_s:
                break
            if sample.time_s <= to_s:
                found.append(sample)
        return found[::-1]


def open_samples(nvml: Nvml, board: Board, clock: Clock, keep: int = KEPT) -> SampleBuffer | None:
    """A board's buffer; ``None`` where NVML keeps none whose dates fit the clock.

    Args:
        keep: how many samples it is to keep.
    """
    kind = nvml.binding.NVML_TOTAL_POWER_SAMPLES
    answer = nvml.optional("nvmlDeviceGetSamples", nvml.handle(board.uuid), kind, 0)
    kept = [] if answer is None else sorted(sample.timeStamp / 1e6 for sample in answer[1])
    if len(kept) < _FEWEST:
        return None
    span_s = kept[-1] - kept[0]
    period_s = _period_of(np.array(kept))
    if not period_s > 0 or not -_FUTURE_S < clock.wall_s() - kept[-1] < max(1.0, span_s):
        return None
    snapped_s = round(period_s / _SNAP_S) * _SNAP_S
    if snapped_s > 0 and abs(period_s - snapped_s) < 0.03 * period_s:
        period_s = snapped_s
    return SampleBuffer(nvml, board, clock, period_s, span_s, keep)


def unbroken(samples: Sequence[PowerSample]) -> Sequence[PowerSample]:
    """The newest samples, back to the last stretch of which the driver no longer had any."""
    gaps_s = [later.time_s - earlier.time_s for earlier, later in pairwise(samples)]
    break_s = max(_BREAK_S, _BREAK_PERIODS * statistics.median(gaps_s)) if gaps_s else math.inf
    breaks = [index for index, gap_s in enumerate(gaps_s, 1) if gap_s > break_s]
    return samples[breaks[-1] :] if breaks else samples


def integrate(samples: Sequence[PowerSample], from_s: float, to_s: float) -> float:
    """Energy between two instants, in joules: trapezoids through the samples, the nearest one beyond their ends."""
    inside = [sample for sample in samples if from_s < sample.time_s < to_s]
    ends = [PowerSample(end_s, power_at(samples, end_s)) for end_s in (from_s, to_s)]
    points = [ends[0], *inside, ends[1]]
    return sum((a.power_w + b.power_w) / 2.0 * (b.time_s - a.time_s) for a, b in pairwise(points))


def power_at(samples: Sequence[PowerSample], at_s: float) -> float:
    """Power at an instant, in watts, between the samples on either side; the nearest one's beyond their ends."""
    times_s = [sample.time_s for sample in samples]
    return float(np.interp(at_s, times_s, [sample.power_w for sample in samples]))


def _wall_to_clock_s(clock: Clock) -> float:
    """What to add to the wall clock's seconds; the narrowest of three looks, in case this process was held up."""
    looks = []
    for _ in range(3):
        before_s = clock.now_s()
        wall_s = clock.wall_s()
        after_s = clock.now_s()
        looks.append((after_s - before_s, (before_s + after_s) / 2.0 - wall_s))
    return min(looks)[1]


def _period_of(dates_s: np.ndarray) -> float:
    """The period on whose lattice most dates lie, however many samples are lost, in seconds; 0 if there is none."""
    gap_s = float(np.quantile(np.diff(dates_s), _SINGLE_GAPS))
    if gap_s <= 0.0:
        return 0.0
    since_s = dates_s - dates_s[-1]
    crowds = np.array([_crowd(since_s % period_s, period_s)[0] for period_s in gap_s * _SEARCHED])
    best = np.flatnonzero(crowds >= crowds.max() - 1e-9)
    return gap_s * float(np.median(_SEARCHED[best]))


def _crowd(residuals_s: np.ndarray, period_s: float) -> tuple[float, float]:
    """The largest share of dates that lie within the usual lateness of each other, on a circle; where it begins."""
    begin_s = np.sort(residuals_s)
    around_s = np.concatenate((begin_s, begin_s + period_s))
    crowds = np.searchsorted(around_s, begin_s + _LATENESS_S, side="right") - np.arange(len(begin_s))
    start = int(np.argmax(crowds))
    return float(crowds[start]) / len(begin_s), float(begin_s[start])


def on_lattice(dated: Sequence[tuple[float, float]], period_s: float) -> list[PowerSample]:
    """Samples (date in seconds, watts) with their dates put back on the lattice that most of the newest keep."""
    times_s = np.array([date_s for date_s, _ in dated])
    recent_s = times_s[-_LATTICE_SAMPLES:]
    if len(recent_s) >= _LATTICE_SAMPLES // 2:
        residuals_s = (recent_s - recent_s[-1]) % period_s
        crowd, start_s = _crowd(residuals_s, period_s)
        if crowd >= _LATTICE_SHARE and period_s > 4.0 * _LATENESS_S:
            origin_s = recent_s[-1] + start_s
            # A date that is up to 11 ms late still belongs to the instant before it.
            index = np.floor((times_s - origin_s + 0.1 * period_s) / period_s)
            times_s = origin_s + index * period_s
    seen = {float(time_s): power_w for time_s, (_, power_w) in zip(times_s, dated, strict=True)}
    return [PowerSample(time_s, power_w) for time_s, power_w in sorted(seen.items())]
