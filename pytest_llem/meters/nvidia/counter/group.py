"""The energy counters of several boards, whose edges are waited for together.

A counter that may be read often is read at an edge before the work and at the first one after it at which the board
has settled (``pursuit``, :mod:`pytest_llem.meters.nvidia.window_energy`). One that loses counts by being
read, or that is not to be waited for, is read once at either end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llem.meters.nvidia.counter.counter import CounterResetError
from pytest_llem.meters.nvidia.counter.pursuit import wait_for_edges

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.meters.nvidia.counter.sensor import CounterSensor
    from pytest_llem.meters.nvidia.reading import Reading


def readings(sensors: Sequence[CounterSensor], start_s: float, end_s: float) -> list[Reading]:
    """Wait until the boards have settled, and tell every board's energy between two instants."""
    while True:
        wanted = [(sensor, sensor.next_after(end_s)) for sensor in sensors]
        pursuits = {sensor: pursuit for sensor, pursuit in wanted if pursuit is not None}
        if not pursuits:
            return [sensor.reading(start_s, end_s) for sensor in sensors]
        try:
            wait_for_edges(list(pursuits.values()))
        except CounterResetError as error:
            for sensor in pursuits:
                if sensor.counter is error.counter:
                    sensor.note_reset(in_window=True)
            # The others go on.
            pursuits = {sensor: pursuit for sensor, pursuit in pursuits.items() if pursuit.edge is not None}
        for sensor, pursuit in pursuits.items():
            sensor.note_after(pursuit.edge)
