"""A board's sensors: what of its true power NVML shows, how late and how coarsely."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, sqrt
from typing import TYPE_CHECKING, Any, TypeVar

from tests.simulators.clock import SimulatedClock
from tests.simulators.costs import RECORDED_READ_COSTS_S
from tests.simulators.power import FunctionPower, LoadedPower, Power

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_llem.meters.base import Clock

Value = TypeVar("Value")

# A sample's date lies this long after its lattice instant, in seconds; one in so many, the first after an update of
# the counter, is dated later. Its lattice instant is this long after that update.
_DATE_DELAYS_S = (0.0, 0.003)
_LATE_DATE_DELAYS_S = (0.010, 0.011)
_LATE_DATE_EVERY = 5
_SAMPLE_PHASE_S = 0.0068
_NOISE_CORRELATION = 0.85


@dataclass(frozen=True)
class SimulatedProcess:
    """A process on a board; ``used_memory_bytes`` is ``None`` where the driver does not tell."""

    pid: int
    name: str = "python"
    used_memory_bytes: int | None = 1 << 30


@dataclass(kw_only=True)
class SimulatedBoard:
    """One board: by default an H200 as recorded, without its noise.

    What varies may be given as a value or as a function of the time in seconds.

    Attributes:
        power: what the board truly draws: watts, a function of time, or a :class:`Power`.
        period_s: update period of its energy and power sensors, in seconds.
        phase_s: moment of one update, in seconds.
        jitter_s: each update is off its exact lattice by up to this, uniformly, in seconds.
        wander_s: each gap between updates is off by up to this, uniformly, in seconds: there is no lattice then.
        late_share, late_s: so large a share of the updates is taken and shown late, by so many seconds (from, to).
        lag_s: how long after an update it can first be read, in seconds.
        sensor_lag_s: time constant with which all its sensors follow the true power, in seconds.
        duty: part of each period, at its end, that the sensor looks at; the rest is taken to be the same.
        gain: what the sensor shows of one true watt.
        resolution_mj: step of the energy counter, in millijoules.
        read_cost_s: how long a call about this board takes, in seconds of simulated time; of several, one at random.
            What it shows is of a random moment in that time.
        read_loss_s: how much each read of the energy counter takes away from its next update, as seconds of
            power: a board that counts too little when it is read often.
        counter_start_j: the energy counter at its first update, in joules.
        resets_s: moments at which the energy counter starts again from zero, in seconds.
        power_window_s: the stretch that NVML's power usage is a mean of, in seconds; 0: instantaneous.
        sample_period_s, samples_kept: NVML's buffer of power samples, which are taken on an exact lattice.
        sample_offset_s: how long before its lattice instant a sample is taken, in seconds.
        sample_mean_s: the stretch before its lattice instant that a sample is a mean of instead, in seconds.
        sample_dates_late: samples are dated up to 3 ms after their lattice instant, one in five 10 to 11 ms.
        sample_delay_s: how long after its lattice instant (never before its date) a sample can be read, in seconds.
        sample_noise_w: standard deviation of the samples' noise, in watts; neighbours' correlates.
        sample_loss: share of the samples that are missing.
        errors: NVML's error code for a function (its C name) or for a field's number, for this board alone.
        mig_mode: 0 off, 1 on, ``None``: the board knows no MIG.
        mig_uuids: its MIG slices by their index; ``None`` where an index is free.
        throttled_s: seconds spent throttled since the driver was loaded, by reason (``power``, ``thermal``,
            ``hardware thermal``, ``power brake``); ``None``: the board does not count them.
        slowdown_temperature_c: where the board lowers its clocks, in degrees Celsius.
        lost_at_s: from this moment on every call about it fails with ``lost_error``.
    """

    uuid: str = "GPU-00000000-0000-0000-0000-000000000000"
    name: str = "NVIDIA Simulated H100"
    power: float | Callable[[float], float] | Power = field(default_factory=lambda: LoadedPower(125.0, afterglow_w=3.0))
    period_s: float = 0.1
    phase_s: float = 0.0
    jitter_s: float = 0.0
    wander_s: float = 0.0
    late_share: float = 0.0
    late_s: tuple[float, float] = (0.008, 0.0135)
    lag_s: float = 0.0
    sensor_lag_s: float = 0.0115
    duty: float = 1.0
    gain: float = 1.0
    resolution_mj: int = 1
    read_cost_s: float | Sequence[float] = RECORDED_READ_COSTS_S
    read_loss_s: float = 0.0
    counter_start_j: float = 123_456.789
    resets_s: Sequence[float] = ()
    power_window_s: float = 1.0
    sample_period_s: float = 0.02
    samples_kept: int = 120
    sample_offset_s: float = 0.003
    sample_mean_s: float = 0.0
    sample_dates_late: bool = True
    sample_delay_s: float = 0.0
    sample_noise_w: float = 0.0
    sample_loss: float = 0.0
    errors: Mapping[Any, int] = field(default_factory=dict)
    mig_mode: int | None = 0
    mig_uuids: Sequence[str | None] = ()
    lost_at_s: float | None = None
    lost_error: int = 15
    power_limit_w: float | Callable[[float], float | None] | None = 700.0
    sm_clock_hz: float | Callable[[float], float | None] | None = 1.98e9
    utilization_percent: int | Callable[[float], int | None] | None = 0
    temperature_c: int | Callable[[float], int | None] | None = 40
    slowdown_temperature_c: int | None = 90
    clocks_event_reasons: int | Callable[[float], int | None] | None = 0
    throttled_s: Mapping[str, float | Callable[[float], float]] | None = None
    processes: Sequence[SimulatedProcess] | Callable[[float], Sequence[SimulatedProcess]] = ()
    total_memory_bytes: int | None = 80 << 30
    compute_capability: tuple[int, int] = (9, 0)
    architecture: int = 9
    persistence_mode: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        self.true_power = _as_power(self.power)
        # Updates so far: when, and the counter's unrounded value from then on. Filled in as time goes on.
        self._updates_s: list[float] = []
        self._values_j: list[float] = []
        self._wandered_s = 0.0
        self._next_s = 0.0
        # The last samples (date in seconds, watts), the number of the next one, and the noise of the last one.
        self._samples: deque[tuple[float, float]] = deque(maxlen=self.samples_kept)
        self._next_sample = 0
        self._noise_w: float | None = None
        self._costs = random.Random(f"{self.seed}:costs")  # noqa: S311
        # By reads since the last update.
        self._lost_by_reading_j = 0.0
        self._last_read_s: float | None = None

    # True quantities

    def energy_j(self, start_s: float, end_s: float) -> float:
        """What the board truly consumed between two moments, in joules."""
        return self.true_power.energy_j(start_s, end_s)

    def window_energy_j(self, start_s: float, end_s: float) -> float:
        """What the board drew between two moments and, because of it, above idle power afterwards, in joules."""
        return self.energy_j(start_s, end_s) + self.true_power.tail_j(end_s)

    def run(self, clock: Clock, seconds: float, power_w: float, rise_s: float = 0.0) -> None:
        """Work for ``seconds`` at ``power_w``; its ``power`` must be a :class:`LoadedPower`."""
        if not isinstance(self.true_power, LoadedPower):
            raise TypeError("only a board with LoadedPower can be given work")
        self.true_power.start_work(clock.now_s(), power_w, rise_s)
        if isinstance(clock, SimulatedClock):
            clock.work(seconds)
        else:
            clock.sleep(seconds)
        self.true_power.end_work(clock.now_s())

    # What NVML shows of them at a moment

    def counter_mj(self, now_s: float) -> int:
        """The energy counter as read at ``now_s``, in millijoules."""
        update = self._last_update(now_s)
        if self.read_loss_s:
            since_s = self.read_loss_s if self._last_read_s is None else now_s - self._last_read_s
            self._lost_by_reading_j += min(self.read_loss_s, since_s) * self.true_power.power_w(now_s)
            self._last_read_s = now_s
        steps = int(self._values_j[update] * 1e3 / self.resolution_mj)
        return max(0, steps) * self.resolution_mj

    def last_update_s(self, now_s: float) -> float:
        """When the values that can be read at ``now_s`` were taken, in seconds."""
        return self._updates_s[self._last_update(now_s)]

    def average_power_w(self, now_s: float) -> float:
        """Mean power over ``power_window_s``, at least over the sensor's window, at the last update."""
        taken_s = self.last_update_s(now_s)
        return self._sensed_w(taken_s - max(self.power_window_s, self.duty * self.period_s), taken_s)

    def instant_power_w(self, now_s: float) -> float:
        """Power at the last sample, without the samples' noise."""
        return self._sample_w(self._sample_number(now_s))

    def power_samples(self, now_s: float, after_s: float) -> list[tuple[float, float]]:
        """NVML's buffer of power samples after a moment: time in seconds and power in watts."""
        # Room for those that are lost and for one that is not dated yet; after a long gap, noise starts anew.
        kept = ceil(self.samples_kept / (1.0 - self.sample_loss))
        oldest = self._sample_number(now_s - self.sample_delay_s) - kept
        if oldest > self._next_sample:
            self._next_sample, self._noise_w = oldest, None
        while True:
            generator = random.Random(f"{self.seed}:sample:{self._next_sample}")  # noqa: S311
            lattice_s = self._sample_lattice_s(self._next_sample)
            date_s = lattice_s + self._date_delay_s(generator)
            if max(date_s, lattice_s + self.sample_delay_s) > now_s:
                return [sample for sample in self._samples if sample[0] > after_s]
            # Never ahead of time: work that is told later must still count.
            power_w = self._sample_w(self._next_sample)
            if self.sample_noise_w:
                power_w += self._next_noise_w(generator)
            if generator.random() >= self.sample_loss:
                self._samples.append((date_s, power_w))
            self._next_sample += 1

    def draw_call_s(self) -> tuple[float, float]:
        """How long one call takes until it sees the board and how long after that, in seconds."""
        cost_s = self.read_cost_s
        if isinstance(cost_s, Sequence):
            cost_s = self._costs.choice(cost_s)
        before_s = self._costs.random() * cost_s
        return before_s, cost_s - before_s

    def fault(self, function: str | int, now_s: float) -> int:
        """NVML's error code for a call of ``function`` (or a query of that field), 0 where it works."""
        if self.lost_at_s is not None and now_s >= self.lost_at_s:
            return self.lost_error
        return self.errors.get(function, 0)

    def _sensed_w(self, start_s: float, end_s: float) -> float:
        """Mean of what the sensor shows between two moments, in watts."""
        energy_j = self.true_power.energy_j(start_s, end_s)
        if self.sensor_lag_s:
            # What a filter of first order has taken in and not yet given out.
            held_back_w = self._shown_w(end_s) - self._shown_w(start_s)
            energy_j -= self.sensor_lag_s * held_back_w
        return self.gain * energy_j / (end_s - start_s)

    def _shown_w(self, at_s: float) -> float:
        return self.true_power.sensed_w(at_s, self.sensor_lag_s)

    def _sample_lattice_s(self, number: int) -> float:
        return self.phase_s + _SAMPLE_PHASE_S + number * self.sample_period_s

    def _sample_number(self, now_s: float) -> int:
        """Number of the last sample whose lattice instant is past."""
        return int((now_s - self._sample_lattice_s(0)) // self.sample_period_s)

    def _sample_w(self, number: int) -> float:
        lattice_s = self._sample_lattice_s(number)
        if self.sample_mean_s:
            return self._sensed_w(lattice_s - self.sample_mean_s, lattice_s)
        return self.gain * self._shown_w(lattice_s - self.sample_offset_s)

    def _date_delay_s(self, generator: random.Random) -> float:
        if not self.sample_dates_late:
            return 0.0
        return generator.uniform(*(_DATE_DELAYS_S if self._next_sample % _LATE_DATE_EVERY else _LATE_DATE_DELAYS_S))

    def _next_noise_w(self, generator: random.Random) -> float:
        fresh_w = generator.gauss(0.0, self.sample_noise_w)
        if self._noise_w is None:
            self._noise_w = fresh_w
        else:
            self._noise_w = _NOISE_CORRELATION * self._noise_w + sqrt(1 - _NOISE_CORRELATION**2) * fresh_w
        return self._noise_w

    def _last_update(self, now_s: float) -> int:
        """Index of the last update that can be read at ``now_s``."""
        if not self._updates_s:
            # Two periods back: jitter cannot put the first update after this read.
            earliest_s = now_s - self.lag_s - (self.late_s[1] if self.late_share else 0.0)
            self._first = int((earliest_s - self.phase_s) / self.period_s) - 2
            self._append(self._moment_s(), self.counter_start_j)
        # Never ahead of time: work that is told later must still count.
        while self._next_s + self.lag_s <= now_s:
            taken_s = self._next_s
            previous_s = self._updates_s[-1]
            increment_j = self._increment_j(previous_s, taken_s)
            value_j = self._values_j[-1] + max(increment_j - self._lost_by_reading_j, 0.0)
            self._lost_by_reading_j = 0.0
            for reset_s in self.resets_s:
                if previous_s < reset_s <= taken_s:
                    value_j = self._increment_j(reset_s, taken_s)
            self._append(taken_s, value_j)
        return bisect_right(self._updates_s, now_s - self.lag_s) - 1

    def _append(self, taken_s: float, value_j: float) -> None:
        self._updates_s.append(taken_s)
        self._values_j.append(value_j)
        # One that is very late holds up the next one.
        self._next_s = max(self._moment_s(), taken_s)

    def _moment_s(self) -> float:
        """When the update after those so far is taken, in seconds."""
        number = self._first + len(self._updates_s)
        moment_s = self.phase_s + number * self.period_s
        if not (self.jitter_s or self.wander_s or self.late_share):
            return moment_s
        # A generator of its own for each update: its moment does not depend on who reads when.
        generator = random.Random(f"{self.seed}:{number}")  # noqa: S311
        jitter = generator.uniform(-1, 1)
        self._wandered_s += self.wander_s * generator.uniform(-1, 1)
        late_s = generator.uniform(*self.late_s) if generator.random() < self.late_share else 0.0
        return moment_s + jitter * self.jitter_s + self._wandered_s + late_s

    def _increment_j(self, start_s: float, end_s: float) -> float:
        if end_s <= start_s:
            return 0.0
        looked_at_s = self.duty * (end_s - start_s)
        return self._sensed_w(end_s - looked_at_s, end_s) * (end_s - start_s)


def ideal_board(**changes: Any) -> SimulatedBoard:
    """A board that follows at once, answers at once and dates its samples rightly."""
    ideal = {"sensor_lag_s": 0.0, "read_cost_s": 0.0, "sample_dates_late": False, "sample_offset_s": 0.0}
    return SimulatedBoard(**(ideal | changes))


def noisy_board(**changes: Any) -> SimulatedBoard:
    """An H200 as recorded, with noise."""
    # Uniform within sqrt(3) times its standard deviation of 0.7 ms.
    noise = {"jitter_s": 0.0007 * sqrt(3), "late_share": 0.01, "sample_noise_w": 1.0, "sample_loss": 0.02}
    return SimulatedBoard(**(noise | changes))


def value_at(value: Value | Callable[[float], Value], now_s: float) -> Value:
    """A value that may be given as a function of time."""
    return value(now_s) if callable(value) else value


def _as_power(power: float | Callable[[float], float] | Power) -> Power:
    if isinstance(power, (int, float)):
        return LoadedPower(float(power))
    if callable(power):
        return FunctionPower(power)
    return power
