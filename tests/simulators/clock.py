"""Time that passes only when someone spends it; and real time, in which nobody waits."""

from __future__ import annotations

import time

from pytest_llem.meters.base import SystemClock

EPOCH_S = 1_750_000_000.0
"""Wall-clock time of the clock's zero, in seconds since 1970."""


_LOOK_S = 1e-6

_counted_s: float | None = None


def skip_waits(*, counted: bool = False) -> None:
    """Let meters of this process, and the boards that they read, live in real time whose waits take none of it.

    Args:
        counted: or in time that passes by :func:`work` and by waits alone, and by a look at the clock (a microsecond,
            so that who looks until a moment has come gets there): every figure is the same on any machine, however
            busy it is.
    """
    global _counted_s
    _counted_s = 0.0 if counted else None
    skipped_s = 0.0

    def sleep(_: SystemClock, seconds: float) -> None:
        nonlocal skipped_s
        skipped_s += seconds
        time.sleep(0)  # other threads run

    def passed_s() -> float:
        global _counted_s
        if _counted_s is None:
            return time.perf_counter()
        _counted_s += _LOOK_S
        return _counted_s

    wall_s = time.time() - passed_s()

    def now_s(_: SystemClock) -> float:
        return passed_s() + skipped_s

    SystemClock.sleep = sleep  # type: ignore[assignment, method-assign]
    SystemClock.now_s = now_s  # type: ignore[assignment, method-assign]
    SystemClock.wall_s = lambda self: wall_s + now_s(self)  # type: ignore[method-assign]


def work(seconds: float) -> None:
    """Work for so long: in counted time at once, else in the processor's, which others on the machine take less of."""
    global _counted_s
    if _counted_s is not None:
        _counted_s += seconds
        return
    until_s = time.process_time() + seconds
    while time.process_time() < until_s:
        pass


class SimulatedClock:
    """A :class:`pytest_llem.meters.base.Clock` whose seconds cost nothing.

    Attributes:
        oversleep_s: how much longer than asked each sleep takes, in seconds, as on a real machine.
    """

    def __init__(self, start_s: float = 1000.0, oversleep_s: float = 0.0) -> None:
        self._now_s = start_s
        self._cpu_s = 0.0
        self.oversleep_s = oversleep_s

    def now_s(self) -> float:
        return self._now_s

    def cpu_s(self) -> float:
        return self._cpu_s

    def wall_s(self) -> float:
        return EPOCH_S + self._now_s

    def sleep(self, seconds: float) -> None:
        """Let time pass without using the processor."""
        if seconds < 0:
            # time.sleep() refuses it too.
            raise ValueError(f"sleep length must be non-negative, not {seconds}")
        self._now_s += seconds + self.oversleep_s

    def work(self, seconds: float, cpu_share: float = 1.0) -> None:
        """Let time pass while ``cpu_share`` processors work."""
        self._now_s += seconds
        self._cpu_s += seconds * cpu_share
