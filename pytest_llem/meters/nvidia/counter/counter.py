"""An energy counter, and when it changed: edges.

The energy counter of a GPU stands still for tens of milliseconds and then jumps to the energy used so far
(``nvmlDeviceGetTotalEnergyConsumption``). Between two jumps its value is stale, at a jump it is exact. So energy is
measured between jumps, *edges*. Where they lie on a ``lattice``, any read that is clearly between two of them shows the
earlier one's energy, and nothing needs to be waited for. Where they do not, an edge is what two reads show between
which the value has changed (``pursuit``).

Everything here works on a ``read`` function that returns joules and on a :class:`~pytest_llem.meters.base.Clock`, and
reads only when it is called: nothing runs during the work.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pytest_llem.errors import MeasurementError
from pytest_llem.meters.nvidia.counter.lattice import REACH_S, Period, Sighting, fit_lattice

if TYPE_CHECKING:
    from pytest_llem.meters.base import Clock
    from pytest_llem.meters.nvidia.counter.lattice import Lattice

ReadJoules = Callable[[], float]

ASSUMED_PERIOD_S = 0.1
"""Longest update period that users of the counter report, in seconds; for counters that cannot be watched."""

POLL_STEP_S = 0.0005
"""Pause between two reads while an edge is due, in seconds: some boards count wrongly when read without a pause."""

SQRT12 = math.sqrt(12.0)
"""A uniform distribution of width w has the standard deviation w / sqrt(12)."""

# Of two H200 (periods of 100 ms), in seconds; for short periods the share of the period holds.
_GUARD_BEFORE_S = 0.002  # no stale read starts later than 1.87 ms before an edge
# One update in a hundred is up to 13.5 ms late: a sighting wider than this does not distinguish it from a punctual one.
_WIDE_S, _WIDE_SHARE = 0.015, 0.4
_WIDE_ERROR_S = 0.004  # standard uncertainty of the date of an edge that was seen so
_LATE_S, _LATE_SHARE = 0.010, 0.25

CONTENT_S = 0.0007
"""Standard deviation of the instant that an update's energy was taken at, in seconds: 0.55 to 0.87 ms on two H200."""

_CONTENT_LEAST_S, _CONTENT_MOST_S = 0.0005, 0.005
_CONTENT_PRIOR = 6  # observations that the figure above is worth
_REMEMBERED, _FEW = 30, 8  # sightings: at most, and even if they are old
_LOST_S = 0.015  # no update is so late, in seconds
_CLEAR_SHARE = 0.25  # of the period: sightings wider than that are a slowed host's
_TRIES = 4
_MISSES, _FEWEST_MISSES, _MISSED_S = 8, 5, 0.003


class CounterResetError(MeasurementError):
    """The energy counter went backwards.

    Attributes:
        counter: which one.
    """

    def __init__(self, before_j: float, after_j: float, counter: Counter | None = None) -> None:
        super().__init__(f"the energy counter went backwards, from {before_j:.3f} J to {after_j:.3f} J: it was reset")
        self.counter = counter


@dataclass(frozen=True)
class Edge:
    """An update of the counter.

    Attributes:
        time_s: when it happened, on the clock of the counter, in seconds.
        energy_j: the counter's value from then on, in joules.
        uncertainty_s: standard uncertainty of ``time_s``, in seconds.
    """

    time_s: float
    energy_j: float
    uncertainty_s: float


def mean_power(earlier: Edge, later: Edge) -> tuple[float, float]:
    """Mean power between two edges, and its standard uncertainty, in watts."""
    seconds = later.time_s - earlier.time_s
    power_w = (later.energy_j - earlier.energy_j) / seconds
    return power_w, power_w * math.hypot(earlier.uncertainty_s, later.uncertainty_s) / seconds


class Read(NamedTuple):
    """One read of the counter: an unknown instant between ``start_s`` and ``end_s`` had this value."""

    start_s: float
    end_s: float
    energy_j: float


