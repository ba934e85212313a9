"""Blocks of idle power on boards: see :mod:`pytest_llem.meters.idle`."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from pytest_llem.meters.idle import BlockPower
from pytest_llem.meters.nvidia.counter.counter import mean_power
from pytest_llem.meters.nvidia.idle_power import mean_of_samples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.meters.base import Clock
    from pytest_llem.meters.nvidia.counter.counter import Edge
    from pytest_llem.meters.nvidia.counter.sensor import CounterSensor
    from pytest_llem.meters.nvidia.power_sensor import PowerSensor

_BLOCK_PERIODS = 4.0
_BLOCK_S = 0.2
_MOST = 0.7  # of the samples of a stretch must be there
_PAST_BLOCKS, _PAST_BLOCK_S = 3, 0.16
_UNALIGNED_BLOCK_S = 1.0


class BoardBlocks:
    """Measures one block after the other, each from where the last one ended: of counters first, then of power
    sensors, in their order. Raises a ``MeasurementError`` when a board stopped answering.

    The first ones take no time where the boards are known to have rested and the drivers have samples of that.
    """

    def __init__(
        self, counters: Sequence[CounterSensor], power_sensors: Sequence[PowerSensor], clock: Clock, rested_s: float
    ) -> None:
        """Measure these boards, which have done nothing for ``rested_s`` seconds."""
        self._counters = counters
        self._power_sensors = power_sensors
        self._clock = clock
        self._marks: list[Edge | None] | None = None
        self._past: list[list[BlockPower]] = []
        if not power_sensors and rested_s >= _PAST_BLOCKS * _PAST_BLOCK_S:
            past = [powers_before(counter, _PAST_BLOCKS, _PAST_BLOCK_S) for counter in counters]
            self._past = [list(block) for block in zip(*past, strict=True)] if all(past) else []

    def __call__(self) -> list[BlockPower] | None:
        """The power of each board in the next block; ``None`` where a sensor did not change."""
        if self._past:
            return self._past.pop(0)
        before = [sensor.mark() for sensor in self._counters] if self._marks is None else self._marks
        start_s = self._clock.now_s()
        try:
            for sensor in self._power_sensors:
                sensor.begin()
            self._clock.sleep(self._block_s())
            seconds = self._clock.now_s() - start_s
            self._marks = after = [sensor.mark() for sensor in self._counters]
            readings = [sensor.reading(start_s, start_s + seconds) for sensor in self._power_sensors]
        finally:
            for sensor in self._power_sensors:
                sensor.stop()
        powers = []
        for earlier, later in zip(before, after, strict=True):
            if earlier is None or later is None or not later.energy_j > earlier.energy_j:
                return None
            powers.append(BlockPower(*mean_power(earlier, later)))
        for reading in readings:
            if reading.energy is None:
                return None
            powers.append(BlockPower.of_window(*reading.energy, seconds))
        return powers

    def _block_s(self) -> float:
        seconds = [max(_BLOCK_PERIODS * sensor.timing.period_s, _BLOCK_S) for sensor in self._counters]
        if self._power_sensors or not all(sensor.aligned for sensor in self._counters):
            seconds.append(_UNALIGNED_BLOCK_S)
        # The next edge is waited for: half a period less costs none.
        return max(seconds) - min((sensor.timing.period_s for sensor in self._counters), default=0.0) / 2.0


def powers_before(sensor: CounterSensor, blocks: int, block_s: float) -> list[BlockPower]:
    """A board's power in so many stretches up to now, oldest first, by its samples; empty where they are few."""
    now_s, period_s = sensor.clock.now_s(), sensor.sample_period_s
    if period_s is None:
        return []
    from_s = now_s - blocks * block_s
    samples = sensor.fetched(from_s)
    bounds_s = [from_s + number * block_s for number in range(blocks + 1)]
    parts = [[s.power_w for s in samples if a < s.time_s <= b] for a, b in pairwise(bounds_s)]
    found = [mean_of_samples(part) for part in parts if len(part) >= _MOST * block_s / period_s]
    return found if len(found) == blocks else []
