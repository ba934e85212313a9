"""The lattice on which an energy counter is updated.

A read of a counter says little about when the value changed: on real boards it takes 2 to 30 ms, and when inside
the call the value is taken is unknown. But updates come at exact intervals (two H200: 613 of 613 and 459 of 459
changes fit one period of 100.000 ms and one phase). So each *sighting*, the stretch from the start of the last read
of the old value to the end of the first read of the new one, bounds the phase, and the intersection of many
sightings gives it to some tenths of a millisecond.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

REACH_S = 60.0
"""How long sightings can be used, in seconds: the clock of a board may run 50 millionths off, which makes 3 ms."""

if TYPE_CHECKING:
    from collections.abc import Sequence

FEWEST_SIGHTINGS = 3
"""With fewer, a period and a phase cannot be distinguished from chance."""

_SNAP_S = 0.005  # periods are whole multiples of 5 ms; not snapped, a period after 1 s is 0.2 to 0.6% wrong
_SNAP_WITHIN = 0.015
_OFF_SHARE = 0.125  # of the period: an update that far from its place does not keep the lattice
_MOST_OFF = 0.2  # share of the sightings that may be off: late updates are one in a hundred
_KEPT_ERROR = 0.001  # relative, of a period that is no such multiple, from 16 updates
_FLOOR_S = 0.001  # what a sighting is uncertain by however narrow it is
_REWEIGHTINGS = 3
_SHARED = 0.75  # of the sightings must share an instant for it to be the phase
_SNAP_MISFIT, _SNAP_MISFIT_S = 1.3, 0.0002  # by how much a snapped period may fit worse than a free one
_MOST_MISFIT_S = 0.005
_FEWEST_FOR_WALK, _WALK_S, _WALK_RATIO = 12, 0.0005, 0.7


class Sighting(NamedTuple):
    """An update happened between two instants.

    Attributes:
        after_s: start of the last read that still showed the old value, in seconds.
        before_s: end of the first read that showed the new one, in seconds.
    """

    after_s: float
    before_s: float

    @property
    def middle_s(self) -> float:
        return (self.after_s + self.before_s) / 2.0

    @property
    def width_s(self) -> float:
        return self.before_s - self.after_s


class Period(NamedTuple):
    """Time between two updates.

    Attributes:
        seconds: in seconds.
        error_s: its standard uncertainty, in seconds; 0 for a period known to be exact.
    """

    seconds: float
    error_s: float

    @classmethod
    def from_store(cls, seconds: float) -> Period:
        """One that was found out before: exact where it is a whole multiple of 5 ms."""
        exact = abs(seconds / _SNAP_S - round(seconds / _SNAP_S)) < 1e-6
        return cls(seconds, 0.0 if exact else _KEPT_ERROR * seconds)


@dataclass(frozen=True)
class Lattice:
    """Regular instants: ``origin_s + k * period_s``.

    Attributes:
        period_s: time between two updates, in seconds.
        origin_s: one of them, in seconds on the clock of the sightings.
        jitter_s: standard deviation of the updates about their instants as far as sightings show it, in seconds.
        reach_s: how far most updates lie from their instants at most, in seconds.
        period_error_s: standard uncertainty of ``period_s``, in seconds; 0 for a period known to be exact.
    """

    period_s: float
    origin_s: float
    jitter_s: float = 0.0
    reach_s: float = 0.0
    period_error_s: float = 0.0

    def last_before(self, instant_s: float) -> float:
        """The newest update that is not later than an instant."""
        return self.origin_s + math.floor((instant_s - self.origin_s) / self.period_s) * self.period_s

    def first_from(self, instant_s: float) -> float:
        """The first update that is not earlier than an instant."""
        return self.origin_s + math.ceil((instant_s - self.origin_s) / self.period_s) * self.period_s

    def nearest(self, instant_s: float) -> float:
        """The update that lies nearest to an instant."""
        return self.first_from(instant_s - self.period_s / 2.0)

    def reaches(self, instant_s: float) -> bool:
        """Whether the updates about an instant can still be distinguished from their neighbours, and dated well.

        Not for longer than a minute after the newest sighting: the clock of a board may run some 50 millionths off.
        """
        away_s = abs(instant_s - self.origin_s)
        counted = away_s / self.period_s * self.period_error_s < self.period_s / 8.0
        return counted and away_s < REACH_S


def fit_lattice(sightings: Sequence[Sighting], known: Period | None = None) -> Lattice | None:
    """The lattice that most of the sightings lie on.

    The period is the slope of the weighted least squares through the sightings' middles; the one that is known, or the
    nearest multiple of 5 ms within 1.5%, where that fits about as well. The phase is the middle of the widest
    intersection of the most sightings, or where they share none the mean of their middles.

    Args:
        sightings: oldest first; gaps of several periods between them are allowed.
        known: the period, as far as it is known; default: about the median gap.

    Returns:
        ``None``: there are too few, or they keep no lattice.
    """
    if len(sightings) < FEWEST_SIGHTINGS:
        return None
    after_s, before_s = (np.array(ends) for ends in zip(*sightings, strict=True))
    middle_s, width_s = (after_s + before_s) / 2.0, before_s - after_s
    gaps_s = np.diff(middle_s)
    guess_s = float(np.median(gaps_s)) if known is None else known.seconds
    slope_s, error_s = _least_squares(_count(gaps_s, guess_s), middle_s, width_s)
    likely = _likely_period(slope_s, error_s, guess_s, known)
    candidates = [Period(slope_s, error_s), likely]
    lattices = [_with_period(_count(gaps_s, each.seconds), after_s, before_s, *each) for each in candidates]
    best = lattices[-1]
    # One late update more or less among the sightings says nothing about the period.
    allowed_s = _SNAP_MISFIT * lattices[0].misfit_s + _SNAP_MISFIT_S + _MOST_MISFIT_S / len(sightings)
    if best.misfit_s > allowed_s and abs(slope_s - likely.seconds) > 3.0 * error_s:
        best = lattices[0]
    return best.lattice if best.off_share <= _MOST_OFF and not best.wanders else None


def _count(gaps_s: np.ndarray, period_s: float) -> np.ndarray:
    """The number of each sighting's update: gap by gap, because over many periods an error of one would miscount."""
    counts: np.ndarray = np.concatenate(([0.0], np.cumsum(np.maximum(np.round(gaps_s / period_s), 1.0))))
    return counts


