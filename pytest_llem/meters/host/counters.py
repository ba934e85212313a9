"""The host by energy counters, read at either edge of a window."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from pytest_llem.errors import MeasurementError, MeterUnavailableError
from pytest_llem.meters.rapl import Counters, find_domains, half_width_j

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.meters.base import Clock, Covers, MeterRequest
    from pytest_llem.meters.rapl import Domain


class _Read(NamedTuple):
    """What counters showed, and the middle of the time in which they were read, in seconds."""

    values_uj: list[int]
    at_s: float


class CounterHost:
    """The sum of RAPL's counters; a :class:`pytest_llem.meters.host.HostSensor`.

    Counters are read outside of the work, so that they hold a little more than it: from the middle of the read before
    it to the middle of the read after it, at the window's mean power; see
    :func:`pytest_llem.meters.rapl.half_width_j`.
    """

    covers: Covers = "host"

    def __init__(self, name: str, domains: Sequence[Domain], clock: Clock) -> None:
        """Read these counters.

        Args:
            name: of the sensor.
            domains: counters that have no joule in common.
            clock: by which windows are timed.
        """
        self.name = name
        self.domains = domains
        self._counters = Counters(domains)
        self._clock = clock

    def begin(self) -> _Read:
        """The counters before the work."""
        began_s = self._clock.now_s()
        values_uj = self._counters.read()
        return _Read(values_uj, (began_s + self._clock.now_s()) / 2.0)

    def end(self, begun: _Read, start_s: float, end_s: float) -> tuple[float, float]:
        """See :meth:`pytest_llem.meters.host.HostSensor.end`."""
        ended = self.begin()
        between_s = ended.at_s - begun.at_s
        gains_j = self._counters.gains_j(begun.values_uj, ended.values_uj, between_s)
        gain_j, beyond_s = math.fsum(gains_j.values()), between_s - (end_s - start_s)
        uncertainty_j = half_width_j(gain_j, between_s, len(gains_j), beyond_s)
        joules = gain_j * (end_s - start_s) / between_s
        if joules <= uncertainty_j:
            raise MeasurementError(
                f"below the counters' resolution: {joules:.3g} J with an uncertainty of {uncertainty_j:.3g} J in "
                f"{end_s - start_s:.3g} s; measure a longer window"
            )
        return joules, uncertainty_j

    def close(self) -> None:
        """Nothing is held."""


def open_rapl(request: MeterRequest) -> CounterHost:
    """RAPL's packages and their memory.

    Raises:
        MeterUnavailableError: there are none, or they may not be read; the text says how to fix it.
    """
    domains = find_domains(request.powercap_root)
    if domains[0].kind == "psys":
        raise MeterUnavailableError(
            "RAPL shows no package here but psys alone, which may hold the boards: their joules would count twice"
        )
    return CounterHost("rapl", domains, request.clock)
