"""A board's sensors: what of its true power NVML shows, how late and how coarsely."""

from __future__ import annotations

import random
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from tests.simulators.clock import SimulatedClock
from tests.simulators.power import FunctionPower, LoadedPower, Power

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_llem.meters.base import Clock

Value = TypeVar("Value")


@dataclass(frozen=True)
class SimulatedProcess:
    """A process on a board; ``used_memory_bytes`` is ``None`` where the driver does not tell."""

    pid: int
    name: str = "python"
    used_memory_bytes: int | None = 1 << 30


@dataclass(kw_only=True)
class SimulatedBoard:
    """One board. What varies may be given as a value or as a function of the time in seconds.

    Attributes:
        power: what the board truly draws: watts, a function of time, or a :class:`Power`.
        period_s: update period of its energy and power sensors, in seconds.
        phase_s: moment of one update, in seconds.
        jitter_s: each update is off by up to this, uniformly, in seconds.
        lag_s: how long after an update it can first be read, in seconds.
        duty: part of each period, at its end, that the sensor looks at; the rest is taken to be the same.
        gain: what the sensor shows of one true watt.
        resolution_mj: step of the energy counter, in millijoules.
        read_cost_s: how long a call about this board takes, in seconds of simulated time.
        read_loss_s: how much each read of the energy counter takes away from its next update, as seconds of
            power: a board that counts too little when it is read often.
        counter_start_j: the energy counter at its first update, in joules.
        resets_s: moments at which the energy counter starts again from zero, in seconds.
        power_window_s: the stretch that NVML's power usage is a mean of, in seconds; 0: instantaneous.
        sample_period_s, samples_kept: NVML's buffer of samples.
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
    power: float | Callable[[float], float] | Power = 100.0
    period_s: float = 0.1
    phase_s: float = 0.0
    jitter_s: float = 0.0
    lag_s: float = 0.0
    duty: float = 1.0
    gain: float = 1.0
    resolution_mj: int = 1
    read_cost_s: float = 0.0
    read_loss_s: float = 0.0
    counter_start_j: float = 123_456.789
    resets_s: Sequence[float] = ()
    power_window_s: float = 1.0
    sample_period_s: float = 0.02
    samples_kept: int = 120
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
        # By reads since the last update.
        self._lost_by_reading_j = 0.0
        self._last_read_s: float | None = None

    # True quantities

    def energy_j(self, start_s: float, end_s: float) -> float:
        """What the board truly consumed between two moments, in joules."""
        return self.true_power.energy_j(start_s, end_s)

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
        """Power in the sensor's window at the last update."""
        taken_s = self.last_update_s(now_s)
        return self._sensed_w(taken_s - self.duty * self.period_s, taken_s)

    def power_samples(self, now_s: float, after_s: float) -> list[tuple[float, float]]:
        """NVML's buffer of power samples after a moment: time in seconds and power in watts."""
        period_s = self.sample_period_s
        last = int((now_s - self.phase_s) / period_s)
        times_s = (self.phase_s + k * period_s for k in range(last - self.samples_kept + 1, last + 1))
        return [(t, self._sensed_w(t - self.duty * period_s, t)) for t in times_s if t > after_s]

    def fault(self, function: str | int, now_s: float) -> int:
        """NVML's error code for a call of ``function`` (or a query of that field), 0 where it works."""
        if self.lost_at_s is not None and now_s >= self.lost_at_s:
            return self.lost_error
        return self.errors.get(function, 0)

    def _sensed_w(self, start_s: float, end_s: float) -> float:
        return self.gain * self.true_power.energy_j(start_s, end_s) / (end_s - start_s)

    def _last_update(self, now_s: float) -> int:
        """Index of the last update that can be read at ``now_s``."""
        if not self._updates_s:
            # Two periods back: jitter cannot put the first update after this read.
            self._first = int((now_s - self.lag_s - self.phase_s) / self.period_s) - 2
            self._append(self._moment_s(self._first), self.counter_start_j)
        # Never ahead of time: work that is told later must still count.
        while (taken_s := self._moment_s(self._first + len(self._updates_s))) + self.lag_s <= now_s:
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

    def _moment_s(self, number: int) -> float:
        # A generator of its own for each update: its moment does not depend on who reads when.
        jitter = random.Random(f"{self.seed}:{number}").uniform(-1, 1) if self.jitter_s else 0.0  # noqa: S311
        return self.phase_s + number * self.period_s + jitter * self.jitter_s

    def _increment_j(self, start_s: float, end_s: float) -> float:
        if end_s <= start_s:
            return 0.0
        looked_at_s = self.duty * (end_s - start_s)
        return self._sensed_w(end_s - looked_at_s, end_s) * (end_s - start_s)


def value_at(value: Value | Callable[[float], Value], now_s: float) -> Value:
    """A value that may be given as a function of time."""
    return value(now_s) if callable(value) else value


def _as_power(power: float | Callable[[float], float] | Power) -> Power:
    if isinstance(power, (int, float)):
        return LoadedPower(float(power))
    if callable(power):
        return FunctionPower(power)
    return power
