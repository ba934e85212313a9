"""One board's energy counter in one window after the other."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from pytest_llem.meters.nvidia.agreement import DISAGREEMENTS, disagreement, power_curve, sampled_energy
from pytest_llem.meters.nvidia.counter.counter import CounterResetError, mean_power
from pytest_llem.meters.nvidia.counter.known import KnownCounter
from pytest_llem.meters.nvidia.counter.pursuit import Pursuit, next_edge
from pytest_llem.meters.nvidia.counter.rest import BoardAtRest
from pytest_llem.meters.nvidia.counter.sizing import least_window_s
from pytest_llem.meters.nvidia.idle_power import FLAT_SHARE, FLAT_W, Idle
from pytest_llem.meters.nvidia.joined_energy import Anchor
from pytest_llem.meters.nvidia.reading import Reading
from pytest_llem.meters.nvidia.settling import Settling, Stretch, settle
from pytest_llem.meters.nvidia.visibility import describe
from pytest_llem.meters.nvidia.window_energy import HELD_S, head, interpolated_energy, window_energy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.meters.base import Clock, PowerCurve
    from pytest_llem.meters.nvidia.counter.calibration_store import CalibrationStore
    from pytest_llem.meters.nvidia.counter.counter import Edge, ReadJoules
    from pytest_llem.meters.nvidia.library import Board
    from pytest_llem.meters.nvidia.samples import PowerSample, SampleBuffer

_TRIES = 2  # of an edge before the work: a reset takes one
_NEXT_SAMPLE_S = 0.02
_SETTLED_EDGES, _SETTLED_SHARE = 2.0, 0.002  # settling known so well, in errors of edges or of the energy, is enough
_UNSEEN_EDGES = 2  # further edges that show how a board settles of which there are no samples
_LOOK_BACK_S = 1.0
_REST_TRIES = 3
_STEP_W = 10.0  # above idle power: less than that costs less than the wait for another edge
_REST_ERROR = 0.01


class SettledStart(NamedTuple):
    """How a window of a board at rest began.

    Attributes:
        edge: the edge before it.
        anchor: what the counter had shown at its start.
        idle: power before it.
    """

    edge: Edge
    anchor: Anchor
    idle: Idle


class CounterSensor(KnownCounter):
    """One board's counter, from window to window.

    A counter that may be read often is read at an edge before the work and at the first one after it at which the board
    has settled (:mod:`pytest_llem.meters.nvidia.window_energy`). One that loses counts by being read, or that is not to
    be waited for, is read once at either end. A reset in a window is the reason of its :meth:`reading`.

    Attributes:
        before: the edge before the work of the present window.
        after: the edges after it, oldest first.
        start: how the last window began.
        curve: the samples of the last window.
    """

    def __init__(
        self,
        board: Board,
        read: ReadJoules,
        clock: Clock,
        store: CalibrationStore,
        aligned: bool,
        samples: SampleBuffer | None = None,
    ) -> None:
        """Use a counter that answers.

        Args:
            board, read, clock, store, aligned: see :class:`KnownCounter`.
            samples: of the board's power, where its driver keeps any.
        """
        super().__init__(board, read, clock, store, aligned)
        self._samples = samples
        self._rest = BoardAtRest()
        self._disagreements = 0
        self._seen_before_s = math.inf
        self.before: Edge | None = None
        self.curve: PowerCurve | None = None
        self.after: list[Edge] = []
        self.start: SettledStart | None = None
        self._was_reset = False
        self._looked_again = False

    def prepare(self) -> None:
        """Measure how the counter behaves, where that is not known or was contradicted. Takes seconds, once."""
        if self.learn():
            self._rest.idle_before(self.fetched(-math.inf), self.clock.now_s())

    def least_window_s(self, relative_uncertainty: float) -> float | None:
        """Seconds that a window needs for its energy to be known so well; ``None``: no length would help."""
        if self.calibration is None:
            return None
        idle_w = None if self._rest.idle is None else self._rest.idle.power_w
        edge_error_s = self.edge_error_s if self.aligned else None
        timing = self.timing
        return least_window_s(timing.period_s, timing.resolution_j, relative_uncertainty, idle_w, edge_error_s)

    @property
    def joins(self) -> str | None:
        """Why windows cannot be joined on this board; ``None`` where they can."""
        name = describe([self.board])
        if self.aligned and self.timing.regular and self.counter.lattice is None:
            # Sightings contradicted each other, which is no verdict on the board. What is asked for is to be the same
            # in every run.
            try:
                self._find_phase()
            except CounterResetError:
                self.note_reset(in_window=False)
        if not self.aligned:
            return f"the energy counter of {name} is not waited for, so that its windows have no edges of their own"
        if not self.timing.regular or self.counter.lattice is None:
            return f"the energy counter of {name} is updated at irregular instants, so that windows cannot be joined"
        if self._samples is None:
            return f"the driver keeps no power samples of {name}, so that windows cannot be joined"
        return None

    @property
    def sample_period_s(self) -> float | None:
        """Time between two samples of the board's power; ``None`` where its driver keeps none."""
        return None if self._samples is None else self._samples.period_s

    @property
    def idle(self) -> Idle | None:
        """Power at rest, as it was last seen."""
        return self._rest.idle

    def between_calls(self) -> None:
        """Fetch the samples before the driver forgets them."""
        if self._samples is not None:
            self._samples.fetch_in_time()

    def note_rest(self) -> None:
        """Nothing runs now, and the window before is over: note the idle power, if the samples show enough of it."""
        now_s = self.clock.now_s()
        self._rest.idle_before(self.fetched(now_s - _LOOK_BACK_S), now_s)

    def others_worked(self) -> None:
        """Another process has worked on the board, until now at most."""
        self._rest.others_worked(self.clock.now_s())

    def set_idle_power(self, power_w: float, error_w: float) -> None:
        """Use a measured idle power and its standard uncertainty, in watts."""
        known = self._rest.idle
        self._rest.idle = Idle(power_w, error_w, known.noise_w if known else 1.0)

    def begin_window(self) -> None:
        """Find an edge of the board at rest: the newest one, or the next where the counter keeps no lattice."""
        self.before = self.curve = self.start = None
        self.after = []
        self._was_reset = self._looked_again = False
        for _ in range(_TRIES):
            try:
                self.before = self._find_before()
                return
            except CounterResetError:
                self.note_reset(in_window=False)

    def end_window(self) -> None:
        """Read a counter that is not waited for, as soon as the work has ended."""
        if not self.aligned:
            try:
                self.after = [self.counter.glance()]
            except CounterResetError:
                self.note_reset(in_window=True)

    def mark(self) -> Edge | None:
        """An edge now, outside any window; ``None`` where the counter was reset or stands still."""
        known = self.calibration is not None and not self.calibration.under_reports
        try:
            if not self.aligned and self.counter.lattice is not None and known:
                return self.counter.edge_now()
            return self._find_before()
        except CounterResetError:
            self.note_reset(in_window=False)
            return None

    def _find_before(self) -> Edge | None:
        if not self.aligned:
            return self.counter.glance()
        samples = self.fetched(self.clock.now_s() - _LOOK_BACK_S)
        if self.timing.regular:
            self.keep_phase()
        edge = self._next_edge() if self.counter.lattice is None else self.counter.edge_now()
        if self._samples is None:
            return self._at_rest_by_counter(edge)
        edge = self._at_rest(edge, samples)
        # Half a period more: its date may yet be put elsewhere.
        self._seen_before_s = self._samples.newest_s + self._samples.period_s / 2.0
        return edge

    def next_after(self, end_s: float) -> Pursuit | None:
        """The edge that the window needs next after its work; ``None``: it needs no more."""
        before = self.before
        if before is None or self._was_reset or not self.aligned:
            return None
        if not self.after:
            return Pursuit(self.counter, end_s + self._rest.faded_s)
        settling, enough = self._has_settled(before, end_s)
        if not enough and self._samples is not None and not self._looked_again:
            # The next sample is sooner there than the next edge.
            self._looked_again = True
            self.clock.sleep(_NEXT_SAMPLE_S)
            settling, enough = self._has_settled(before, end_s)
        last_s = self.after[-1].time_s
        unseen = not settling.seen and len(self.after) <= _UNSEEN_EDGES
        if self._samples is not None and len(self.after) == 1:
            checks = self._rest.wants_check(last_s - end_s, self.counter.period_s)
            enough, unseen = enough and not checks, unseen or checks
        if enough or not (unseen or last_s - end_s + self.counter.period_s <= settling.patience_s):
            return None
        return Pursuit(self.counter, last_s + self.counter.period_s / 2.0)

    def note_after(self, edge: Edge | None) -> None:
        """Keep the edge that was waited for; ``None``: the counter stands still."""
        if edge is None:
            self.before = None
        else:
            self.after.append(edge)

    def note_reset(self, in_window: bool) -> None:
        """The counter went backwards: earlier edges no longer count."""
        self._was_reset |= in_window
        self.forget_edges()

    def forget_edges(self) -> None:
        """Forget the edge since which nothing has run."""
        self._rest.edge = None

    def reading(self, start_s: float, end_s: float) -> Reading:
        """The window's energy, from the edges that were noted."""
        name, before, after = describe([self.board]), self.before, self.after
        if self._was_reset:
            reason = f"the energy counter of {name} was reset in the window"
            return Reading(self.board.uuid, reason=reason, reset=True)
        reason = f"below the counter's resolution: the energy counter of {name} "
        if self.calibration is None:
            return Reading(self.board.uuid, reason=f"{reason}stands still or is updated too rarely to be of use")
        if before is not None and after and end_s > start_s and after[-1].energy_j > before.energy_j:
            method = self._settled_reading if self.aligned else self._plain_reading
            reading = method(before, start_s, end_s)
            if reading is not None:
                return reading
        reason += f"did not change in {end_s - start_s:.3g} s; measure a longer window"
        return Reading(self.board.uuid, reason=reason)

    def _settled_reading(self, before: Edge, start_s: float, end_s: float) -> Reading:
        after = self.after[-1]
        samples = self.kept(before.time_s - _LOOK_BACK_S)
        seen_before, idle = self._before_work(samples, start_s)
        start = head(before.time_s, start_s, idle, seen_before, self._rest.tau_s)
        if start.disturbed:
            self._rest.edge = None
        before = self._rest.end(self.counter, before, idle, samples)
        settling = self._settle(before, start_s, end_s)
        if len(self.after) > 1:
            self._rest.check(self.counter, self.after, settling.idle_w, samples)
        energy = window_energy(before, after, start, settling, idle, self.timing.resolution_j)
        error_j = math.hypot(idle.power_w * before.uncertainty_s, start.error_j)
        self.start = SettledStart(before, Anchor(before.energy_j + start.joules, error_j), idle)
        self._rest.begin(after, settling)
        self.curve = power_curve(samples, start_s, after.time_s)
        warnings = self._warnings()
        sampled = sampled_energy(samples, start_s, end_s, idle, settling, after.time_s)
        if sampled is not None:
            text = disagreement(energy, sampled, start_s, end_s, idle, self.board.power_limit_w)
            self._disagreements = self._disagreements + 1 if text else 0
            if text and sampled.from_s <= start_s:
                # Which of the two is wrong is not known.
                apart_j = abs(energy.joules - sampled.energy.joules)
                energy = energy._replace(uncertainty_j=max(energy.uncertainty_j, apart_j))
            if self._disagreements == 1:
                warnings = (*warnings, f"the sensors of {describe([self.board])} disagree: {text}")
        return Reading(self.board.uuid, energy, warnings=warnings, doubtful=self._disagreements >= DISAGREEMENTS)

    def _plain_reading(self, before: Edge, start_s: float, end_s: float) -> Reading | None:
        after = self.after[0]
        # The power before the start is anything between idle and that of the work, which may go on at once; most often
        # one of these two.
        seconds = after.time_s - before.time_s
        mean_w = (after.energy_j - before.energy_j) / seconds if seconds > 0 else 0.0
        idle_w = min(self._rest.idle.power_w if self._rest.idle else 0.0, mean_w)
        deviation_w = max((mean_w - idle_w) / 2.5, 0.1 * mean_w)
        energy = interpolated_energy(before, start_s, end_s, after, (idle_w + mean_w) / 2.0, deviation_w)
        return None if energy is None else Reading(self.board.uuid, energy, warnings=self._warnings())

    def _has_settled(self, before: Edge, end_s: float) -> tuple[Settling, bool]:
        """How far the board has settled by now, and whether that is known well enough."""
        self.fetched(end_s)
        settling = self._settle(before, before.time_s, end_s)
        gain_j = self.after[-1].energy_j - before.energy_j
        edges_j = settling.idle_w * self.edge_error_s
        return settling, settling.error_j <= max(_SETTLED_EDGES * edges_j, _SETTLED_SHARE * gain_j)

    def _settle(self, before: Edge, start_s: float, end_s: float) -> Settling:
        samples = self.kept(before.time_s - _LOOK_BACK_S)
        _, idle = self._before_work(samples, start_s)
        last = self.after[-1]
        above_j = last.energy_j - before.energy_j - idle.power_w * (last.time_s - before.time_s)
        gains = [_stretch(earlier, later, end_s) for earlier, later in pairwise(self.after)]
        return settle(samples, gains, end_s, last.time_s, idle, max(above_j / max(end_s - start_s, 1e-3), 0.0))

    def _before_work(self, samples: Sequence[PowerSample], start_s: float) -> tuple[list[PowerSample], Idle]:
        """The samples that were there before the work, and idle power by them.

        Not those that came later and are dated before it: dates that are early would take the work for idle power.
        """
        before = [sample for sample in samples if sample.time_s <= self._seen_before_s]
        return before, self._rest.idle_before(before, start_s)

    def fetched(self, from_s: float) -> list[PowerSample]:
        """The board's samples since an instant, with those that have come just now."""
        if self._samples is not None:
            self._samples.fetch()
        return self.kept(from_s)

    def kept(self, from_s: float) -> list[PowerSample]:
        """The board's samples since an instant, as far as they were fetched."""
        return [] if self._samples is None else self._samples.between(from_s, math.inf)

    def _at_rest(self, edge: Edge | None, samples: Sequence[PowerSample]) -> Edge | None:
        """A later edge, where there was other work about this one.

        Work that ended a moment ago still shows as steady power, because the sensor lags: so power far above the idle
        power that is known is waited out as well, as long as that takes a few periods and no longer.
        """
        idle = self._rest.idle
        for _ in range(_REST_TRIES):
            if edge is None:
                return None
            from_s = edge.time_s - HELD_S
            powers_w = [sample.power_w for sample in samples if sample.time_s >= from_s]
            if not powers_w:
                return edge
            rest_w = powers_w[-1] if idle is None else min(powers_w[-1], idle.power_w)
            if max(powers_w) - rest_w < _STEP_W:
                return edge
            edge = self._next_edge()
            samples = self.fetched(from_s)
        return edge

    def _at_rest_by_counter(self, edge: Edge | None) -> Edge | None:
        """Without samples only the counter shows whether the board is at rest, and at which power."""
        for _ in range(_REST_TRIES):
            if edge is None:
                return None
            known, last = self._rest.idle, self._rest.edge
            if last is not None and edge.time_s > last.time_s + 0.5 * self.counter.period_s:
                power_w, error_w = mean_power(last, edge)
                off_w = 0.0 if known is None else abs(power_w - known.power_w)
                rests = off_w <= max(FLAT_W, FLAT_SHARE * power_w) + 2.0 * error_w
                # Long stretches average over a drift: what counts is the power now.
                error_w = math.hypot(error_w, _REST_ERROR * power_w) if rests else off_w
                self.set_idle_power(power_w, error_w)
                if rests:
                    return edge
            self._rest.edge, edge = edge, self._next_edge()
        return edge

    def _next_edge(self) -> Edge | None:
        return next_edge(self.counter, self.clock.now_s())

    def _warnings(self) -> tuple[str, ...]:
        name = describe([self.board])
        if self.calibration is not None and self.calibration.under_reports:
            return (
                f"the energy counter of {name} counts too little when it is read often: it is read once at either "
                "end of a window, with a wider uncertainty",
            )
        if self.aligned and self.counter.contradicts_period:
            return (
                f"the energy counter of {name} did not keep the update period of {self.timing.period_s * 1e3:.3g} ms "
                "that it was known by; the uncertainty of this window may be larger than stated",
            )
        return ()


def _stretch(earlier: Edge, later: Edge, end_s: float) -> Stretch:
    """Mean power between two edges; instants since ``end_s``."""
    return Stretch(earlier.time_s - end_s, later.time_s - end_s, *mean_power(earlier, later))
