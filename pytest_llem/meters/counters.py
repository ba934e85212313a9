"""The energy counters of boards, read at the edges of windows.

A counter that may be read often is read at its own edges: wait for one before the work, and for some after it
(:mod:`pytest_llem.meters.alignment`, :mod:`pytest_llem.meters.tail`). One that loses counts by being read, or
that nobody wants to wait for, is read once at either end.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_llem.meters.alignment import CounterResetError, CounterTiming, EdgeFinder, probe_timing, wait_for_edges
from pytest_llem.meters.calibration import ASSUMED_UPDATE_PERIOD_S, Calibration, calibrate
from pytest_llem.meters.reading import Reading
from pytest_llem.meters.sizing import aligned_window_s, unaligned_window_s
from pytest_llem.meters.tail import TailModel, interpolated_energy
from pytest_llem.meters.visibility import describe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.meters.alignment import Edge, ReadJoules
    from pytest_llem.meters.base import Clock
    from pytest_llem.meters.boards import Board
    from pytest_llem.meters.calibration_store import CalibrationStore
    from pytest_llem.meters.tail import WindowEnergy

# A counter whose edges contradict what was just probed is irregular: probing it for ever would not help.
_MOST_PROBES = 3
_UNKNOWN_TIMING = CounterTiming(ASSUMED_UPDATE_PERIOD_S, 0.0, 0.001, 0.0)
_SQRT12 = math.sqrt(12.0)


class CounterSensor:
    """One board's counter, with what is known of it, and one window after the other.

    Attributes:
        board: whose counter it is.
        tail: what was learned about the power around windows.
        calibration: ``None`` before :meth:`prepare`, and for a counter that stands still.
        before: the edge before the work of the present window.
        was_reset: whether the counter went backwards in it.
    """

    def __init__(self, board: Board, read: ReadJoules, clock: Clock, store: CalibrationStore, aligned: bool) -> None:
        """Take a counter that answers.

        Args:
            board: whose it is.
            read: reads it, in joules.
            clock: the clock that windows are timed by.
            store: where its calibration is kept from session to session.
            aligned: whether windows may wait for its edges.
        """
        self.board = board
        self.tail = TailModel()
        self.calibration: Calibration | None = None
        self.finder = EdgeFinder(read, clock, _UNKNOWN_TIMING)
        self._read = read
        self._clock = clock
        self._store = store
        self._wants_alignment = aligned
        self._prepared = False
        self._probes = 0
        self.before: Edge | None = None
        self._after: list[Edge] = []
        self.was_reset = False

    @property
    def aligned(self) -> bool:
        """Whether windows wait for its edges."""
        return self._wants_alignment and self.calibration is not None and not self.calibration.under_reports

    @property
    def timing(self) -> CounterTiming:
        """How the counter behaves, as far as that is known."""
        return self.finder.timing

    def prepare(self) -> None:
        """Find out how the counter behaves, where that is not known or was contradicted. Takes seconds, once.

        Raises:
            MeasurementError: the board stopped answering, or its counter was reset meanwhile.
        """
        if not self._prepared:
            self.calibration = self._store.load(self.board.uuid, self.board.driver_version)
            if self.calibration is None:
                self.calibration = calibrate(self._read, self._clock)
                self._keep_calibration()
            self._restart()
            self._prepared = True
        elif self.calibration is not None and self.finder.contradicts_timing and self._probes < _MOST_PROBES:
            self._probes += 1
            self.calibration = Calibration(probe_timing(self._read, self._clock), self.calibration.under_reports)
            self._keep_calibration()
            self._restart()

    def least_window_s(self, relative_uncertainty: float) -> float | None:
        """Seconds that a window needs for its energy to be known so well; ``None``: no length would help."""
        if self.calibration is None:
            return None
        size = aligned_window_s if self.aligned else unaligned_window_s
        return size(self.timing, relative_uncertainty, self.tail.idle_power_w)

    def begin_window(self) -> None:
        """Forget the last window's edges."""
        self.before = None
        self._after = []
        self.was_reset = False

    def note_reset(self, in_window: bool) -> None:
        """The counter went backwards: its edges begin anew."""
        self.was_reset |= in_window
        self._restart()
        self.tail.interrupt()

    def note_edge(self, edge: Edge | None, after_work: bool) -> bool:
        """Take over an edge that was waited for.

        Returns:
            Whether there was one.
        """
        if edge is None:
            return False
        if after_work:
            self._after.append(edge)
        else:
            self.before = edge
        return True

    def glance(self, after_work: bool) -> None:
        """Read the counter once, at an end of the window."""
        edge = self.finder.glance()
        if after_work and self.before is not None and edge.energy_j < self.before.energy_j:
            self.note_reset(in_window=True)
            return
        self.note_edge(edge, after_work)

    def awaits_edge(self, waited_s: float) -> bool:
        """Whether the window needs another edge after the work; see :meth:`TailModel.wants_another_edge`."""
        if self.before is None or self.was_reset:
            return False
        return self.tail.wants_another_edge(len(self._after), waited_s, self.timing)

    def reading(self, start_s: float, end_s: float) -> Reading:
        """The window's energy, from the edges that were noted."""
        uuid, name = self.board.uuid, describe([self.board])
        if self.was_reset:
            return Reading(uuid, reason=f"the energy counter of {name} was reset in the window", reset=True)
        energy = self._energy(start_s, end_s) if end_s > start_s else None
        if energy is None:
            reason = (
                f"below the counter's resolution: the energy counter of {name} did not change "
                f"in {end_s - start_s:.3g} s; measure a longer window"
            )
            if self.calibration is None:
                reason += "; it changes too rarely to tell its update period"
            return Reading(uuid, reason=reason)
        return Reading(uuid, energy, warnings=self._warnings())

    def _energy(self, start_s: float, end_s: float) -> WindowEnergy | None:
        before, after = self.before, self._after
        if self.calibration is None or before is None or not after:
            return None
        if self.aligned:
            if len(after) < 2 and self.tail.idle_power_w is None:
                return None
            return self.tail.window_energy(before, start_s, end_s, after, self.timing)
        # The power before the start is anything between idle and that of the work, which may go on at once.
        seconds = after[0].time_s - before.time_s
        mean_w = (after[0].energy_j - before.energy_j) / seconds if seconds > 0 else 0.0
        idle_w = min(self.tail.idle_power_w or 0.0, mean_w)
        return interpolated_energy(
            before, start_s, end_s, after[0], (idle_w + mean_w) / 2.0, max((mean_w - idle_w) / _SQRT12, 0.1 * mean_w)
        )

    def _warnings(self) -> tuple[str, ...]:
        name = describe([self.board])
        if self.calibration is not None and self.calibration.under_reports:
            return (
                f"the energy counter of {name} counts too little when it is read often: it is read once at either "
                "end of a window, with a wider uncertainty",
            )
        if self.aligned and self.finder.contradicts_timing:
            return (
                f"the energy counter of {name} did not keep the update period of {self.timing.period_s * 1e3:.3g} ms "
                "that it was known by; the uncertainty of this window may be larger than stated",
            )
        return ()

    def _keep_calibration(self) -> None:
        if self.calibration is not None:
            self._store.save(self.board.uuid, self.board.driver_version, self.calibration)

    def _restart(self) -> None:
        timing = _UNKNOWN_TIMING if self.calibration is None else self.calibration.timing
        self.finder = EdgeFinder(self._read, self._clock, timing)


