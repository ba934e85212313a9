"""The power that a board truly draws, as a function of time, with its integral."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Power(Protocol):
    """A true power in watts over time in seconds."""

    def power_w(self, at_s: float) -> float:
        """Power at one moment, in watts."""

    def energy_j(self, start_s: float, end_s: float) -> float:
        """Energy between two moments, in joules."""


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


@dataclass(frozen=True)
class _Segment:
    """From ``start_s`` on, power relaxes from ``from_w`` to ``level_w``: shares of the way and their time constants."""

    start_s: float
    level_w: float
    from_w: float
    decays: tuple[tuple[float, float], ...]
    energy_before_j: float

    def power_w(self, at_s: float) -> float:
        elapsed_s = at_s - self.start_s
        left = sum(share * math.exp(-elapsed_s / decay_s) for share, decay_s in self.decays)
        return self.level_w + (self.from_w - self.level_w) * left

    def energy_until_j(self, at_s: float) -> float:
        elapsed_s = at_s - self.start_s
        left_s = sum(share * decay_s * -math.expm1(-elapsed_s / decay_s) for share, decay_s in self.decays)
        return self.energy_before_j + self.level_w * elapsed_s + (self.from_w - self.level_w) * left_s


class LoadedPower:
    """Idle power with stretches of work; exact, and steps as sharp as they are told.

    After a stretch of work the power jumps to ``tail_w`` and falls to idle from there with the time constant
    ``decay_s``, as real boards do that keep their clocks up for a while.

    Args:
        idle_w: power without work, in watts.
        tail_w: power right after work; default: idle.
        decay_s: time constant of the fall; 0 is a step.
        hold_s: how long the power stays at ``tail_w`` before it falls.
        lingering: a share of the fall and the other time constant, in seconds, that it has.
    """

    def __init__(
        self,
        idle_w: float,
        tail_w: float | None = None,
        decay_s: float = 0.0,
        *,
        hold_s: float = 0.0,
        lingering: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self.idle_w = idle_w
        self.tail_w = idle_w if tail_w is None else tail_w
        self.hold_s = hold_s
        share, lingering_s = lingering
        self._fall = ((1.0 - share, decay_s), (share, lingering_s)) if decay_s > 0 else ()
        self._told_s = 0.0
        self._segments = [_Segment(0.0, idle_w, idle_w, (), 0.0)]
        self._starts_s = [0.0]

    def start_work(self, at_s: float, power_w: float, rise_s: float = 0.0) -> None:
        """From ``at_s`` on draw ``power_w``, reached with the time constant ``rise_s``."""
        self._tell(at_s)
        self._add(at_s, power_w, self.power_w(at_s), ((1.0, rise_s),) if rise_s > 0 else ())

    def end_work(self, at_s: float) -> None:
        """From ``at_s`` on fall back to idle."""
        self._tell(at_s)
        if self.hold_s > 0:
            self._add(at_s, self.tail_w, self.tail_w, ())
        self._add(at_s + self.hold_s, self.idle_w, self.tail_w, self._fall)

    def power_w(self, at_s: float) -> float:
        return self._at(at_s).power_w(at_s)

    def energy_j(self, start_s: float, end_s: float) -> float:
        return self._at(end_s).energy_until_j(end_s) - self._at(start_s).energy_until_j(start_s)

    def _tell(self, at_s: float) -> None:
        if at_s < self._told_s:
            raise ValueError("work must be told in the order of time")
        self._told_s = at_s
        # A fall that would have begun later does not: there is work again.
        while self._starts_s[-1] > at_s:
            self._starts_s.pop()
            self._segments.pop()

    def _add(self, at_s: float, level_w: float, from_w: float, decays: tuple[tuple[float, float], ...]) -> None:
        energy_before_j = self._segments[-1].energy_until_j(at_s)
        self._segments.append(_Segment(at_s, level_w, from_w, decays, energy_before_j))
        self._starts_s.append(at_s)

    def _at(self, at_s: float) -> _Segment:
        return self._segments[max(0, bisect_right(self._starts_s, at_s) - 1)]
