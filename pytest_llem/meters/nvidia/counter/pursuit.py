"""Waiting for the edges of energy counters: reads about the instants at which they are due.

Whatever reads a counter raises ``CounterResetError`` when it went backwards.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_llem.meters.nvidia.counter.counter import CONTENT_S, POLL_STEP_S, SQRT12, Edge
from pytest_llem.meters.nvidia.counter.lattice import Sighting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.meters.nvidia.counter.counter import Counter, Read

AWAITED_PERIODS = 10.0
"""After so many periods a counter that does not change stands still."""

_UNCLEAR_SHARE = 0.75  # of the period: which update the value is of, a wider sighting does not show
_MOST_DOUBTS = 2


class Pursuit:
    """Waits for the first edge of a counter from an instant on.

    Attributes:
        counter: the edge is of this one.
        due_s: when to :meth:`poll` next; reading earlier is of no use.
        edge: the edge, once it was found.
    """

    def __init__(self, counter: Counter, from_s: float) -> None:
        self.counter = counter
        self.edge: Edge | None = None
        self._stale: Read | None = None
        self._doubts = 0
        self._aim(from_s)

    def poll(self) -> Edge | None:
        """Read once; the edge when it was found, else ``None``."""
        read = self.counter.read()
        stale, self._stale = self._stale, read
        if stale is None and self._edge_s is not None:
            self._began_old = read.end_s <= self.counter.surely_old_s(self._edge_s)
        self.due_s = read.end_s + POLL_STEP_S
        if stale is not None and read.energy_j > stale.energy_j:
            return self._found(Sighting(stale.start_s, read.end_s), read)
        if self._edge_s is None or self.counter.lattice is None:
            return None
        if self._began_old:
            # For a whole period and more it did not change: it does so by less than its step.
            if read.start_s >= self.counter.surely_new_s(self._edge_s) + 1.5 * self.counter.period_s:
                self.edge = Edge(self._edge_s, read.energy_j, self.counter.content_s)
        elif read.start_s >= self.counter.surely_new_s(self._edge_s):
            self._use_shown(read)  # it changed in the first read, or before
        return self.edge

    def _use_shown(self, read: Read) -> None:
        """Use the edge that a read shows, although its update was not seen; the next edge where that is not clear."""
        self.edge = self.counter.edge_shown(read)
        if self.edge is None:
            self._aim(read.end_s)

    def _aim(self, from_s: float) -> None:
        lattice = self.counter.lattice
        self._edge_s = None if lattice is None else lattice.first_from(from_s)
        self._stale = None
        self._began_old = False
        # A read that surely shows the old value first: with the next one it bounds the edge from below.
        early_s = POLL_STEP_S + 1.2 * self.counter.read_cost_s
        self.due_s = from_s if self._edge_s is None else self.counter.surely_old_s(self._edge_s) - early_s

    def _found(self, sighting: Sighting, read: Read) -> Edge | None:
        counter = self.counter
        counter.see(sighting)
        lattice = counter.lattice  # this very sighting may have refuted it
        if self._edge_s is None or lattice is None:
            # Several updates may lie in the sighting of a stalled process: the value is the newest one's.
            after_s = max(sighting.after_s, sighting.before_s - counter.period_s)
            error_s = math.hypot((sighting.before_s - after_s) / SQRT12, CONTENT_S)
            self.edge = Edge((after_s + sighting.before_s) / 2.0, read.energy_j, error_s)
            return self.edge
        if sighting.width_s > _UNCLEAR_SHARE * counter.period_s:
            self._use_shown(read)  # which update the value is of is unknown
            return self.edge
        edge_s = lattice.nearest(sighting.middle_s)
        if edge_s < self._edge_s - counter.period_s / 2.0:
            return None  # the edge before it, which was late
        if counter.is_doubtful(sighting, edge_s) and self._doubts < _MOST_DOUBTS:
            self._doubts += 1
            self._aim(edge_s + counter.period_s / 2.0)
            return None
        edge_s, error_s = counter.date(sighting, edge_s)
        self.edge = Edge(edge_s, read.energy_j, error_s)
        return self.edge


def next_edge(counter: Counter, from_s: float) -> Edge | None:
    """Wait for the first edge from an instant on; ``None``: the counter stands still."""
    pursuit = Pursuit(counter, from_s)
    wait_for_edges([pursuit])
    return pursuit.edge


def wait_for_edges(pursuits: Sequence[Pursuit]) -> None:
    """Poll in turn until each has its edge, or its counter stands still: long after the last was due."""
    clock = pursuits[0].counter.clock
    timeout_s = AWAITED_PERIODS * max(pursuit.counter.period_s for pursuit in pursuits)
    deadline_s = max(pursuit.due_s for pursuit in pursuits) + timeout_s
    waiting = [pursuit for pursuit in pursuits if pursuit.edge is None]
    while waiting and clock.now_s() <= deadline_s:
        pause_s = min(pursuit.due_s for pursuit in waiting) - clock.now_s()
        if pause_s > 0:
            clock.sleep(pause_s)
        for pursuit in waiting:
            if pursuit.due_s <= clock.now_s():
                pursuit.poll()
        waiting = [pursuit for pursuit in waiting if pursuit.edge is None]
