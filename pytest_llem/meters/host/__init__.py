"""What reads the processor and its memory beside GPU boards, in the same windows.

A board that waits for its host makes the host the larger half of what a call takes. The sensor is read at the very
edges of the work, outside of its time; what it cannot tell leaves the boards' joules as they are.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

from pytest_llem.errors import LlemError, MeasurementError, MeterUnavailableError, about, one_line
from pytest_llem.meters.base import Covers, HostReading, MeterRequest
from pytest_llem.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Sequence

ENTRY_POINT_GROUP = "pytest_llem.host_sensors"
"""By it other packages register a name, and a callable that makes a :class:`MeterRequest` a :class:`HostSensor`."""

AUTO, NONE = "auto", "none"


class HostSensor(Protocol):
    """Reads joules of the host. Whatever it raises makes the window's host unknown, with that as the reason.

    Attributes:
        name: what it is called where its joules are told: only those of one sensor are compared with each other.
        covers: what its joules are of.
    """

    @property
    def name(self) -> str: ...

    @property
    def covers(self) -> Covers: ...

    def begin(self) -> Any:
        """Read it: the work of a window begins at once. :meth:`end` gets what this returns, if the work ends well."""

    def end(self, begun: Any, start_s: float, end_s: float) -> tuple[float, float]:
        """Read it at once: the work has just ended.

        Args:
            begun: what :meth:`begin` returned.
            start_s, end_s: the edges of the work, in seconds by the request's clock.

        Returns:
            Energy between the edges and the half-width of its 95% interval, in joules.

        Raises:
            MeasurementError: it is not known.
        """

    def close(self) -> None:
        """Release the sensor. Closing twice is harmless."""


_SENSORS: Registry[HostSensor] = Registry(
    "host sensor",
    ENTRY_POINT_GROUP,
    {
        "rapl": "pytest_llem.meters.host.counters:open_rapl",
        "hwmon": "pytest_llem.meters.host.hwmon:open_hwmon",
    },
    choices=(AUTO, NONE),
    error=MeterUnavailableError,
)

HOST_NAMES = _SENSORS.own_names
"""What :func:`open_host` can open without other packages."""


def host_names() -> tuple[str, ...]:
    """What :func:`open_host` can open: :data:`HOST_NAMES`, and the names that other packages register."""
    return _SENSORS.names()


def check_host(name: str) -> None:
    """Check that there is a sensor of that name.

    Raises:
        MeterUnavailableError: there is none; the text lists those that there are.
    """
    _SENSORS.check(name)


def open_sensor(name: str, request: MeterRequest) -> HostSensor:
    """Open a sensor by its own name.

    Raises:
        MeterUnavailableError: there is none of that name, or it cannot work on this machine.
    """
    with about(field=f"--llem-host {name}"):
        return _SENSORS.open(name, request)


def open_host(request: MeterRequest) -> Host:
    """The host as the request names it; ``auto`` is ``rapl`` where that can be read, and else unknown, with the reason.

    Raises:
        MeterUnavailableError: the sensor that is named cannot work on this machine.
    """
    if request.host == NONE:
        return Host()
    if request.host != AUTO:
        return Host(open_sensor(request.host, request))
    try:
        return Host(open_sensor("rapl", request))
    except MeterUnavailableError as error:
        return Host(unread=HostReading("rapl", reason=error.message))


class Host:
    """The host beside a meter's boards: its sensor, or why there is none."""

    def __init__(self, sensor: HostSensor | None = None, unread: HostReading | None = None) -> None:
        """Own ``sensor`` from now on.

        Args:
            sensor: ``None`` where there is none.
            unread: what windows say of the host then; ``None`` where nobody asked.
        """
        self._sensor = sensor
        self._unread = unread

    def begin(self) -> Any:
        """As the last thing before the work: :meth:`end` gets what this returns."""
        try:
            return None if self._sensor is None else self._sensor.begin()
        except Exception as error:  # noqa: BLE001  (the boards' joules are known all the same)
            return error

    def end(self, begun: Any, start_s: float, end_s: float) -> HostReading | None:
        """As the first thing after the work: what is known of the host between its edges."""
        sensor = self._sensor
        if sensor is None:
            return self._unread
        try:
            if isinstance(begun, Exception):
                raise begun
            joules, uncertainty_j = sensor.end(begun, start_s, end_s)
            if not (0.0 <= joules < math.inf and 0.0 <= uncertainty_j < math.inf):
                raise MeasurementError(f"{joules} J with an uncertainty of {uncertainty_j} J is no energy")
        except Exception as error:  # noqa: BLE001
            reason = error.message if isinstance(error, LlemError) else one_line(error)
            return HostReading(sensor.name, sensor.covers, reason=reason)
        return HostReading(sensor.name, sensor.covers, joules, uncertainty_j)

    def close(self) -> None:
        """Release the sensor."""
        if self._sensor is not None:
            self._sensor.close()


def sum_of(readings: Sequence[HostReading | None]) -> HostReading | None:
    """What windows say together. Work begins and ends alike in all of them, so that half-widths add up (JCGM 100:2008,
    5.2.2); a sum with an unknown term is unknown."""
    known = [reading for reading in readings if reading is not None]
    if not known or len(known) < len(readings):
        return None
    unknown = next((reading for reading in known if reading.joules is None), None)
    if unknown is not None:
        return unknown
    joules, uncertainty_j = (
        sum(values) for values in zip(*((each.joules or 0.0, each.uncertainty_j or 0.0) for each in known), strict=True)
    )
    return HostReading(known[0].sensor, known[0].covers, joules, uncertainty_j)
