"""A board at rest: all that is carried from one window of its counter to the next.

Everything here is seen on a board that does nothing, never taken from the energy of a window, and bounded, so that it
cannot run away: the last idle power that was seen for long enough, how the board settled after the last window, and by
how much later than on other boards its counter has caught up.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_llem.meters.nvidia.counter.counter import Edge
from pytest_llem.meters.nvidia.idle_power import Idle, idle_from_samples, is_flat, unknown_idle
from pytest_llem.meters.nvidia.settling import FADED_S
from pytest_llem.meters.nvidia.window_energy import LAG_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.meters.nvidia.counter.counter import Counter
    from pytest_llem.meters.nvidia.samples import PowerSample
    from pytest_llem.meters.nvidia.settling import Settling

_FADING_W = 1.0  # of the last window's work: what is still drawn is not idle power
_GAP_PERIODS = 5.0  # longest idle stretch whose gain dates edges
_USUAL, _UNUSUAL = 3.0, 4.0  # standard deviations: of what is learned from, and of a late update
_SURPLUSES, _FEWEST_SURPLUSES = 5, 2
_CHECKS = 2
_LATEST_UPDATE_S = 0.015  # by which an update is late at most
_LATER_S, _LATEST_S = 0.02, 1.0


class BoardAtRest:
    """What is known of a board's rest.

    Attributes:
        idle: its power, as it was last seen for 0.3 s without a break, or as it was measured; ``None``: never.
        edge: an edge of its counter since which nothing of ours has run.
        faded_s: how long after the work the counter has caught up, in seconds.
    """

    def __init__(self) -> None:
        self.idle: Idle | None = None
        self.edge: Edge | None = None
        self.faded_s = FADED_S
        self._settling: Settling | None = None
        self._settled_s = -math.inf
        self._surpluses: deque[bool] = deque(maxlen=_SURPLUSES)
        self._checks = 0

    @property
    def tau_s(self) -> float:
        """Time constant by which the board settles, in seconds."""
        return self._settling.tau_s if self._settling is not None and self._settling.seen else LAG_S

    def idle_before(self, samples: Sequence[PowerSample], at_s: float) -> Idle:
        """Idle power before an instant: as the samples show it, unless the last window's work still fades in them."""
        fading_w = 0.0
        if self._settling is not None:
            fading_w = self._settling.excess_w * math.exp((self._settled_s - at_s) / self._settling.tau_s)
        seen = idle_from_samples(samples, at_s) if fading_w < _FADING_W else None
        if seen is None:
            return self.idle or unknown_idle(samples)
        if seen.whole:
            self.idle = seen
        elif self.idle is not None:
            # A fall of some watts passes for flat in a short stretch: how much of it is one is not known.
            return replace(seen, error_w=max(seen.error_w, abs(seen.power_w - self.idle.power_w)))
        return seen

    def begin(self, edge: Edge, settling: Settling) -> None:
        """A window is over: the board is left alone since ``edge``, at which it had settled so far."""
        self.edge = edge
        self._settling = settling
        self._settled_s = edge.time_s

    def others_worked(self, now_s: float) -> None:
        """What another process did has ended by now, and is taken to fade as our own last window did."""
        self.edge = None
        self._settled_s = now_s

    def end(self, counter: Counter, before: Edge, idle: Idle, samples: Sequence[PowerSample]) -> Edge:
        """Another window begins: what the counter gained in between dates its edges, where nothing ran.

        Args:
            counter: the edges are of this one, which learns how well they are dated.
            before: the edge before the window.
            idle: the power before the window.
            samples: of the stretch, and of others.

        Returns:
            ``before``, with a wider uncertainty where it or the edge before it must have come late.
        """
        rest, self.edge = self.edge, None
        if rest is None or not 0.5 < (before.time_s - rest.time_s) / counter.period_s < _GAP_PERIODS:
            return before
        error_s = self._gain_error_s(rest, before, idle.power_w, samples)
        if error_s is None:
            return before
        usual_s = counter.content_s
        self._note_surplus(error_s, counter, rest, before)
        counter.note_idle_gain(min(abs(error_s), _USUAL * usual_s), rest.uncertainty_s)
        if abs(error_s) > _UNUSUAL * usual_s:
            return Edge(before.time_s, before.energy_j, max(before.uncertainty_s, abs(error_s)))
        return before

    def check(self, counter: Counter, after: Sequence[Edge], idle_w: float, samples: Sequence[PowerSample]) -> None:
        """What the counter gained from the first to the last edge after the work shows whether it had caught up."""
        error_s = self._gain_error_s(after[0], after[-1], idle_w, samples)
        if error_s is not None:
            self._checks += 1
            self._note_surplus(error_s, counter, after[0], after[-1])

    def wants_check(self, after_s: float, period_s: float) -> bool:
        """Whether a further edge is to show that the counter had caught up at one so long after the work.

        In two windows of a process, such as have an early edge: later ones say nothing.
        """
        return self._checks < _CHECKS and after_s < self.faded_s + period_s / 2.0

    def _gain_error_s(self, earlier: Edge, later: Edge, idle_w: float, samples: Sequence[PowerSample]) -> float | None:
        """By how much a gain exceeds what the samples say, in seconds of power; ``None`` where they are not flat."""
        powers_w = [sample.power_w for sample in samples if earlier.time_s <= sample.time_s <= later.time_s]
        if not powers_w or not all(is_flat(power_w, idle_w) for power_w in powers_w):
            return None
        mean_w = math.fsum(powers_w) / len(powers_w)
        return (later.energy_j - earlier.energy_j) / mean_w - (later.time_s - earlier.time_s)

    def _note_surplus(self, error_s: float, counter: Counter, earlier: Edge, later: Edge) -> None:
        """A counter that gained more than the board drew had not caught up at the edge after the work: take later ones.

        One late update says nothing, unless it is more than updates are late by.
        """
        usual_s = max(counter.content_s, math.hypot(earlier.uncertainty_s, later.uncertainty_s))
        self._surpluses.append(error_s > _USUAL * usual_s)
        if error_s > _LATEST_UPDATE_S or sum(self._surpluses) >= _FEWEST_SURPLUSES:
            self._checks = 0
            self._surpluses.clear()
            self.faded_s = min(self.faded_s + _LATER_S, _LATEST_S)
