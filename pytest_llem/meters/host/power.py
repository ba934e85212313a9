"""The whole machine by samples of its mean power.

A thread takes one in the time that the sensor averages over, a second or so: it waits in the kernel, and holds up the
work for some tens of microseconds each time. Between two calls, where boards are looked at, would be too rare for calls
that take seconds, and a board controller takes milliseconds to answer.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pytest_llem.errors import MeasurementError
from pytest_llem.meters.smeared import integrate_smeared

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_llem.meters.base import Clock, Covers


class PowerHost:
    """A :class:`pytest_llem.meters.host.HostSensor` of samples, integrated by :func:`integrate_smeared`."""

    covers: Covers = "machine"

    def __init__(self, name: str, power_file: Path, averaged_s: float, clock: Clock) -> None:
        """Sample this sensor.

        Args:
            name: of the sensor.
            power_file: its mean power in microwatts.
            averaged_s: over how long it is the mean, in seconds.
            clock: by which windows are timed.
        """
        self.name = name
        self._power_file = power_file
        self._averaged_s = averaged_s
        self._clock = clock
        self._samples: list[tuple[float, float]] = []
        self._failure: Exception | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def read_w(self) -> float:
        """The mean power, in watts."""
        return int(self._power_file.read_text()) / 1e6

    def begin(self) -> None:
        """Begin to sample."""
        self.close()
        self._samples, self._failure = [], None
        self._stopped.clear()
        self._sample()
        self._thread = threading.Thread(target=self._sample_until_stopped, name="llem host power", daemon=True)
        self._thread.start()

    def end(self, begun: None, start_s: float, end_s: float) -> tuple[float, float]:  # noqa: ARG002
        """See :meth:`pytest_llem.meters.host.HostSensor.end`."""
        self.close()
        self._sample()
        if self._failure is not None:
            raise self._failure
        times_s, powers_w = zip(*self._samples, strict=True)
        # Its driver may keep a value for as long again.
        found = integrate_smeared(times_s, powers_w, start_s, end_s, 2.0 * self._averaged_s)
        if found is None:
            raise MeasurementError(
                f"a window of {end_s - start_s:.3g} s is too short for a sensor that shows the mean power of "
                f"{self._averaged_s:.3g} s: measure one of {4.0 * self._averaged_s:.3g} s or more (--llem-min-window)"
            )
        return found

    def close(self) -> None:
        """Stop sampling."""
        if self._thread is not None:
            self._stopped.set()
            self._thread.join()
            self._thread = None

    def _sample(self) -> None:
        self._samples.append((self._clock.now_s(), self.read_w()))

    def _sample_until_stopped(self) -> None:
        while not self._stopped.wait(self._averaged_s):
            try:
                self._sample()
            except Exception as error:  # noqa: BLE001  (told when the window ends)
                self._failure = error
                return
