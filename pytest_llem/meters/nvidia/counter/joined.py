"""One board's energy counter in windows back to back: what is read at the boundaries, and what it tells."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

from pytest_llem.meters.nvidia.counter.counter import CounterResetError, Edge
from pytest_llem.meters.nvidia.counter.lattice import Sighting
from pytest_llem.meters.nvidia.joined_energy import Anchor, joined_energies
from pytest_llem.meters.nvidia.power_trace import PowerTrace
from pytest_llem.meters.nvidia.samples import integrate
from pytest_llem.meters.nvidia.sensor_lag import SAMPLE_LATE_S, Span, seen_lag
from pytest_llem.meters.nvidia.visibility import describe
from pytest_llem.meters.nvidia.window_energy import LAG_S, WindowEnergy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.meters.nvidia.counter.counter import Counter, Read
    from pytest_llem.meters.nvidia.counter.sensor import CounterSensor
    from pytest_llem.meters.nvidia.joined_energy import JoinedEnergies
    from pytest_llem.meters.nvidia.samples import PowerSample

_LOOK_BACK_S = 0.1
_RECENT_S = 0.3
_CLEARLY = 0.3  # of the energy of a period: so near must a value be to what the samples say of its edge
_DRIFT = 50e-6  # of the clock of a board
_ROUGH_FACTOR = 4.0
_STEP_ERROR_S = 0.0012
# Windows of fewer periods of the samples are not seen: simulated, two of three of them then lie outside their intervals
# of 95%, and their sum is off by up to seven half-widths.
_SHORTEST_PERIODS = 1.25


class JoinedCounter:
    """The boundaries of one board's windows.

    Attributes:
        sensor: its counter and samples.
    """

    def __init__(self, sensor: CounterSensor) -> None:
        """Begin a stretch: ``sensor`` has found its edge before the work."""
        self.sensor = sensor
        self._spans: list[Span] = []
        self._edges: list[Edge] = [] if sensor.before is None else [sensor.before]
        self._shown_j: float | None = None  # at the end of the last window, provisionally

    def end_window(self, span: Span) -> WindowEnergy | None:
        """Read counter and samples once, right after a window.

        Returns:
            The window's energy as far as it is known now; ``None``: not at all.
        """
        sensor = self.sensor
        before_s, before_j = (self._spans[-1].end_s if self._spans else None), self._shown_j
        self._spans.append(span)
        self._shown_j = None
        try:
            read = sensor.counter.read()
            samples = sensor.fetched(span.start_s - _RECENT_S)
            edge = self._edge_of(read, samples)
        except CounterResetError:
            sensor.note_reset(in_window=True)
            return None
        if edge is None or not self._edges:
            return None
        self._edges.append(edge)
        idle = self._idle_w()
        if before_s is None:
            first = self._edges[0]
            before_j = first.energy_j + idle * (span.start_s - first.time_s)
        elif before_j is not None:
            before_j += idle * (span.start_s - before_s)
        now_w = _shown_w(samples, span.end_s)
        # What lies after the newest edge, and what the sensor has yet to show.
        since_j = _integral_j(samples, edge.time_s, span.end_s)
        self._shown_j = edge.energy_j + since_j + LAG_S * (now_w - idle)
        if before_j is None:
            return None
        error_j = math.hypot(_STEP_ERROR_S * abs(now_w - idle), sensor.counter.content_s * now_w)
        return WindowEnergy(self._shown_j - before_j, _ROUGH_FACTOR * math.sqrt(2.0) * error_j)

    def energies(self, whole: WindowEnergy) -> JoinedEnergies | None:
        """The energies of all windows, once the stretch has settled.

        Args:
            whole: energy of the whole stretch, from idle to idle.
        """
        sensor = self.sensor
        start = sensor.start
        if start is None or not self._edges or self.unseen is not None:
            return None
        first, idle = start.edge, start.idle
        edges = [first, *self._edges[1:], *sensor.after]
        samples = sensor.kept(first.time_s - _LOOK_BACK_S)
        if len(samples) < 2 or samples[0].time_s > first.time_s:
            return None
        lag = seen_lag(samples, self._spans[0], self._spans[-1], idle)
        trace = PowerTrace(samples, self._spans, idle, lag)
        whole_error_j = whole.uncertainty_j / 2.0
        end_error_j = math.sqrt(max(whole_error_j**2 - start.anchor.error_j**2, 0.0))
        end = Anchor(start.anchor.energy_j + whole.joules, end_error_j)
        lattice = sensor.counter.lattice
        known_s = lattice.origin_s if lattice is not None else first.time_s
        drift_s = _DRIFT * max(known_s - first.time_s, 0.0)
        return joined_energies(
            self._spans,
            edges,
            trace,
            start.anchor,
            end,
            idle.power_w,
            lag,
            drift_s,
            sensor.timing.resolution_j,
        )

    @property
    def unseen(self) -> str | None:
        """Why the samples do not tell the windows' energy; ``None`` where they may."""
        period_s = self.sensor.sample_period_s
        if not self._spans or period_s is None:
            return None
        usual_s = statistics.median(span.end_s - span.start_s for span in self._spans)
        if usual_s >= _SHORTEST_PERIODS * period_s:
            return None
        return (
            f"windows of {usual_s * 1e3:.3g} ms are too short to be joined: the driver of "
            f"{describe([self.sensor.board])} samples its power every {period_s * 1e3:.3g} ms; measure longer ones"
        )

    def _idle_w(self) -> float:
        idle = self.sensor.idle
        return 0.0 if idle is None else idle.power_w

    def _edge_of(self, read: Read, samples: Sequence[PowerSample]) -> Edge | None:
        """The edge whose value a read shows; where the read does not tell, the samples do, or another read."""
        counter = self.sensor.counter
        lattice = counter.lattice
        if lattice is None:
            return None
        shown = counter.edge_shown(read)
        if shown is not None:
            return shown
        told = self._told_by_samples(counter, read, samples)
        return counter.edge_now() if told is None else told

    def _told_by_samples(self, counter: Counter, read: Read, samples: Sequence[PowerSample]) -> Edge | None:
        lattice, last = counter.lattice, self._edges[-1] if self._edges else None
        if lattice is None or last is None or not samples or samples[0].time_s > last.time_s + 2 * _RECENT_S:
            return None
        oldest_s = lattice.last_before(read.start_s)
        if read.start_s < counter.surely_new_s(oldest_s):
            oldest_s -= lattice.period_s
        candidates_s = [oldest_s]
        while counter.surely_old_s(candidates_s[-1] + lattice.period_s) <= read.end_s:
            candidates_s.append(candidates_s[-1] + lattice.period_s)
        said_j = [last.energy_j + _integral_j(samples, last.time_s, each_s) for each_s in candidates_s]
        off_j = [abs(read.energy_j - each_j) for each_j in said_j]
        best = min(range(len(off_j)), key=off_j.__getitem__)
        apart_j = (said_j[-1] - said_j[0]) / max(len(said_j) - 1, 1)
        if off_j[best] > _CLEARLY * apart_j:
            return None
        edge_s = candidates_s[best]
        if best + 1 < len(candidates_s):
            following_s = candidates_s[best + 1]
            if read.start_s > following_s - lattice.period_s / 4.0:
                counter.see(Sighting(read.start_s, max(counter.surely_new_s(following_s), read.start_s)))
        elif read.end_s < edge_s + lattice.period_s / 4.0:
            counter.see(Sighting(min(counter.surely_old_s(edge_s) - 0.013, read.start_s), read.end_s))
        return Edge(edge_s, read.energy_j, counter.content_s)


def _shown_w(samples: Sequence[PowerSample], at_s: float) -> float:
    """What the sensor shows, by the newest sample until an instant."""
    before = [sample.power_w for sample in samples if sample.time_s - SAMPLE_LATE_S <= at_s]
    return before[-1] if before else 0.0


def _integral_j(samples: Sequence[PowerSample], from_s: float, to_s: float) -> float:
    """What the sensor shows from one instant to a later one."""
    return integrate(samples, from_s + SAMPLE_LATE_S, to_s + SAMPLE_LATE_S) if samples else 0.0
