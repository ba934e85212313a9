"""Running windows: warm up until the work is steady, size the windows, run the rounds, repeat what was disturbed.

What runs is a *pass*, any callable that does the same work each time; a window holds a whole number of passes.
"""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_llem.meters.base import Meter, Synchronize, Window

T = TypeVar("T")

Progress = Callable[[str, int, int, float], None]

# Whole windows that are run before the first round, at most. Sizing takes one or two, and two more must agree.
_MAX_WARMUP_WINDOWS = 8
# Two windows agree when they differ by no more than this in time and in power.
_STEADY = 0.05
# The calls of a window that is sized to just reach the wanted length would fall short in half of the rounds.
_WINDOW_MARGIN = 1.05
# A first pass may be slow for reasons that end with it (compilation, page faults); growing at most tenfold at a time
# keeps a misjudged first guess from costing minutes.
_MAX_GROWTH = 10
# Windows of one measurement that are thrown away and run again because the device throttled.
_MAX_RETRIES = 3


@dataclass(frozen=True)
class Protocol:
    """How to measure.

    Attributes:
        rounds: number of windows, at least 1.
        warmup_rounds: passes before the windows are sized, at least 0.
        min_window_s: least seconds of a window; 0 makes every window a single pass.
    """

    rounds: int
    warmup_rounds: int
    min_window_s: float


@dataclass(frozen=True)
class Measured(Generic[T]):
    """Windows of the same number of passes each, what the passes returned, and what a reader must know.

    Attributes:
        starts_s: when each window was begun, by the clock of ``time.perf_counter``.
    """

    windows: list[Window]
    outputs: list[list[T]]
    starts_s: list[float]
    passes: int
    warnings: list[str] = field(default_factory=list)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the collector, tracers and profilers of this interpreter out of the body.

    Coverage and debuggers trace every line; a collection in the middle of a window is work that the window's calls
    do not need.
    """
    collecting, tracer, profiler = gc.isenabled(), sys.gettrace(), sys.getprofile()
    gc.collect()
    gc.disable()
    sys.settrace(None)
    # A profiler written in C can be taken out but not be put back; it stays.
    if callable(profiler):
        sys.setprofile(None)
    try:
        yield
    finally:
        if callable(profiler):
            sys.setprofile(profiler)
        sys.settrace(tracer)
        if collecting:
            gc.enable()


def measure_windows(
    run_pass: Callable[[], T],
    protocol: Protocol,
    meter: Meter,
    synchronize: Synchronize | None = None,
    progress: Progress | None = None,
) -> Measured[T]:
    """Warm up with the very pass that is measured, size the windows, measure the rounds.

    Args:
        run_pass: one whole pass; it may leave work queued on the device.
        synchronize: waits for queued work; default: what the meter waits for by itself.
        progress: called between the windows: what runs, how many are over, of how many, seconds of the last one.

    Returns:
        One window a round. Every window holds the same number of passes.
    """
    runner = _Runner(run_pass, meter, synchronize, progress or _say_nothing)
    with undisturbed():
        for _ in range(protocol.warmup_rounds):
            run_pass()
        warnings = runner.warm_up(protocol.min_window_s) if protocol.min_window_s > 0 else []
        measured = [runner.round(number, protocol.rounds) for number in range(1, protocol.rounds + 1)]
    return Measured(
        [window for window, _, _ in measured],
        [returned for _, returned, _ in measured],
        [start_s for _, _, start_s in measured],
        runner.passes,
        [*warnings, *runner.warnings],
    )


def _say_nothing(phase: str, done: int, total: int, window_s: float) -> None:
    """No progress is shown."""


class _Runner(Generic[T]):
    """Runs windows of one kind of pass.

    Attributes:
        passes: passes in a window.
        warnings: what happened to windows that were thrown away.
    """

    def __init__(
        self, run_pass: Callable[[], T], meter: Meter, synchronize: Synchronize | None, progress: Progress
    ) -> None:
        self._run_pass = run_pass
        self._meter = meter
        self._synchronize = synchronize
        self._progress = progress
        self._retries = 0
        self.passes = 1
        self.warnings: list[str] = []

    def warm_up(self, min_window_s: float) -> list[str]:
        """Run whole windows, as the rounds will run, until they are long enough and two in a row agree.

        Returns:
            A warning if they never did.
        """
        last: Window | None = None
        for number in range(1, _MAX_WARMUP_WINDOWS + 1):
            start_s = time.perf_counter()
            window, _ = self._window()
            self._progress("warm-up", number, _MAX_WARMUP_WINDOWS, time.perf_counter() - start_s)
            if window.seconds < min_window_s:
                wanted = self.passes * min_window_s / max(window.seconds, 1e-9) * _WINDOW_MARGIN
                self.passes = min(max(self.passes + 1, math.ceil(wanted)), self.passes * _MAX_GROWTH)
                last = None
                continue
            if last is not None and _agree(last, window):
                return []
            last = window
        return [
            f"not steady: after {_MAX_WARMUP_WINDOWS} warm-up windows two in a row still differ by more than "
            f"{_STEADY:.0%} in time or power, or are shorter than {min_window_s:g} s"
        ]

    def round(self, number: int, total: int) -> tuple[Window, list[T], float]:
        """One window of the measurement. What throttling disturbed is run again, once the device has cooled down."""
        while True:
            # What the last window left. A full collection walks through every object of torch and transformers, which
            # takes a large part of a second, and what it walks through has not changed.
            gc.collect(1)
            self._meter.pause()
            start_s = time.perf_counter()
            window, returned = self._window()
            self._progress("round", number, total, time.perf_counter() - start_s)
            throttled = [found.text for found in window.disturbances if found.kind == "throttled"]
            if not throttled or self._retries >= _MAX_RETRIES:
                return window, returned, start_s
            self._retries += 1
            self.warnings.append(f"a window was thrown away and run again: {'; '.join(throttled)}")
            if not self._meter.cool_down():
                # Hotter than it should be even without our work: trying again would only take longer.
                self._retries = _MAX_RETRIES

    def _window(self) -> tuple[Window, list[Any]]:
        meter = self._meter
        with meter.window() if self._synchronize is None else meter.window(self._synchronize) as window:
            returned = [self._run_pass() for _ in range(self.passes)]
        return window, returned


def _agree(first: Window, second: Window) -> bool:
    """Whether two windows of the same work are alike in time, and in power as far as the meter resolves it."""
    if abs(second.seconds - first.seconds) > _STEADY * first.seconds:
        return False
    if not first.joules or not second.joules:
        return True
    first_w, second_w = first.joules / first.seconds, second.joules / second.seconds
    resolved_w = math.hypot(
        (first.uncertainty_j or 0.0) / first.seconds, (second.uncertainty_j or 0.0) / second.seconds
    )
    return abs(second_w - first_w) <= max(_STEADY * first_w, resolved_w)
