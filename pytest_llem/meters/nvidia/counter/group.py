"""The energy counters of several boards, whose edges are waited for together.

A counter that may be read often is read at an edge before the work and at the first one after it at which the board
has settled (``edges``, :mod:`pytest_llem.meters.nvidia.window_energy`). One that loses counts by being
read, or that nobody wants to wait for, is read once at either end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llem.meters.nvidia.counter.edges import CounterResetError, wait_for_edges
from pytest_llem.meters.nvidia.counter.sensor import AWAITED_PERIODS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_llem.meters.nvidia.counter.edges import Edge, Pursuit
    from pytest_llem.meters.nvidia.counter.sensor import CounterSensor
    from pytest_llem.meters.nvidia.reading import Reading

_TRIES = 2  # of an edge before the work: a reset takes one


class CounterGroup:
    """Counters whose windows have the same edges.

    Attributes:
        sensors: one for each board.
    """

    def __init__(self, sensors: Sequence[CounterSensor]) -> None:
        self.sensors = tuple(sensors)

    def begin(self) -> None:
        """Find an edge of every counter; the window starts when this returns.

        Raises:
            MeasurementError: a board stopped answering.
        """
        for sensor in self.sensors:
            sensor.begin_window()
            for _ in range(_TRIES):
                if _goes_on(sensor, sensor.find_before, in_window=False):
                    break

    def end(self) -> None:
        """Read the counters that nobody waits for; to be called as soon as the work has ended.

        Raises:
            MeasurementError: a board stopped answering.
        """
        for sensor in self.sensors:
            _goes_on(sensor, sensor.glance_after, in_window=True)

    def readings(self, start_s: float, end_s: float) -> list[Reading]:
        """Wait until the boards have settled, and tell every board's energy between two instants.

        Raises:
            MeasurementError: a board stopped answering.
        """
        while True:
            wanted = [(sensor, sensor.next_after(end_s)) for sensor in self.sensors]
            pursuits = {sensor: pursuit for sensor, pursuit in wanted if pursuit is not None}
            if not pursuits:
                return [sensor.reading(start_s, end_s) for sensor in self.sensors]
            _wait(pursuits)

    def mark(self) -> list[Edge | None]:
        """An edge of every counter now, outside any window.

        Raises:
            MeasurementError: a board stopped answering.
        """
        edges: list[Edge | None] = []
        for sensor in self.sensors:
            try:
                edges.append(sensor.mark())
            except CounterResetError:
                sensor.note_reset(in_window=False)
                edges.append(None)
        return edges


def _wait(pursuits: dict[CounterSensor, Pursuit]) -> None:
    """Each takes over the edge that it wants, or is given up because its counter was reset."""
    timeout_s = AWAITED_PERIODS * max(sensor.counter.period_s for sensor in pursuits)
    while True:
        try:
            wait_for_edges(list(pursuits.values()), timeout_s)
            break
        except CounterResetError as error:
            reset = [sensor for sensor in pursuits if sensor.counter is error.counter]
            for sensor in reset:
                sensor.note_reset(in_window=True)
                del pursuits[sensor]
    for sensor, pursuit in pursuits.items():
        sensor.note_after(pursuit.edge)


def _goes_on(sensor: CounterSensor, look: Callable[[], None], in_window: bool) -> bool:
    """Whether a counter was looked at without a reset coming to light."""
    try:
        look()
    except CounterResetError:
        sensor.note_reset(in_window)
        return False
    return True
