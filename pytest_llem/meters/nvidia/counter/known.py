"""What is known of one board's energy counter: kept from session to session, and measured again when it is wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_llem.meters.nvidia.counter.calibration import Calibration, CounterTiming, calibrate
from pytest_llem.meters.nvidia.counter.counter import ASSUMED_PERIOD_S, POLL_STEP_S, SQRT12, Counter
from pytest_llem.meters.nvidia.counter.pursuit import AWAITED_PERIODS

if TYPE_CHECKING:
    from pytest_llem.meters.base import Clock
    from pytest_llem.meters.nvidia.counter.calibration_store import CalibrationStore
    from pytest_llem.meters.nvidia.counter.counter import ReadJoules
    from pytest_llem.meters.nvidia.library import Board

_MOST_PROBES = 2  # of a counter that contradicts what is known of it
_MOST_LOSSES = 3  # of its phase: updates that move about so much keep no lattice
_UNKNOWN_TIMING = CounterTiming(ASSUMED_PERIOD_S, 0.0, 0.001, 0.0)
_PHASE_UPDATES = 5  # enough for the phase of a counter of known period
_SAME_PERIOD = 0.02  # of a period: one that differs by more is another


class KnownCounter:
    """One board's counter, and how it behaves.

    Whatever reads it raises a ``MeasurementError`` when the board stopped answering, or its counter was reset.

    Attributes:
        board: the board that it counts for.
        calibration: ``None`` before :meth:`learn`, and for a counter that stands still.
        counter: its edges; another object whenever its behaviour was measured again.
    """

    def __init__(self, board: Board, read: ReadJoules, clock: Clock, store: CalibrationStore, aligned: bool) -> None:
        """Use a counter that answers.

        Args:
            board: the board that it counts for.
            read: reads it, in joules.
            clock: the clock that windows are timed by.
            store: where its calibration is kept from session to session.
            aligned: whether windows may wait for its edges.
        """
        self.board = board
        self.calibration: Calibration | None = None
        self.counter = Counter(read, clock)
        self.clock = clock
        self._read = read
        self._store = store
        self._wants_alignment = aligned
        self._learned = False
        self._probes = 0
        self._losses = 0

    @property
    def aligned(self) -> bool:
        """Whether windows wait for its edges."""
        return self._wants_alignment and self.calibration is not None and not self.calibration.under_reports

    @property
    def timing(self) -> CounterTiming:
        """How the counter behaves, as far as that is known."""
        return _UNKNOWN_TIMING if self.calibration is None else self.calibration.timing

    @property
    def period_s(self) -> float:
        """Time between two updates, in seconds, as far as that is known."""
        return self.counter.period_s

    @property
    def edge_error_s(self) -> float:
        """What an edge is dated by, standard uncertainty in seconds."""
        if self.counter.lattice is not None:
            return self.counter.content_s
        return (POLL_STEP_S + self.timing.read_cost_s) / SQRT12

    def forget_edges(self) -> None:
        """Called when the edges seen so far say nothing about those to come."""

    def learn(self) -> bool:
        """Measure how the counter behaves, where that is not known or was contradicted. Takes seconds, once.

        Returns:
            Whether this was the first time.
        """
        first = not self._learned
        if first:
            self.calibration = self._store.load(self.board.uuid, self.board.driver_version)
            if self.calibration is not None:
                self.counter = self._known_counter()
            if self.calibration is None or (self.aligned and not self._find_phase()):
                self._calibrate()
            self._learned = True
        elif self.aligned and self.counter.contradicts_period and self._probes < _MOST_PROBES:
            self._probes += 1
            self._calibrate()
            if self._probes == _MOST_PROBES:
                self._give_up_lattice()
        return first

    def keep_phase(self) -> None:
        """Find the phase of the lattice where it is not known any more; give the lattice up if that is too often."""
        lattice = self.counter.lattice
        if lattice is not None and (self.counter.phase_is_lost or not lattice.reaches(self.clock.now_s())):
            self._losses += self.counter.phase_is_lost
            self._find_phase()
        if self._losses >= _MOST_LOSSES or self.counter.wanders:
            self._give_up_lattice()

    def _find_phase(self) -> bool:
        """Watch some updates of a counter whose period is known.

        Returns:
            Whether they agree with it.
        """
        known_s = self.timing.period_s
        changes = self.counter.watch(_PHASE_UPDATES, AWAITED_PERIODS * known_s)
        if len(changes) < _PHASE_UPDATES:
            return False
        period = self.counter.period_seen()
        if period is not None and abs(period.seconds - known_s) > _SAME_PERIOD * known_s + 3.0 * period.error_s:
            return False
        gap_s = (changes[-1].end_s - changes[0].end_s) / (len(changes) - 1)
        return abs(gap_s - known_s) <= 0.1 * known_s + 2.0 * self.timing.jitter_s + self.timing.read_cost_s

    def _calibrate(self) -> None:
        self.forget_edges()
        self.counter = Counter(self._read, self.clock)
        self.calibration = calibrate(self.counter)
        if self.counter.wanders:
            self._give_up_lattice()
        elif self.calibration is not None and self.counter.sees_clearly:
            # What a slowed host saw is used in this session, and not in the next.
            self._store.save(self.board.uuid, self.board.driver_version, self.calibration)

    def _give_up_lattice(self) -> None:
        """The verdict that this counter's updates cannot be predicted: from now on each edge is waited for."""
        if self.calibration is not None:
            self.calibration = replace(self.calibration, timing=replace(self.timing, regular=False))
            self._store.save(self.board.uuid, self.board.driver_version, self.calibration)
            self.counter = self._known_counter()
            self.forget_edges()

    def _known_counter(self) -> Counter:
        timing = self.timing
        return Counter(self._read, self.clock, timing.period_s, jitter_s=timing.jitter_s, regular=timing.regular)
