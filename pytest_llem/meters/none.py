"""No energy meter: time alone."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_llem.meters.base import Clock, Synchronize, UnwatchedMeter, Window, no_synchronize

if TYPE_CHECKING:
    from collections.abc import Iterator


class NoMeter(UnwatchedMeter):
    """Times windows and reads no energy."""

    name = "none"
    estimated = False
    reports_energy = False
    auto_window_s = 1.0

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    @contextmanager
    def window(self, synchronize: Synchronize = no_synchronize) -> Iterator[Window]:
        """Time the body of the ``with`` block; see :class:`pytest_llem.meters.base.Meter`."""
        window = Window(reason="no meter was asked for")
        synchronize()
        start_s = self._clock.now_s()
        yield window
        synchronize()
        window.seconds = self._clock.now_s() - start_s

    def __enter__(self) -> NoMeter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