class CounterGroup:
    """The counters of several boards, whose edges are waited for together."""

    def __init__(self, sensors: Sequence[CounterSensor], clock: Clock) -> None:
        self.sensors = tuple(sensors)
        self._clock = clock
        self._waited_s = 0.0

    def begin(self, entered_s: float) -> None:
        """Wait for an edge of every counter; the window starts when this returns.

        Args:
            entered_s: since when the caller of the meter has been waiting, in seconds.

        Raises:
            MeasurementError: a board stopped answering.
        """
        for sensor in self.sensors:
            sensor.begin_window()
        self._wait([sensor for sensor in self.sensors if sensor.aligned], after_work=False)
        for sensor in self.sensors:
            if not sensor.aligned:
                sensor.glance(after_work=False)
        self._waited_s = self._clock.now_s() - entered_s

    def end(self) -> None:
        """Read the counters that nobody waits for; to be called as soon as the work has ended.

        Raises:
            MeasurementError: a board stopped answering.
        """
        for sensor in self.sensors:
            if not sensor.aligned:
                sensor.glance(after_work=True)

    def readings(self, start_s: float, end_s: float) -> list[Reading]:
        """Wait for the edges after the work, and tell every board's energy between two instants.

        Raises:
            MeasurementError: a board stopped answering.
        """
        waiting = [sensor for sensor in self.sensors if sensor.aligned]
        while waiting:
            waited_s = self._waited_s + self._clock.now_s() - end_s
            waiting = [sensor for sensor in waiting if sensor.awaits_edge(waited_s)]
            waiting = self._wait(waiting, after_work=True)
        return [sensor.reading(start_s, end_s) for sensor in self.sensors]

    def mark(self) -> list[Edge | None]:
        """An edge of every counter now, outside any window: waited for where that is allowed.

        Raises:
            MeasurementError: a board stopped answering.
        """
        self.begin(self._clock.now_s())
        return [sensor.before for sensor in self.sensors]

    def _wait(self, sensors: Sequence[CounterSensor], after_work: bool) -> list[CounterSensor]:
        """Wait for one edge of each of these; those that had one."""
        left = list(sensors)
        # Each reset takes one try; a counter that falls for ever is given up.
        for _ in range(len(sensors) + 1):
            try:
                edges = wait_for_edges([sensor.finder for sensor in left])
            except CounterResetError as error:
                for sensor in left:
                    if sensor.finder is error.finder:
                        sensor.note_reset(in_window=after_work)
                if after_work:
                    left = [sensor for sensor in left if not sensor.was_reset]
                continue
            return [sensor for sensor, edge in zip(left, edges, strict=True) if sensor.note_edge(edge, after_work)]
        return []
