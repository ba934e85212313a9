"""The power that a board truly draws, as a function of time, with its integral and what a slow sensor shows of it."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

_LAGS_REMEMBERED = 40.0
_QUANTILES = 128
_SAME_MOMENT_S = 1e-9


class Power(Protocol):
    """A true power in watts over time in seconds."""

    def power_w(self, at_s: float) -> float:
        """Power at one moment, in watts."""

    def energy_j(self, start_s: float, end_s: float) -> float:
        """Energy between two moments, in joules."""

    def sensed_w(self, at_s: float, lag_s: float) -> float:
        """What a sensor that follows with the time constant ``lag_s`` shows at one moment, in watts."""

    def tail_j(self, end_s: float) -> float:
        """What is drawn above idle power after work that ended at ``end_s`` if nothing follows it, in joules."""


class FunctionPower:
    """Any function of time, integrated numerically (midpoints, exact for constants)."""

    def __init__(self, function: Callable[[float], float], step_s: float = 1e-3) -> None:
        self._function = function
        self._step_s = step_s

    def power_w(self, at_s: float) -> float:
        return self._function(at_s)

    def energy_j(self, start_s: float, end_s: float) -> float:
        steps = max(1, math.ceil((end_s - start_s) / self._step_s))
        width_s = (end_s - start_s) / steps
        return width_s * sum(self._function(start_s + (i + 0.5) * width_s) for i in range(steps))

    def sensed_w(self, at_s: float, lag_s: float) -> float:
        if lag_s <= 0:
            return self._function(at_s)
        # Moments that carry equal parts of the filter's weight.
        ages_s = (-lag_s * math.log((i + 0.5) / _QUANTILES) for i in range(_QUANTILES))
        return sum(self._function(at_s - age_s) for age_s in ages_s) / _QUANTILES

    def tail_j(self, end_s: float) -> float:
        return 0.0


@dataclass(frozen=True)
class _Segment:
    """From ``start_s`` on, power is ``level_w`` and what is left of excesses: heights in watts, time constants."""

    start_s: float
    level_w: float
    excesses: tuple[tuple[float, float], ...]
    energy_before_j: float

    def power_w(self, at_s: float) -> float:
        elapsed_s = at_s - self.start_s
        return self.level_w + sum(height_w * math.exp(-elapsed_s / decay_s) for height_w, decay_s in self.excesses)

    def energy_until_j(self, at_s: float) -> float:
        elapsed_s = at_s - self.start_s
        excess_j = sum(height_w * decay_s * -math.expm1(-elapsed_s / decay_s) for height_w, decay_s in self.excesses)
        return self.energy_before_j + self.level_w * elapsed_s + excess_j

    def sensed_w(self, before_w: float, from_s: float, until_s: float, lag_s: float) -> float:
        """What a slow sensor shows at ``until_s`` that showed ``before_w`` at ``from_s``, in watts."""
        forgotten_w = before_w - self._followed_w(from_s, lag_s)
        return self._followed_w(until_s, lag_s) + forgotten_w * math.exp((from_s - until_s) / lag_s)

    def _followed_w(self, at_s: float, lag_s: float) -> float:
        """What the sensor would show had this segment never begun, in watts."""
        elapsed_s = at_s - self.start_s
        followed_w = self.level_w
        for height_w, decay_s in self.excesses:
            # At equal time constants the form is 0/0: a hair beside it, it is as good as its limit.
            apart_s = decay_s - lag_s if abs(decay_s - lag_s) > 1e-6 * lag_s else 1e-6 * lag_s
            decay_s = lag_s + apart_s
            followed_w += height_w * decay_s / apart_s * math.exp(-elapsed_s / decay_s)
        return followed_w


class LoadedPower:
    """Idle power with stretches of work; exact, and steps as sharp as they are told.

    After a stretch of work the power jumps to ``tail_w`` and falls to idle from there with the time constant
    ``decay_s``, as some boards do that keep their clocks up for a while. Others step down at once, but idle at a
    little more than before for some seconds: the afterglow, which is added to all that follows the work.

    Args:
        idle_w: power without work, in watts.
        tail_w: power right after work; default: idle.
        decay_s: time constant of the fall; 0 is a step.
        hold_s: how long the power stays at ``tail_w`` before it falls.
        lingering: a share of the fall and the other time constant, in seconds, that it has.
        afterglow_w: how much higher idle power is right after work, in watts.
        afterglow_s: time constant with which that is lost, in seconds.
    """

    def __init__(
        self,
        idle_w: float,
        tail_w: float | None = None,
        decay_s: float = 0.0,
        *,
        hold_s: float = 0.0,
        lingering: tuple[float, float] = (0.0, 1.0),
        afterglow_w: float = 0.0,
        afterglow_s: float = 2.0,
    ) -> None:
        self.idle_w = idle_w
        self.tail_w = idle_w if tail_w is None else tail_w
        self.hold_s = hold_s
        self.afterglow_w = afterglow_w
        self.afterglow_s = afterglow_s
        share, lingering_s = lingering
        falls = ((1.0 - share, decay_s), (share, lingering_s)) if decay_s > 0 else ()
        self._falls = tuple(((self.tail_w - idle_w) * part, fall_s) for part, fall_s in falls if part > 0)
        self._told_s = 0.0
        self._segments = [_Segment(0.0, idle_w, (), 0.0)]
        self._starts_s = [0.0]
        self._work_starts_s: list[float] = []
        self._work_ends_s: list[float] = []

    def start_work(self, at_s: float, power_w: float, rise_s: float = 0.0) -> None:
        """From ``at_s`` on draw ``power_w``, reached with the time constant ``rise_s``."""
        self._tell(at_s)
        self._work_starts_s.append(at_s)
        self._add(at_s, power_w, ((self.power_w(at_s) - power_w, rise_s),) if rise_s > 0 else ())

    def end_work(self, at_s: float) -> None:
        """From ``at_s`` on fall back to idle."""
        self._tell(at_s)
        self._work_ends_s.append(at_s)
        if self.hold_s > 0:
            self._add(at_s, self.tail_w, self._afterglow(0.0))
        self._add(at_s + self.hold_s, self.idle_w, self._falls + self._afterglow(self.hold_s))

    def power_w(self, at_s: float) -> float:
        return self._segments[self._at(at_s)].power_w(at_s)

    def energy_j(self, start_s: float, end_s: float) -> float:
        until_start_j = self._segments[self._at(start_s)].energy_until_j(start_s)
        return self._segments[self._at(end_s)].energy_until_j(end_s) - until_start_j

    def sensed_w(self, at_s: float, lag_s: float) -> float:
        if lag_s <= 0:
            return self.power_w(at_s)
        # What came before has lost all its weight.
        from_s = at_s - _LAGS_REMEMBERED * lag_s
        first, last = self._at(from_s), self._at(at_s)
        sensed_w = self._segments[first].power_w(from_s)
        for number in range(first, last):
            until_s = self._starts_s[number + 1]
            sensed_w = self._segments[number].sensed_w(sensed_w, from_s, until_s, lag_s)
            from_s = until_s
        return self._segments[last].sensed_w(sensed_w, from_s, at_s, lag_s)

    def tail_j(self, end_s: float) -> float:
        """What is drawn above idle power and afterglow after ``end_s`` if nothing follows, in joules.

        Work after ``end_s`` changes nothing of it, and in the middle of work it is 0: the tail is still to come.
        """
        last = bisect_right(self._work_ends_s, end_s + _SAME_MOMENT_S) - 1
        if last < 0:
            return 0.0
        ended_s = self._work_ends_s[last]
        following = bisect_left(self._work_starts_s, ended_s)
        if following < len(self._work_starts_s) and self._work_starts_s[following] < end_s - _SAME_MOMENT_S:
            return 0.0
        elapsed_s = max(0.0, end_s - ended_s)
        fallen_s = max(0.0, elapsed_s - self.hold_s)
        held_j = (self.tail_w - self.idle_w) * max(0.0, self.hold_s - elapsed_s)
        return held_j + sum(height_w * fall_s * math.exp(-fallen_s / fall_s) for height_w, fall_s in self._falls)

    def _afterglow(self, elapsed_s: float) -> tuple[tuple[float, float], ...]:
        if not self.afterglow_w:
            return ()
        return ((self.afterglow_w * math.exp(-elapsed_s / self.afterglow_s), self.afterglow_s),)

    def _tell(self, at_s: float) -> None:
        if at_s < self._told_s:
            raise ValueError("work must be told in the order of time")
        self._told_s = at_s
        # A fall that would have begun later does not: there is work again.
        while self._starts_s[-1] > at_s:
            self._starts_s.pop()
            self._segments.pop()

    def _add(self, at_s: float, level_w: float, excesses: tuple[tuple[float, float], ...]) -> None:
        energy_before_j = self._segments[-1].energy_until_j(at_s)
        self._segments.append(_Segment(at_s, level_w, excesses, energy_before_j))
        self._starts_s.append(at_s)

    def _at(self, at_s: float) -> int:
        """Number of the segment that holds a moment."""
        return max(0, bisect_right(self._starts_s, at_s) - 1)
