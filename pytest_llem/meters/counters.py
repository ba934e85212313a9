"""The energy counters of boards, read around windows.

A counter that may be read often is read at an edge before the work and at the first one after it at which the board
has settled (:mod:`pytest_llem.meters.edges`, :mod:`pytest_llem.meters.window_energy`). One that loses counts by being
read, or that nobody wants to wait for, is read once at either end.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_llem.meters.agreement import DISAGREEMENTS, disagreement, power_curve, sampled_energy
from pytest_llem.meters.calibration import Calibration, CounterTiming, calibrate
from pytest_llem.meters.edges import ASSUMED_PERIOD_S, Counter, CounterResetError, Edge, Pursuit, wait_for_edges
from pytest_llem.meters.reading import Reading
from pytest_llem.meters.settling import FADED_S, Settling, Stretch
from pytest_llem.meters.sizing import aligned_window_s, unaligned_window_s
from pytest_llem.meters.visibility import describe
from pytest_llem.meters.window_energy import (
    HELD_S,
    LAG_S,
    Idle,
    WindowEnergy,
    head,
    idle_from_samples,
    interpolated_energy,
    is_flat,
    settle_after,
    unknown_idle,
    window_energy,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_llem.meters.base import Clock, PowerCurve
    from pytest_llem.meters.boards import Board
    from pytest_llem.meters.calibration_store import CalibrationStore
    from pytest_llem.meters.edges import ReadJoules
    from pytest_llem.meters.samples import PowerSample, SampleBuffer

_MOST_LOSSES = 3  # of the phase: updates that move about so much keep no lattice
_MOST_PROBES = 2  # a counter that contradicts what was just probed is irregular: probing it for ever would not help
_UNKNOWN_TIMING = CounterTiming(ASSUMED_PERIOD_S, 0.0, 0.001, 0.0)
_SQRT12 = math.sqrt(12.0)
_AWAITED_PERIODS = 10.0  # after which a counter that does not change stands still
_PHASE_UPDATES = 5  # that tell the phase of a counter whose period is known
_NEXT_SAMPLE_S = 0.02
_SETTLED_SHARE = 0.002  # of the window's energy: settling that is known so well needs no further edge
_UNSEEN_EDGES = 2  # without samples: further edges that show whether it has
_GAP_PERIODS = 5.0  # longest idle stretch whose gain dates edges
_QUIET_TRIES = 4
_REST_TRIES = 3
_SURPLUSES, _SURPLUS = 5, 3.0  # two of so many, each of so many standard deviations
_LATER_S, _LATEST_S = 0.02, 1.0
_FADING_W = 1.0  # of the last window's work: what is still drawn is not idle power
_STEP_W = 60.0  # other work that ended by such a step just before costs less than the wait for another edge


class CounterSensor:
    """One board's counter, with what is known of it, and one window after the other.

    Attributes:
        board: whose counter it is.
        calibration: ``None`` before :meth:`prepare`, and for a counter that stands still.
        counter: its edges.
        samples: the driver's samples of the board's power, where there are any.
        before: the edge before the work of the present window.
        after: the edges after it.
        was_reset: whether the counter went backwards in it.
        disagreement: how the samples contradict it, in words.
        curve: the samples of it.
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
        """Take a counter that answers.

        Args:
            board: whose it is.
            read: reads it, in joules.
            clock: the clock that windows are timed by.
            store: where its calibration is kept from session to session.
            aligned: whether windows may wait for its edges.
            samples: of the board's power, where its driver keeps any.
        """
        self.board = board
        self.samples = samples
        self.calibration: Calibration | None = None
        self.counter = Counter(read, clock)
        self._read = read
        self._clock = clock
        self._store = store
        self._wants_alignment = aligned
        self._prepared = False
        self._probes = 0
        self._losses = 0
        self._idle: Idle | None = None
        self._last_settling: Settling | None = None
        self._rest_s: float | None = None
        self._rest: Edge | None = None  # an edge since which nothing is known to have run
        self.before: Edge | None = None
        self.after: list[Edge] = []
        self.was_reset = False
        self.disagreement: str | None = None
        self.curve: PowerCurve | None = None
        self._disagreements = 0
        self._faded_s = FADED_S
        self._surpluses: deque[bool] = deque(maxlen=_SURPLUSES)
        self._looked_again = False

    @property
    def aligned(self) -> bool:
        """Whether windows wait for its edges."""
        return self._wants_alignment and self.calibration is not None and not self.calibration.under_reports

    @property
    def timing(self) -> CounterTiming:
        """How the counter behaves, as far as that is known."""
        return _UNKNOWN_TIMING if self.calibration is None else self.calibration.timing

    @property
    def keeps_lattice(self) -> bool:
        """Whether its updates are regular enough to be predicted."""
        return self.counter.lattice is not None

    def prepare(self) -> None:
        """Find out how the counter behaves, where that is not known or was contradicted. Takes seconds, once.

        Raises:
            MeasurementError: the board stopped answering, or its counter was reset meanwhile.
        """
        if not self._prepared:
            self.calibration = self._store.load(self.board.uuid, self.board.driver_version)
            if self.calibration is not None:
                self.counter = Counter(self._read, self._clock, self.timing.period_s, regular=self.timing.regular)
            if self.calibration is None or (self.aligned and not self._find_phase()):
                self._calibrate()
            self._prepared = True
            if self.samples is not None:
                self.samples.fetch()
                self._idle_before(self.samples.between(-math.inf, math.inf), self._clock.now_s())
        elif self.aligned and self.counter.contradicts_period and self._probes < _MOST_PROBES:
            self._probes += 1
            self._calibrate()
            if self._probes == _MOST_PROBES:
                self._give_up_lattice()

    def least_window_s(self, relative_uncertainty: float) -> float | None:
        """Seconds that a window needs for its energy to be known so well; ``None``: no length would help."""
        if self.calibration is None:
            return None
        idle_w = None if self._idle is None else self._idle.power_w
        if not self.aligned:
            return unaligned_window_s(self.timing, relative_uncertainty, idle_w)
        return aligned_window_s(self.timing, self.edge_error_s, relative_uncertainty, idle_w)

    @property
    def edge_error_s(self) -> float:
        """What an edge is dated by, standard uncertainty in seconds."""
        if self.keeps_lattice:
            return self.counter.content_s
        return (self.counter.poll_step_s + self.timing.read_cost_s) / _SQRT12

    def begin_window(self) -> None:
        """Forget the last window's edges, and see what the board did before this one."""
        self.before = None
        self.after = []
        self.was_reset = False
        self.disagreement = None
        self.curve = None
        self._looked_again = False
        if self.samples is not None:
            self.samples.fetch()

    def set_idle_power(self, power_w: float, error_w: float) -> None:
        """Take over a measured idle power and its standard uncertainty, in watts."""
        noise_w = self._idle.noise_w if self._idle else 1.0
        self._idle = Idle(power_w, error_w, noise_w)

    def note_reset(self, in_window: bool) -> None:
        """The counter went backwards: its edges begin anew."""
        self.was_reset |= in_window
        self._rest = None

    def glance(self, after_work: bool) -> None:
        """Read the counter once, at an end of the window.

        Raises:
            CounterResetError: it went backwards.
        """
        edge = self.counter.glance()
        if after_work:
            self.after = [edge]
        else:
            self.before = edge

    def edge_before(self) -> Edge | None:
        """An edge of a board at rest: its newest one, or the next where it keeps no lattice.

        Raises:
            CounterResetError: it went backwards.
        """
        counter = self.counter
        lattice = counter.lattice
        if lattice is not None and (counter.phase_is_lost or not lattice.reaches(self._clock.now_s())):
            self._losses += counter.phase_is_lost
            self._find_phase()
            if self._losses >= _MOST_LOSSES:
                self._give_up_lattice()
                counter = self.counter
        edge = counter.edge_now() if counter.lattice is not None else self._next_edge()
        self.before = self._at_rest(edge) if self.samples is None else self._undisturbed(edge, self.samples)
        return self.before

    def pursuit_after(self, end_s: float) -> Pursuit | None:
        """The edge that the window needs next after its work; ``None``: it needs no more."""
        if self.before is None or self.was_reset:
            return None
        if not self.after:
            return Pursuit(self.counter, end_s + self._faded_s)
        settling = self._settle(end_s)
        enough_j = max(2.0 * settling.idle_w * self.edge_error_s, _SETTLED_SHARE * self._gain_j())
        if settling.error_j <= enough_j:
            return None
        if self.samples is not None and not self._looked_again:
            # The next sample is sooner there than the next edge.
            self._looked_again = True
            self._clock.sleep(_NEXT_SAMPLE_S)
            settling = self._settle(end_s)
            if settling.error_j <= enough_j:
                return None
        next_s = self.after[-1].time_s - end_s + self.counter.period_s
        unseen = not settling.seen and len(self.after) <= _UNSEEN_EDGES
        if not unseen and next_s > settling.patience_s:
            return None
        return Pursuit(self.counter, self.after[-1].time_s + self.counter.period_s / 2.0)

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
        return Reading(uuid, energy, warnings=self._warnings(), doubtful=self.is_doubtful)

    def _energy(self, start_s: float, end_s: float) -> WindowEnergy | None:
        before, after = self.before, self.after
        if self.calibration is None or before is None or not after:
            return None
        if not self.aligned:
            # The power before the start is anything between idle and that of the work, which may go on at once.
            seconds = after[0].time_s - before.time_s
            mean_w = (after[0].energy_j - before.energy_j) / seconds if seconds > 0 else 0.0
            idle_w = min(self._idle.power_w if self._idle else 0.0, mean_w)
            sd_w = max((mean_w - idle_w) / _SQRT12, 0.1 * mean_w)
            return interpolated_energy(before, start_s, end_s, after[0], (idle_w + mean_w) / 2.0, sd_w)
        if not after[-1].energy_j > before.energy_j:
            return None
        samples = self._samples_since(before.time_s - 1.0)
        idle = self._idle_before(samples, start_s)
        last = self._last_settling
        start = head(before.time_s, start_s, idle, samples, last.tau_s if last is not None and last.seen else LAG_S)
        before = self._checked_by_gain(before, idle, start.disturbed, samples)
        settling = self._settle(end_s, start_s)
        energy = window_energy(before, after[-1], start, settling, idle, self.timing.resolution_j)
        self._compare(energy, samples, start_s, end_s, idle, settling)
        self._last_settling = settling
        self._rest_s = after[-1].time_s
        self._rest = after[-1]
        return energy

    def _compare(
        self,
        counted: WindowEnergy,
        samples: Sequence[PowerSample],
        start_s: float,
        end_s: float,
        idle: Idle,
        settling: Settling,
    ) -> None:
        """Hold the driver's samples of the window against its energy, and keep them."""
        at_s = self.after[-1].time_s
        self.curve = power_curve(samples, start_s, at_s)
        sampled = sampled_energy(samples, start_s, end_s, idle, settling, at_s)
        if sampled is None:
            return
        text = disagreement(counted, sampled, start_s, end_s, idle, self.board.power_limit_w)
        self._disagreements = self._disagreements + 1 if text else 0
        self.disagreement = text and f"the sensors of {describe([self.board])} disagree: {text}"

    @property
    def is_doubtful(self) -> bool:
        """Whether its sensors have disagreed too often."""
        return self._disagreements >= DISAGREEMENTS

    def _idle_before(self, samples: Sequence[PowerSample], start_s: float) -> Idle:
        """Idle power before an instant: as the samples show it, unless the last window's work still fades in them."""
        last = self._last_settling
        fading_w = 0.0
        if last is not None and self._rest_s is not None:
            fading_w = last.excess_w * math.exp((self._rest_s - start_s) / last.tau_s)
        seen = idle_from_samples(samples, start_s) if fading_w < _FADING_W else None
        if seen is not None and seen.whole:
            self._idle = seen
        return seen or self._idle or unknown_idle(samples)

    def _settle(self, end_s: float, start_s: float | None = None) -> Settling:
        """What is known by now of the power after the work."""
        assert self.before is not None
        if self.samples is not None and start_s is None:
            self.samples.fetch()
        last = self.after[-1]
        first_s = self.before.time_s if start_s is None else start_s
        samples = self._samples_since(self.before.time_s - 1.0)
        idle = self._idle_before(samples, first_s)
        step_w = (self._gain_j() - idle.power_w * (last.time_s - self.before.time_s)) / max(end_s - first_s, 1e-3)
        gains = []
        for earlier, later in zip(self.after[:-1], self.after[1:], strict=True):
            seconds = later.time_s - earlier.time_s
            power_w = (later.energy_j - earlier.energy_j) / seconds
            error_w = power_w * math.hypot(earlier.uncertainty_s, later.uncertainty_s) / seconds
            gains.append(Stretch(earlier.time_s - end_s, later.time_s - end_s, power_w, error_w))
        return settle_after(samples, gains, end_s, last.time_s, idle, max(step_w, 0.0))

    def _samples_since(self, from_s: float) -> list[PowerSample]:
        return [] if self.samples is None else self.samples.between(from_s, math.inf)

    def _gain_j(self) -> float:
        assert self.before is not None
        return self.after[-1].energy_j - self.before.energy_j

    def _checked_by_gain(self, before: Edge, idle: Idle, disturbed: bool, samples: Sequence[PowerSample]) -> Edge:
        """What the counter gained since the last window dates its edges, where nothing ran in between."""
        rest, self._rest = self._rest, None
        if rest is None or disturbed or self._idle is None:
            return before
        seconds = before.time_s - rest.time_s
        if not 0.5 * self.counter.period_s < seconds < _GAP_PERIODS * self.counter.period_s:
            return before
        between = [sample.power_w for sample in samples if rest.time_s <= sample.time_s <= before.time_s]
        if not all(is_flat(power_w, idle.power_w) for power_w in [*between, self._idle.power_w]):
            return before
        power_w = sum(between) / len(between) if between else (idle.power_w + self._idle.power_w) / 2.0
        error_s = (before.energy_j - rest.energy_j) / power_w - seconds
        self._note_surplus(error_s)
        usual_s = self.counter.content_s
        self.counter.note_idle_gain(max(-3.0 * usual_s, min(error_s, 3.0 * usual_s)))
        if abs(error_s) > 4.0 * usual_s:
            # One of the two came late: which, is not known.
            return Edge(before.time_s, before.energy_j, max(before.uncertainty_s, abs(error_s)))
        return before

    def _undisturbed(self, edge: Edge | None, samples: SampleBuffer) -> Edge | None:
        """A later edge, where there was other work about this one that would cost more than it."""
        for _ in range(_REST_TRIES):
            if edge is None:
                return None
            about = samples.between(edge.time_s - HELD_S, math.inf)
            if not about or is_flat(about[-1].power_w, about[0].power_w):
                return edge
            step_w = max(sample.power_w for sample in about) - about[-1].power_w
            if abs(step_w) < _STEP_W:
                return edge
            edge = self._next_edge()
            samples.fetch()
        return edge

    def _note_surplus(self, error_s: float) -> None:
        """A counter that still gained more than the board drew had not caught up at the edge after the work.

        Then later edges are taken. It is told by an idle stretch between two windows, of which the samples say that it
        was one; a single late update says nothing.
        """
        self._surpluses.append(error_s > _SURPLUS * self.counter.content_s)
        if sum(self._surpluses) > 1:
            self._surpluses.clear()
            self._faded_s = min(self._faded_s + _LATER_S, _LATEST_S)

    def _at_rest(self, edge: Edge | None) -> Edge | None:
        """Without samples only the counter tells whether the board is at rest, and at which power."""
        for _ in range(_QUIET_TRIES):
            if edge is None:
                return None
            rest = self._rest
            if rest is not None and edge.time_s > rest.time_s + 0.5 * self.counter.period_s:
                power_w = (edge.energy_j - rest.energy_j) / (edge.time_s - rest.time_s)
                dates_s = math.hypot(edge.uncertainty_s, rest.uncertainty_s)
                error_w = power_w * dates_s / (edge.time_s - rest.time_s)
                if self._idle is None or abs(power_w - self._idle.power_w) <= max(4.0, 0.03 * power_w) + 2.0 * error_w:
                    # Long stretches average over a drift: what counts is the power now.
                    noise_w = self._idle.noise_w if self._idle else 1.0
                    self._idle = Idle(power_w, math.hypot(error_w, 0.01 * power_w), noise_w)
                    return edge
                self._idle = Idle(power_w, abs(power_w - self._idle.power_w), self._idle.noise_w)
            self._rest, edge = edge, self._next_edge()
        return edge

    def _next_edge(self) -> Edge | None:
        pursuit = Pursuit(self.counter, self._clock.now_s())
        wait_for_edges([pursuit], _AWAITED_PERIODS * self.counter.period_s)
        return pursuit.edge

    def _find_phase(self) -> bool:
        """Watch some updates of a counter whose period is known.

        Returns:
            Whether they agree with it.
        """
        known_s = self.timing.period_s
        changes = self.counter.watch(_PHASE_UPDATES, _AWAITED_PERIODS * known_s)
        if len(changes) > 1:
            first, last = changes[0], changes[-1]
            gap_s = (last.end_s - first.end_s) / (len(changes) - 1)
            if abs(gap_s - known_s) > 0.1 * known_s + 2.0 * self.timing.jitter_s + self.timing.read_cost_s:
                return False
        return len(changes) == _PHASE_UPDATES

    def _warnings(self) -> tuple[str, ...]:
        name = describe([self.board])
        if self.disagreement is not None:
            return (self.disagreement,)
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

    def _give_up_lattice(self) -> None:
        """The verdict that this counter's updates cannot be predicted: from now on each edge is waited for."""
        if self.calibration is not None:
            timing = replace(self.calibration.timing, regular=False)
            self.calibration = replace(self.calibration, timing=timing)
            self._store.save(self.board.uuid, self.board.driver_version, self.calibration)
            self.counter = Counter(self._read, self._clock, timing.period_s, regular=False)
            self._rest = None

    def _calibrate(self) -> None:
        self._rest = None
        self.counter = Counter(self._read, self._clock)
        self.calibration = calibrate(self.counter)
        if self.calibration is not None:
            self._store.save(self.board.uuid, self.board.driver_version, self.calibration)


