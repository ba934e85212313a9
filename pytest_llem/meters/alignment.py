"""When an energy counter changed: edges.

The energy counter of a GPU stands still for tens of milliseconds and then jumps to the energy used so far
(``nvmlDeviceGetTotalEnergyConsumption``). Between two jumps its value is stale, at a jump it is exact. So
energy is measured between jumps, *edges*, and this module finds them and says how well it knows when they
were. What happens between an edge and the work itself is the matter of :mod:`pytest_llem.meters.tail`.

Everything here works on a ``read`` function that returns joules and on a
:class:`~pytest_llem.meters.base.Clock`, and polls only while it is asked to wait: nothing runs during the
work.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from pytest_llem.errors import MeasurementError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.meters.base import Clock

ReadJoules = Callable[[], float]

POLL_STEP_S = 0.0005
"""Pause between two reads while an edge is due, in seconds. Shorter buys little: at 200 W half a millisecond
is 0.1 J, and some boards count wrongly when read without a pause."""

_SQRT12 = math.sqrt(12.0)  # a uniform distribution of width w has the standard deviation w / sqrt(12)
_NVML_UNIT_J = 0.001
# How far, in periods, a prediction may have moved for every period that it looks ahead.
_DRIFT_PER_PERIOD = 0.001


class CounterResetError(MeasurementError):
    """The energy counter went backwards.

    Attributes:
        finder: whose counter it is, where a finder noticed it.
    """

    def __init__(self, before_j: float, after_j: float, finder: EdgeFinder | None = None) -> None:
        super().__init__(f"the energy counter went backwards, from {before_j:.3f} J to {after_j:.3f} J: it was reset")
        self.finder = finder


@dataclass(frozen=True)
class CounterTiming:
    """How an energy counter behaves.

    Attributes:
        period_s: mean time between two updates, in seconds.
        jitter_s: standard deviation of an update about its regular instant, in seconds.
        resolution_j: smallest step of the value, in joules.
        read_cost_s: time that one read takes, in seconds.
    """

    period_s: float
    jitter_s: float
    resolution_j: float
    read_cost_s: float


@dataclass(frozen=True)
class Edge:
    """An update of the counter.

    Attributes:
        time_s: when it happened, on the clock of the finder, in seconds.
        energy_j: the counter's value from then on, in joules.
        uncertainty_s: standard uncertainty of ``time_s``, in seconds.
    """

    time_s: float
    energy_j: float
    uncertainty_s: float


class EdgeFinder:
    """Finds the edges of one counter.

    :meth:`wait_for_edge` serves a single board; :func:`wait_for_edges` polls those of several boards in turn,
    with :meth:`begin` and :meth:`poll`.

    Args:
        read: reads the counter, in joules.
        clock: the clock that edges are dated by.
        timing: the counter's behaviour, see :func:`probe_timing`.
        poll_step_s: pause between two reads while an edge is due, in seconds.
    """

    def __init__(self, read: ReadJoules, clock: Clock, timing: CounterTiming, poll_step_s: float = POLL_STEP_S) -> None:
        self.timing = timing
        self.clock = clock
        self.poll_step_s = poll_step_s
        self.last_edge: Edge | None = None
        self.due_s = -math.inf
        self._read = read
        self._stale_time_s = 0.0
        self._stale_energy_j = 0.0
        self._follows_last_edge = False
        self._gaps_s: deque[float] = deque(maxlen=15)

    def begin(self) -> None:
        """Start to look for the next edge. Before ``due_s`` none is expected, and reading would be in vain.

        Raises:
            CounterResetError: the value is below that of the last edge.
        """
        self._stale_time_s, self._stale_energy_j = self._dated_read()
        self.due_s = self._stale_time_s
        last = self.last_edge
        self._follows_last_edge = last is not None and last.energy_j == self._stale_energy_j
        if last is None:
            return
        if self._stale_energy_j < last.energy_j:
            raise CounterResetError(last.energy_j, self._stale_energy_j, self)
        if self._follows_last_edge:
            # Both ends of the gap are jittered, hence sqrt(2); four standard deviations let one edge in ten
            # thousand come early, and that edge then says so by its uncertainty.
            period_s = self.timing.period_s
            guard_s = 4.0 * math.sqrt(2.0) * self.timing.jitter_s + 0.02 * period_s + 2.0 * self.poll_step_s
            self.due_s = last.time_s + period_s - guard_s

    def poll(self) -> Edge | None:
        """Read once; the edge when the value has changed since the last read, else ``None``.

        The update lies somewhere between the last read of the old value and the first of the new one. When
        several updates lie there (a stalled process), the value is that of the newest, which is not older
        than about a period.

        Raises:
            CounterResetError: the counter went backwards.
        """
        time_s, energy_j = self._dated_read()
        if energy_j == self._stale_energy_j:
            self._stale_time_s = time_s
            return None
        if energy_j < self._stale_energy_j:
            raise CounterResetError(self._stale_energy_j, energy_j, self)
        newest_s = self.timing.period_s + 4.0 * math.sqrt(2.0) * self.timing.jitter_s
        earliest_s = max(self._stale_time_s, time_s - newest_s)
        edge = Edge((earliest_s + time_s) / 2.0, energy_j, (time_s - earliest_s) / _SQRT12)
        if self._follows_last_edge and self.last_edge is not None:
            self._gaps_s.append(edge.time_s - self.last_edge.time_s)
        self.last_edge = edge
        return edge

    def wait_for_edge(self, timeout_s: float | None = None) -> Edge | None:
        """Wait for the next edge, by default for up to ten periods.

        Returns:
            The edge; ``None`` when the value did not change for ``timeout_s`` seconds.

        Raises:
            CounterResetError: the counter went backwards.
        """
        return wait_for_edges([self], timeout_s)[0]

    def glance(self) -> Edge:
        """The update that the counter shows now, without waiting.

        It is dated by the phase where that is known. Without one the update is anywhere in the last period, and off its
        regular instant by the jitter: u^2 = T^2 / 12 + jitter^2.
        """
        now_s, energy_j = self._dated_read()
        period_s = self.timing.period_s
        unphased_s = math.hypot(period_s / _SQRT12, self.timing.jitter_s)
        last = self.last_edge
        if last is not None:
            if energy_j == last.energy_j:
                return last
            periods = max(math.floor((now_s - last.time_s) / period_s), 1)
            uncertainty_s = math.sqrt(2.0) * self.timing.jitter_s + _DRIFT_PER_PERIOD * periods * period_s
            uncertainty_s = math.hypot(uncertainty_s, last.uncertainty_s)
            if uncertainty_s < unphased_s:
                return Edge(min(last.time_s + periods * period_s, now_s), energy_j, uncertainty_s)
        return Edge(now_s - period_s / 2.0, energy_j, unphased_s)

    @property
    def contradicts_timing(self) -> bool:
        """Whether the edges seen disagree with the known period, so that it should be probed again."""
        if len(self._gaps_s) < 5:
            return False
        allowed_s = 0.1 * self.timing.period_s + 2.0 * self.timing.jitter_s
        return abs(statistics.median(self._gaps_s) - self.timing.period_s) > allowed_s

    def _dated_read(self) -> tuple[float, float]:
        # The driver looks at the counter at an unknown instant inside the call: the middle is the best guess,
        # and what remains is the same for every edge; ``TailModel.window_energy`` accounts for it.
        before_s = self.clock.now_s()
        energy_j = self._read()
        return (before_s + self.clock.now_s()) / 2.0, energy_j


def wait_for_edges(finders: Sequence[EdgeFinder], timeout_s: float | None = None) -> list[Edge | None]:
    """Wait for the next edge of every finder; all must share a clock.

    Args:
        finders: one for each board.
        timeout_s: when to give up, in seconds; default: ten of the longest periods.

    Returns:
        The edges in the order of ``finders``; ``None`` for a counter that did not change in time.

    Raises:
        CounterResetError: a counter went backwards.
    """
    if not finders:
        return []
    clock = finders[0].clock
    if timeout_s is None:
        timeout_s = 10.0 * max(finder.timing.period_s for finder in finders)
    deadline_s = clock.now_s() + timeout_s
    edges: list[Edge | None] = [None] * len(finders)
    waiting = set(range(len(finders)))
    for finder in finders:
        finder.begin()
    while waiting:
        now_s = clock.now_s()
        if now_s > deadline_s:
            break
        pause_s = min(finders[index].due_s for index in waiting) - now_s
        clock.sleep(max(pause_s, min(finders[index].poll_step_s for index in waiting)))
        now_s = clock.now_s()
        for index in sorted(waiting):
            if finders[index].due_s <= now_s:
                edges[index] = finders[index].poll()
                if edges[index] is not None:
                    waiting.discard(index)
    return edges


def probe_timing(
    read: ReadJoules, clock: Clock, *, updates: int = 16, timeout_s: float = 10.0, poll_step_s: float = 0.001
) -> CounterTiming:
    """Watch a counter and say how it behaves. Takes ``updates`` periods, a second or two.

    Args:
        read: reads the counter, in joules.
        clock: the clock to date its updates by.
        updates: how many updates to watch; at least four.
        timeout_s: when to give up, in seconds.
        poll_step_s: pause between two reads, in seconds.

    Raises:
        MeasurementError: fewer than four updates came in time.
        CounterResetError: the counter went backwards.
    """
    if updates < 4:
        raise ValueError("at least four updates are needed to know a period")
    deadline_s = clock.now_s() + timeout_s
    edges: list[Edge] = []
    read_costs_s: list[float] = []
    stale_time_s, stale_energy_j = -math.inf, math.nan
    while len(edges) <= updates and clock.now_s() < deadline_s:
        before_s = clock.now_s()
        energy_j = read()
        after_s = clock.now_s()
        read_costs_s.append(after_s - before_s)
        time_s = (before_s + after_s) / 2.0
        if energy_j < stale_energy_j:
            raise CounterResetError(stale_energy_j, energy_j)
        if energy_j > stale_energy_j:
            edges.append(Edge((stale_time_s + time_s) / 2.0, energy_j, (time_s - stale_time_s) / _SQRT12))
        stale_time_s, stale_energy_j = time_s, energy_j
        clock.sleep(poll_step_s)
    if len(edges) < 4:
        raise MeasurementError(
            f"the energy counter changed {len(edges)} times in {timeout_s:g} s: too rarely to tell its period"
        )
    gaps_s = [later.time_s - earlier.time_s for earlier, later in pairwise(edges)]
    # A gap of several periods is one whose update did not change the value: it would pull the mean.
    longest_s = 1.75 * statistics.median(gaps_s)
    gaps_s = [gap_s for gap_s in gaps_s if gap_s <= longest_s]
    # A gap has the jitter of both its ends, and both are seen late by up to a polling step.
    detection_variance = statistics.fmean(2.0 * edge.uncertainty_s**2 for edge in edges)
    variance = max(statistics.variance(gaps_s) - detection_variance, 0.0)
    # Of values, not of their differences: at constant power those are all alike and say nothing.
    units = [round(edge.energy_j / _NVML_UNIT_J) for edge in edges]
    return CounterTiming(
        period_s=statistics.fmean(gaps_s),
        jitter_s=math.sqrt(variance / 2.0),
        resolution_j=max(math.gcd(*units), 1) * _NVML_UNIT_J,
        read_cost_s=statistics.median(read_costs_s),
    )
