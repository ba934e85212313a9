"""Meters that are read once at either edge of a window."""

from __future__ import annotations

import math
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pytest_llem.meters.base import (
    COOL_DOWN_LIMIT_S,
    IDLE_LIMIT_S,
    Disturbance,
    IdlePower,
    MeterRequest,
    Synchronize,
    Window,
    no_synchronize,
)
from pytest_llem.meters.joined import JoinedWindows, sum_up

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Self


class SimpleMeter:
    """Base class of meters that are read once at either edge of a window, and whose sensor says nothing about the
    state of the device.

    A subclass has a ``name`` and overrides :meth:`start` and :meth:`fill`.

    Attributes:
        clock: where time is read.
        warnings: of every window.
    """

    name: str
    estimated = False
    reports_energy = True
    auto_window_s = 1.0
    reads_boards = False
    environment: Mapping[str, object] = MappingProxyType({})
    joins: str | None = None

    def __init__(self, request: MeterRequest) -> None:
        """Open the sensor.

        Raises:
            MeterUnavailableError: it cannot work on this machine; one line that says what is missing.
        """
        self.clock = request.clock
        self.warnings: list[str] = []

    def start(self) -> Any:
        """Read the sensor before the work; :meth:`fill` gets what this returns."""

    def fill(self, window: Window, started: Any) -> None:
        """Read the sensor after the work, and set ``joules`` and ``uncertainty_j``, or ``reason``.

        Args:
            window: its ``seconds`` are known.
            started: what :meth:`start` returned.
        """

    @contextmanager
    def window(self, synchronize: Synchronize = no_synchronize) -> Iterator[Window]:
        """Measure the body of the ``with`` block; see :class:`Meter`."""
        window = Window(warnings=list(self.warnings))
        synchronize()
        started = self.start()
        # On the inner side of the sensor, so that the time is that of the work.
        start_s = self.clock.now_s()
        yield window
        synchronize()
        window.seconds = self.clock.now_s() - start_s
        self.fill(window, started)
        if window.joules is not None and not 0 <= window.joules < math.inf:
            window.reason = f"the {self.name} meter said {window.joules:g} J, which is no energy"
            window.joules = window.uncertainty_j = None

    @contextmanager
    def joined_windows(self, synchronize: Synchronize = no_synchronize) -> Iterator[JoinedWindows]:
        """Windows one after the other, each read at its own edges, and their sum; see :func:`sum_up`."""
        joined = JoinedWindows(Window(), partial(self.window, synchronize))
        yield joined
        sum_up(joined.total, joined.windows)

    def between_calls(self) -> None:
        """Nothing is forgotten."""

    def pause(self) -> None:
        """Nothing here is updated so rarely that windows could beat with it."""

    def others_worked(self) -> None:
        """Nothing is kept from window to window."""

    def check_quiet(self) -> list[Disturbance]:
        """Nothing is known of the state of the device."""
        return []

    def cool_down(self, limit_s: float = COOL_DOWN_LIMIT_S) -> bool:  # noqa: ARG002
        """Throttling is not known: there is nothing to wait for."""
        return True

    def idle_power(self, limit_s: float = IDLE_LIMIT_S) -> IdlePower:  # noqa: ARG002
        """Unknown."""
        return IdlePower(reason="this meter cannot measure idle power")

    def idle_power_seen(self) -> IdlePower | None:
        """Nothing is seen of it in passing."""
        return None

    def close(self) -> None:
        """Nothing is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