class CounterGroup:
    """The counters of several boards, whose edges are waited for together."""

    def __init__(self, sensors: Sequence[CounterSensor]) -> None:
        self.sensors = tuple(sensors)

    def begin(self) -> None:
        """Find an edge of every counter; the window starts when this returns.

        Raises:
            MeasurementError: a board stopped answering.
        """
        for sensor in self.sensors:
            sensor.begin_window()
        for sensor in self.sensors:
            self._find(sensor)

    def end(self) -> None:
        """Read the counters that nobody waits for; to be called as soon as the work has ended.

        Raises:
            MeasurementError: a board stopped answering.
        """
        for sensor in self.sensors:
            if not sensor.aligned:
                _unless_reset(sensor, lambda: sensor.glance(after_work=True), in_window=True)

    def readings(self, start_s: float, end_s: float) -> list[Reading]:
        """Wait until the boards have settled, and tell every board's energy between two instants.

        Raises:
            MeasurementError: a board stopped answering.
        """
        while True:
            pursuits = {
                sensor: pursuit
                for sensor in self.sensors
                if sensor.aligned and (pursuit := sensor.pursuit_after(end_s)) is not None
            }
            if not pursuits:
                break
            self._wait(pursuits)
        return [sensor.reading(start_s, end_s) for sensor in self.sensors]

    def mark(self) -> list[Edge | None]:
        """An edge of every counter now, outside any window.

        Raises:
            MeasurementError: a board stopped answering.
        """
        self.begin()
        return [sensor.before for sensor in self.sensors]

    def _find(self, sensor: CounterSensor) -> None:
        look = sensor.edge_before if sensor.aligned else lambda: sensor.glance(after_work=False)
        # A reset takes one try.
        if not _unless_reset(sensor, look, in_window=False):
            _unless_reset(sensor, look, in_window=False)

    def _wait(self, pursuits: dict[CounterSensor, Pursuit]) -> None:
        """Take over one edge of each, or give up the sensor."""
        period_s = max(sensor.counter.period_s for sensor in pursuits)
        while True:
            try:
                wait_for_edges(list(pursuits.values()), _AWAITED_PERIODS * period_s)
            except CounterResetError as error:
                for sensor in pursuits:
                    if sensor.counter is error.counter:
                        sensor.note_reset(in_window=True)
                pursuits = {sensor: pursuit for sensor, pursuit in pursuits.items() if not sensor.was_reset}
                continue
            break
        for sensor, pursuit in pursuits.items():
            if pursuit.edge is None:
                sensor.before = None  # it stands still
            else:
                sensor.after.append(pursuit.edge)


def _unless_reset(sensor: CounterSensor, look: Callable[[], object], in_window: bool) -> bool:
    try:
        look()
    except CounterResetError:
        sensor.note_reset(in_window)
        return False
    return True
