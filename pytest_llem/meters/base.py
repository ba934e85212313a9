"""What every energy meter offers: windows.

A window is a stretch of work whose energy and time are read at the same two edges. Waiting for the sensor,
settling and every other cost of the meter lie outside the edges.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


class Clock(Protocol):
    """Where a meter takes its time from, so that tests can run a simulated board in simulated time."""

    def now_s(self) -> float:
        """Monotonic time in seconds."""

    def sleep(self, seconds: float) -> None:
        """Let ``seconds`` pass."""

    def cpu_s(self) -> float:
        """CPU seconds (user and system) that all threads of this process have used."""


class SystemClock:
    """The monotonic clock of this machine."""

    def now_s(self) -> float:
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def cpu_s(self) -> float:
        return time.process_time()


@dataclass
class Window:
    """What one window measured; filled in when the ``with`` block ends.

    Attributes:
        seconds: time between the edges, in seconds.
        joules: energy between the same edges, in joules; ``None`` when it was not measured, then ``reason``
            says why.
        uncertainty_j: half-width of the 95% interval of ``joules``, in joules; ``None`` when ``joules`` is,
            or when the meter cannot state one.
        reason: why ``joules`` is ``None``.
        valid: false when something disturbed the window (throttling, a foreign process, a counter reset);
            each disturbance is named in ``warnings``.
        warnings: what a reader of the number must know, in plain words.
        boards_j: joules by board (GPU UUID) or domain (RAPL), where the meter sums several.
        sm_clock_hz: clock of the streaming multiprocessors at the end of the window, in hertz, by board.
        power_limit_w: enforced power limit at the end of the window, in watts, by board.
    """

    seconds: float = 0.0
    joules: float | None = None
    uncertainty_j: float | None = None
    reason: str | None = None
    valid: bool = True
    warnings: list[str] = field(default_factory=list)
    boards_j: dict[str, float] = field(default_factory=dict)
    sm_clock_hz: dict[str, float] = field(default_factory=dict)
    power_limit_w: dict[str, float] = field(default_factory=dict)


def no_synchronize() -> None:
    """For work that is finished when its call returns."""


Synchronize = Callable[[], None]


class Meter(Protocol):
    """Reads joules. Obtain one from :func:`pytest_llem.meters.open_meter`.

    Attributes:
        name: what was asked for: ``nvml``, ``rapl``, ``estimate``, ``none`` ...
        estimated: true when its joules are modelled, not measured.
        reports_energy: false for ``none`` only.
        auto_window_s: least seconds of a window that its joules are meant for, when nobody asks for another length.
    """

    @property
    def name(self) -> str: ...

    @property
    def estimated(self) -> bool: ...

    @property
    def reports_energy(self) -> bool: ...

    @property
    def auto_window_s(self) -> float: ...

    def window(self, synchronize: Synchronize = no_synchronize) -> AbstractContextManager[Window]:
        """Measure the body of the ``with`` block.

        Args:
            synchronize: waits until the device has finished what was queued; called at both edges, so that
                the window holds the work that its body queued and nothing else.
        """

    def close(self) -> None:
        """Release the sensor. Closing twice is harmless."""

    def __enter__(self) -> Meter: ...

    def __exit__(self, *exc_info: object) -> None: ...
