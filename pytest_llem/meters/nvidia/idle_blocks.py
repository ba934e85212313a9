"""Blocks of idle power on boards: see :mod:`pytest_llem.meters.idle`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_llem.meters.idle import BlockPower

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.meters.base import Clock
    from pytest_llem.meters.nvidia.counter.edges import Edge
    from pytest_llem.meters.nvidia.counter.group import CounterGroup
    from pytest_llem.meters.nvidia.power_sensor import PowerSensor

_BLOCK_PERIODS = 4.0
_BLOCK_S = 0.2
_UNALIGNED_BLOCK_S = 1.0
_COVERAGE_FACTOR = 1.96


class BoardBlocks:
    """Measures one block after the other, each from where the last one ended: of counters first, then of power
    sensors, in their order."""

    def __init__(self, counters: CounterGroup, power_sensors: Sequence[PowerSensor], clock: Clock) -> None:
        self._counters = counters
        self._power_sensors = power_sensors
        self._clock = clock
        self._marks: list[Edge | None] | None = None

    def __call__(self) -> list[BlockPower] | None:
        """The power of each board in the next block; ``None`` where a sensor did not change.

        Raises:
            MeasurementError: a board stopped answering.
        """
        before = self._counters.mark() if self._marks is None else self._marks
        start_s = self._clock.now_s()
        try:
            for sensor in self._power_sensors:
                sensor.begin()
            self._clock.sleep(self._block_s())
            end_s = self._clock.now_s()
            self._marks = after = self._counters.mark()
            readings = [sensor.reading(start_s, end_s) for sensor in self._power_sensors]
        finally:
            for sensor in self._power_sensors:
                sensor.stop()
        powers = [_power_between(*edges) for edges in zip(before, after, strict=True)]
        for reading in readings:
            seconds = end_s - start_s
            energy = reading.energy
            powers.append(
                energy and BlockPower(energy.joules / seconds, energy.uncertainty_j / _COVERAGE_FACTOR / seconds)
            )
        known = [power for power in powers if power is not None]
        return known if len(known) == len(powers) else None

    def _block_s(self) -> float:
        sensors = self._counters.sensors
        seconds = [max(_BLOCK_PERIODS * sensor.timing.period_s, _BLOCK_S) for sensor in sensors]
        if self._power_sensors or not all(sensor.aligned for sensor in sensors):
            seconds.append(_UNALIGNED_BLOCK_S)
        # The next edge is waited for: half a period less costs none.
        return max(seconds) - min((sensor.timing.period_s for sensor in sensors), default=0.0) / 2.0


def _power_between(before: Edge | None, after: Edge | None) -> BlockPower | None:
    if before is None or after is None or not after.energy_j > before.energy_j:
        return None
    seconds = after.time_s - before.time_s
    power_w = (after.energy_j - before.energy_j) / seconds
    return BlockPower(power_w, power_w * math.hypot(before.uncertainty_s, after.uncertainty_s) / seconds)
