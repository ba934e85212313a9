"""Time that passes only when someone spends it; and real time, in which nobody waits."""

from __future__ import annotations

import time

from pytest_llem.meters.base import SystemClock

EPOCH_S = 1_750_000_000.0
"""Wall-clock time of the clock's zero, in seconds since 1970."""


def skip_waits(*, of_processor: bool = False) -> None:
    """Let meters of this process, and the boards that they read, live in real time whose waits take none of it.

    Args:
        of_processor: or in the time that this process's processor has worked: the same work takes the same time there,
            however busy the machine is.
    """
    skipped_s = 0.0

    def sleep(_: SystemClock, seconds: float) -> None:
        nonlocal skipped_s
        skipped_s += seconds
        time.sleep(0)  # other threads run

    passed_s = time.process_time if of_processor else time.perf_counter
    wall_s = time.time() - passed_s()

    def now_s(_: SystemClock) -> float:
        return passed_s() + skipped_s

    SystemClock.sleep = sleep  # type: ignore[assignment, method-assign]
    SystemClock.now_s = now_s  # type: ignore[assignment, method-assign]
    SystemClock.wall_s = lambda self: wall_s + now_s(self)  # type: ignore[method-assign]


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
