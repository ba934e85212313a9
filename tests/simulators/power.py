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
    """From ``start_s`` on, power relaxes from ``from_w`` to ``level_w``, time constant ``decay_s``."""

    start_s: float
    level_w: float
    from_w: float
    decay_s: float
    energy_before_j: float

    def power_w(self, at_s: float) -> float:
        if self.decay_s == 0:
            return self.level_w
        return self.level_w + (self.from_w - self.level_w) * math.exp(-(at_s - self.start_s) / self.decay_s)

    def energy_until_j(self, at_s: float) -> float:
        elapsed_s = at_s - self.start_s
        tail_j = 0.0
        if self.decay_s > 0:
            tail_j = (self.from_w - self.level_w) * self.decay_s * -math.expm1(-elapsed_s / self.decay_s)
        return self.energy_before_j + self.level_w * elapsed_s + tail_j


class LoadedPower:
    """Idle power with stretches of work; exact, and steps as sharp as they are told.

    After a stretch of work the power jumps to ``tail_w`` and falls to idle from there with the time constant
    ``decay_s``, as real boards do that keep their clocks up for a while.
    """

    def __init__(self, idle_w: float, tail_w: float | None = None, decay_s: float = 0.0) -> None:
        self.idle_w = idle_w
        self.tail_w = idle_w if tail_w is None else tail_w
        self.decay_s = decay_s
        self._segments = [_Segment(0.0, idle_w, idle_w, 0.0, 0.0)]
        self._starts_s = [0.0]

    def start_work(self, at_s: float, power_w: float, rise_s: float = 0.0) -> None:
        """From ``at_s`` on draw ``power_w``, reached with the time constant ``rise_s``."""
        self._add(at_s, power_w, self.power_w(at_s), rise_s)

    def end_work(self, at_s: float) -> None:
        """From ``at_s`` on fall back to idle."""
        self._add(at_s, self.idle_w, self.tail_w, self.decay_s)

    def power_w(self, at_s: float) -> float:
        return self._at(at_s).power_w(at_s)

    def energy_j(self, start_s: float, end_s: float) -> float:
        return self._at(end_s).energy_until_j(end_s) - self._at(start_s).energy_until_j(start_s)

    def _add(self, at_s: float, level_w: float, from_w: float, decay_s: float) -> None:
        if at_s < self._starts_s[-1]:
            raise ValueError("work must be told in the order of time")
        energy_before_j = self._segments[-1].energy_until_j(at_s)
        self._segments.append(_Segment(at_s, level_w, from_w, decay_s, energy_before_j))
        self._starts_s.append(at_s)

    def _at(self, at_s: float) -> _Segment:
        return self._segments[max(0, bisect_right(self._starts_s, at_s) - 1)]