class Counter:
    """An energy counter, its lattice, and how well its edges are dated.

    Whatever reads it raises :class:`CounterResetError` when it went backwards: when a value is below the newest one.

    Attributes:
        clock: the clock that edges are dated by.
        period_s: time between two updates, in seconds, as far as it is known.
        lattice: ``None`` before :meth:`watch`, and for a counter whose updates are irregular.
        phase_is_lost: whether an update came at quite another moment than its lattice says, since :meth:`watch`.
    """

    def __init__(
        self,
        read: ReadJoules,
        clock: Clock,
        period_s: float | None = None,
        *,
        jitter_s: float | None = None,
        regular: bool = True,
    ) -> None:
        """Use a counter that answers.

        Args:
            read: reads it, in joules.
            clock: the clock that edges are dated by.
            period_s: how long its period is, in seconds, where that is known.
            jitter_s: standard deviation of its updates about their lattice, in seconds, where that is known.
            regular: whether it may be taken to keep a lattice.
        """
        self.clock = clock
        self.period_s = ASSUMED_PERIOD_S if period_s is None else period_s
        self._known = None if period_s is None else Period.from_store(period_s)
        self._known_jitter_s = jitter_s
        self.lattice: Lattice | None = None
        self._regular = regular
        self._read = read
        self._sightings: deque[Sighting] = deque(maxlen=_REMEMBERED)
        self._newest_j = -math.inf
        self._content_variances: deque[float] = deque(maxlen=20)
        self._misses_s: deque[float] = deque(maxlen=_MISSES)
        self._contradictions = 0
        self.phase_is_lost = False
        self._costs_s: deque[float] = deque(maxlen=15)

    @property
    def read_cost_s(self) -> float:
        """How long a read takes: the median of the last ones, in seconds."""
        return statistics.median(self._costs_s) if self._costs_s else 0.0

    @property
    def content_s(self) -> float:
        """Standard deviation of when the energy of an update was taken, about its instant, in seconds.

        The root mean square of what :meth:`note_idle_gain` was given, with six observations of 0.7 ms (or of the
        lattice's own jitter): measured, and never from the energy of a window, so that it cannot run away.
        """
        usual = self._usual_misses_s or [0.0]
        missed_s = math.sqrt(math.fsum(miss_s**2 for miss_s in usual) / len(usual))
        prior_s = max(CONTENT_S, self.lattice.jitter_s if self.lattice else 0.0, missed_s)
        squares = [prior_s**2] * _CONTENT_PRIOR + [*self._content_variances]
        most_s = max(min(_CONTENT_MOST_S, self.period_s / 8.0), prior_s)
        return min(max(math.sqrt(math.fsum(squares) / len(squares)), _CONTENT_LEAST_S), most_s)

    @property
    def contradicts_period(self) -> bool:
        """Whether the latest updates disagree with the known period or lattice, so that it should be measured again."""
        return self._contradictions >= 3

    @property
    def wanders(self) -> bool:
        """Whether updates come farther from where they were expected than they lie from their lattice: it moves."""
        usual, jitter_s = self._usual_misses_s, self._known_jitter_s or 0.0
        return len(usual) >= _FEWEST_MISSES and statistics.fmean(usual) > _MISSED_S + 2.0 * jitter_s

    @property
    def _usual_misses_s(self) -> list[float]:
        """How far updates were from where they had been expected, but for the farthest: it may have been a late one."""
        return sorted(self._misses_s)[:-1]

    @property
    def sees_clearly(self) -> bool:
        """Whether its updates were seen to much less than a period: not where the host is slowed."""
        widths_s = [sighting.width_s for sighting in self._sightings]
        return bool(widths_s) and statistics.median(widths_s) <= _CLEAR_SHARE * self.period_s

    def period_seen(self) -> Period | None:
        """The period by the latest sightings alone; ``None`` where they lie on no lattice."""
        lattice = fit_lattice(self._sightings)
        return None if lattice is None else Period(lattice.period_s, lattice.period_error_s)

    def note_idle_gain(self, error_s: float, known_s: float) -> None:
        """Learn by how much the gain of an idle stretch was off, from an edge to one that was not seen to happen.

        Args:
            error_s: in seconds of its power.
            known_s: standard uncertainty of the stretch's first edge, in seconds.
        """
        self._content_variances.append(max(error_s**2 - known_s**2, 0.0))

    def read(self) -> Read:
        """Read once."""
        start_s = self.clock.now_s()
        energy_j = self._read()
        end_s = self.clock.now_s()
        if energy_j < self._newest_j:
            newest_j, self._newest_j = self._newest_j, energy_j
            raise CounterResetError(newest_j, energy_j, self)
        self._newest_j = energy_j
        self._costs_s.append(end_s - start_s)
        return Read(start_s, end_s, energy_j)

    def watch(self, updates: int, timeout_s: float) -> list[Read]:
        """Read without a break until the value has changed ``updates`` times, and fit the lattice to that.

        Returns:
            The first read of each new value.
        """
        changes: list[Read] = []
        self._sightings.clear()
        deadline_s = self.clock.now_s() + timeout_s
        last = self.read()
        while len(changes) < updates and self.clock.now_s() < deadline_s:
            self.clock.sleep(POLL_STEP_S)
            read = self.read()
            if read.energy_j > last.energy_j:
                changes.append(read)
                self._sightings.append(Sighting(last.start_s, read.end_s))
            last = read
        self._misses_s.clear()
        self._contradictions = 0
        self.phase_is_lost = False
        self._fit()
        if self._known_jitter_s is None and self.lattice is not None:
            self._known_jitter_s = self.lattice.jitter_s
        return changes

    def see(self, sighting: Sighting) -> None:
        """Refine the lattice by an update that was seen."""
        lattice = self.lattice
        if lattice is None:
            return
        nearest_s = lattice.nearest(sighting.middle_s)
        off_s = max(sighting.after_s - nearest_s, nearest_s - sighting.before_s, 0.0)
        # Late updates are rare: three in a row mean another lattice.
        late = off_s > max(2.0 * lattice.reach_s, self._late_s) + self._guard_before_s
        self._contradictions = self._contradictions + 1 if late else 0
        # So does a single one that is this late: the phase has been lost.
        self.phase_is_lost |= off_s > max(lattice.period_s / 4.0, _LOST_S)
        self._misses_s.append(off_s)
        self._sightings.append(sighting)
        # The clock of a board may run some millionths off ours.
        while len(self._sightings) > _FEW and sighting.after_s - self._sightings[0].after_s > REACH_S:
            self._sightings.popleft()
        self._fit()

    def edge_now(self) -> Edge:
        """The newest edge of a counter on a lattice, from a read that is clearly between two edges.

        At most some milliseconds are waited: out of the stretch around an edge in which a read is ambiguous.
        Where a read is never clear (reads as long as the period) the edge is anywhere in it.
        """
        if self.lattice is None:
            raise ValueError("this counter has no lattice")
        for _ in range(_TRIES):
            now_s = self.clock.now_s()
            edge_s = self.lattice.last_before(now_s)
            next_s = edge_s + self.lattice.period_s
            if now_s < self.surely_new_s(edge_s):
                self.clock.sleep(self.surely_new_s(edge_s) - now_s)
            elif now_s >= self.surely_old_s(next_s):
                self.clock.sleep(self.surely_new_s(next_s) - now_s)
            read = self.read()
            edge = self.edge_shown(read)
            if edge is not None:
                return edge
        return self._unphased(read)

    def glance(self) -> Edge:
        """The edge that the counter shows now, from one read and without waiting.

        It is dated by the lattice where the read was clearly between two of its edges. Otherwise it is anywhere in
        the last period: u^2 = T^2 / 12 + jitter^2.
        """
        read = self.read()
        lattice = self.lattice
        shown = self.edge_shown(read) if lattice is not None and lattice.reaches(read.end_s) else None
        return shown or self._unphased(read)

    def edge_shown(self, read: Read) -> Edge | None:
        """The edge whose energy a read shows; ``None`` where it was not clearly between two edges of the lattice."""
        lattice = self.lattice
        if lattice is None:
            return None
        edge_s = lattice.last_before(read.start_s)
        clear = read.start_s >= self.surely_new_s(edge_s) - 1e-9
        if not clear or read.end_s > self.surely_old_s(edge_s + lattice.period_s):
            return None
        return Edge(edge_s, read.energy_j, self.content_s)

    def date(self, sighting: Sighting, edge_s: float) -> tuple[float, float]:
        """When the update of a sighting happened, whose place on the lattice is ``edge_s``, and how uncertain that is.

        The lattice says N(edge, content^2), the sighting bounds it; an update that came late lies in its sighting.
        """
        content_s = self.content_s
        if sighting.width_s > self._wide_s:
            content_s = max(content_s, _WIDE_ERROR_S)
        return _truncated_normal(edge_s, content_s, sighting.after_s, sighting.before_s)

    def is_doubtful(self, sighting: Sighting, edge_s: float) -> bool:
        """Whether the sighting is too wide to distinguish a late update from a punctual one."""
        return sighting.width_s > self._wide_s and sighting.before_s > edge_s + self._late_s

    @property
    def _guard_before_s(self) -> float:
        return _GUARD_BEFORE_S + (1.2 * self.lattice.reach_s if self.lattice else 0.0)

    @property
    def _wide_s(self) -> float:
        return min(_WIDE_S, _WIDE_SHARE * self.period_s)

    @property
    def _late_s(self) -> float:
        return min(_LATE_S, _LATE_SHARE * self.period_s)

    def surely_new_s(self, edge_s: float) -> float:
        """From when on a read surely shows the edge at ``edge_s``."""
        return edge_s + max(self._wide_s, self._guard_before_s)

    def surely_old_s(self, edge_s: float) -> float:
        """Until when a read surely does not show it yet."""
        return edge_s - self._guard_before_s

    def _unphased(self, read: Read) -> Edge:
        jitter_s = self.lattice.jitter_s if self.lattice else 0.0
        middle_s = (read.start_s + read.end_s) / 2.0
        return Edge(middle_s - self.period_s / 2.0, read.energy_j, math.hypot(self.period_s / SQRT12, jitter_s))

    def _fit(self) -> None:
        self.lattice = fit_lattice(self._sightings, self._known) if self._regular else None
        if self.lattice is not None:
            self.period_s = self.lattice.period_s
            self._known = Period(self.lattice.period_s, self.lattice.period_error_s)


def _truncated_normal(mean: float, deviation: float, low: float, high: float) -> tuple[float, float]:
    """Mean and standard deviation of a normal distribution between two bounds.

    Where the bounds lie far out in its tail, those of the stretch between them.
    """
    a, b = (low - mean) / deviation, (high - mean) / deviation
    inside = (math.erf(b / math.sqrt(2.0)) - math.erf(a / math.sqrt(2.0))) / 2.0
    if inside < 1e-3:
        return (low + high) / 2.0, max((high - low) / SQRT12, deviation)
    density = [math.exp(-min(z * z, 1400.0) / 2.0) / math.sqrt(2.0 * math.pi) for z in (a, b)]
    shift = (density[0] - density[1]) / inside
    variance = 1.0 + (a * density[0] - b * density[1]) / inside - shift**2
    return mean + deviation * shift, deviation * math.sqrt(max(variance, 1e-4))