def _likely_period(slope_s: float, error_s: float, gap_s: float, known: Period | None) -> Period:
    """What the period is a priori: the known one, else a whole multiple of 5 ms, else what was seen.

    Where reads are as long as periods, updates are miscounted and the slope is wrong: then the median gap counts.
    """
    if known is not None:
        near = abs(slope_s - known.seconds) <= max(3.0 * error_s, 2.0 * _SNAP_WITHIN * known.seconds)
        if near and known.error_s <= error_s:
            return known
    for period_s in (slope_s, gap_s):
        snapped_s = round(period_s / _SNAP_S) * _SNAP_S
        if abs(period_s - snapped_s) <= _SNAP_WITHIN * snapped_s:
            return Period(snapped_s, 0.0)
    return Period(slope_s, error_s)


class _Fit(NamedTuple):
    lattice: Lattice
    misfit_s: float  # mean distance of the sightings from their instants, each counted with a few milliseconds at most
    off_share: float
    wanders: bool  # whether updates are off like their neighbours: their irregularities add up


def _least_squares(index: np.ndarray, middle_s: np.ndarray, width_s: np.ndarray) -> tuple[float, float]:
    """Slope of the sightings' middles and its standard uncertainty, in seconds; late updates count little."""
    known = width_s**2 / 12.0 + _FLOOR_S**2
    weight = 1.0 / known
    for _ in range(_REWEIGHTINGS):
        centre = np.average(index, weights=weight)
        spread = float(np.sum(weight * (index - centre) ** 2))
        slope_s = float(np.sum(weight * (index - centre) * middle_s) / spread)
        residuals = (middle_s - slope_s * index) / np.sqrt(known)
        residuals -= np.median(residuals)
        scale = max(float(np.median(np.abs(residuals))) * 1.5, 1.0)
        weight = 1.0 / (known * (1.0 + (residuals / (2.0 * scale)) ** 2))
    return slope_s, scale / math.sqrt(spread)


def _with_period(
    index: np.ndarray, after_s: np.ndarray, before_s: np.ndarray, period_s: float, period_error_s: float
) -> _Fit:
    # The newest sighting is the origin: predictions look forward.
    steps_s = (index - index[-1]) * period_s
    low_s, high_s = after_s - steps_s, before_s - steps_s
    middle_s = (low_s + high_s) / 2.0
    phase_s = _widest_intersection(low_s, high_s)
    shared = float(np.mean((low_s <= phase_s) & (phase_s <= high_s))) >= _SHARED
    if not shared:
        # Updates that jitter by more than they are seen by share no instant: the middle of them is the better one.
        cut = len(middle_s) // 10
        phase_s = float(np.mean(np.sort(middle_s)[cut : len(middle_s) - cut]))
    off_s = np.maximum(np.maximum(low_s - phase_s, phase_s - high_s), 0.0)
    # All but late updates, which are rare.
    usual = np.argsort(off_s)[: max(math.ceil(0.95 * len(off_s)), 2)]
    jitter_s = off_s[usual] if shared else middle_s[usual] - phase_s
    lattice = Lattice(
        period_s=period_s,
        origin_s=phase_s,
        jitter_s=float(np.sqrt(np.mean(jitter_s**2))),
        reach_s=float(off_s[usual].max()),
        period_error_s=period_error_s,
    )
    # Von Neumann's ratio of successive differences: 2 for independent irregularities, far less for a walk.
    ratio = float(np.mean(np.diff(middle_s) ** 2) / max(np.var(middle_s), 1e-12))
    wanders = len(index) >= _FEWEST_FOR_WALK and lattice.jitter_s > _WALK_S and ratio < _WALK_RATIO
    misfit_s = float(np.mean(np.minimum(off_s, _MOST_MISFIT_S)))
    return _Fit(lattice, misfit_s, float(np.mean(off_s > _OFF_SHARE * period_s)), wanders)


def _widest_intersection(low_s: np.ndarray, high_s: np.ndarray) -> float:
    """Middle of the stretch that the most intervals share; the widest where several do."""
    bounds_s = np.concatenate((low_s, high_s))
    order = np.argsort(bounds_s, kind="stable")
    steps = np.concatenate((np.ones(len(low_s)), -np.ones(len(high_s))))[order]
    shared = np.cumsum(steps)[:-1]
    widths_s = np.diff(bounds_s[order])
    best = int(np.lexsort((widths_s, shared))[-1])
    return float(bounds_s[order][best] + widths_s[best] / 2.0)
