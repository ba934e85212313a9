"""Running windows: warm up until the work is steady, size the windows, run the rounds, repeat what was disturbed.

What runs is a *pass*, a sequence of calls that do the same work each time; a window holds a whole number of passes.
"""

from __future__ import annotations

import gc
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from pytest_llem.measurement.account import Account
from pytest_llem.measurement.phased_windows import TimedCall
from pytest_llem.measurement.precision import FEWEST_ROUNDS, relative_half_width
from pytest_llem.measurement.steadiness import FEWEST, has_trend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_llem.meters.base import Meter, Synchronize, Window
    from pytest_llem.meters.joined import JoinedWindows

T = TypeVar("T")

Progress = Callable[[str, int, int, float], None]

# Passes that are to be told steady may take that share of what the rounds will take; while a trend is seen, all of it.
_CHEAP = 0.1
# And those that time tokens once more, this share.
_CHEAP_TIMING = 0.03
# Less than that says little of what clocks and caches do.
_LEAST_WARM_UP_S = 0.25
_MOST_TIMED_PASSES = 3
# The calls of a window that is sized to just reach the wanted length would fall short in half of the rounds.
_WINDOW_MARGIN = 1.05
# First windows that may show that passes have become faster since; and shorter later ones that are worth a word.
_MAX_SIZINGS = 3
_NOTED_SHORTNESS = 0.1
# Windows of one measurement that are thrown away and run again because the device throttled.
_MAX_RETRIES = 3


@dataclass(frozen=True)
class Protocol:
    """How to measure.

    Attributes:
        rounds: number of windows, at least 1; ``None``: as many as ``precision`` needs, at least 3.
        warmup_rounds: passes before the rounds, at least.
        min_window_s: least seconds of a window; 0 makes every window a single pass.
        precision: half-width of the 95% interval that the rounds are to reach, relative to the mean energy.
        budget_s: seconds that the rounds may take where their number is not fixed.
        joined: whether windows follow each other on a loaded device, in place of settling one by one.
    """

    rounds: int | None
    warmup_rounds: int
    min_window_s: float
    precision: float = 0.01
    budget_s: float = 60.0
    joined: bool = False

    @property
    def least_rounds(self) -> int:
        """So many windows are measured at least."""
        return FEWEST_ROUNDS if self.rounds is None else self.rounds


@dataclass(frozen=True)
class Measured(Generic[T]):
    """Windows of the same number of passes each, what their calls returned, and what a reader must know.

    Attributes:
        windows: one a round.
        outputs: what the calls of each pass returned, by window and pass.
        timed_calls: when the calls of each window ran.
        starts_s: when each window's first call was, by the meter's clock.
        passes: passes in a window.
        total: all of them together, where they were joined.
        sequential: whether their number was decided while they ran.
    """

    windows: list[Window]
    outputs: list[list[list[T]]]
    timed_calls: list[list[TimedCall]]
    starts_s: list[float]
    passes: int
    total: Window | None = None
    sequential: bool = False
    warnings: list[str] = field(default_factory=list)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the collector, tracers and profilers of this interpreter out of the body.

    Coverage and debuggers trace every line; a collection in the middle of a window is work that the window's calls
    do not need.
    """
    collecting, tracer, profiler = gc.isenabled(), sys.gettrace(), sys.getprofile()
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
    calls: Sequence[Callable[[], T]],
    protocol: Protocol,
    meter: Meter,
    synchronize: Synchronize | None = None,
    *,
    timed_pass: Callable[[], None] | None = None,
    before_rounds: Callable[[], None] | None = None,
    progress: Progress | None = None,
    account: Account | None = None,
) -> Measured[T]:
    """Warm up with the very calls that are measured, size the windows, measure the rounds.

    No window is run only to see whether the work is steady or how long it takes: single passes before the rounds tell
    that, and among them are those whose tokens are timed.

    Args:
        calls: those of a pass; they may leave work queued on the device.
        synchronize: waits for queued work; default: what the meter waits for by itself.
        timed_pass: runs a pass so that the times of its tokens become known, which slows it.
        before_rounds: is called between the last pass before the rounds and the first of them.
        progress: called between the windows: what runs, how many are over, of how many, seconds of the last one.
        account: where the seconds are accounted for.

    Returns:
        One window a round. Every window holds the same number of passes.
    """
    runner = _Runner(calls, protocol, meter, synchronize, progress, account or Account(meter.clock.now_s))
    with undisturbed():
        runner.warm_up(timed_pass)
        if before_rounds is not None:
            before_rounds()
        return runner.joined_rounds() if protocol.joined else runner.settled_rounds()


class _Runner(Generic[T]):
    """Runs the passes and windows of one measurement."""

    def __init__(
        self,
        calls: Sequence[Callable[[], T]],
        protocol: Protocol,
        meter: Meter,
        synchronize: Synchronize | None,
        progress: Progress | None,
        account: Account,
    ) -> None:
        self._calls = calls
        self._protocol = protocol
        self._meter = meter
        self._now_s = meter.clock.now_s
        self._synchronize = () if synchronize is None else (synchronize,)
        self._progress = progress
        self._account = account
        self._passes = 1
        self._retries = self._sizings = 0
        self._clear()
        self._warnings: list[str] = []

    def warm_up(self, timed_pass: Callable[[], None] | None) -> None:
        """Run single passes until they are steady, and size the windows by them."""
        protocol, account = self._protocol, self._account
        sized = protocol.min_window_s > 0
        if not (timed_pass or sized or protocol.warmup_rounds):
            return
        with account.of("checks"):
            # It may be slow for reasons that end with it: compilation, page faults, the engine's own checks.
            pass_s = self._timed(self._run_pass)
        done = 1
        if timed_pass is not None:
            with account.of("tokens"):
                pass_s = self._timed(timed_pass)
            done = 2
        with account.of("warm-up"):
            least = max(protocol.warmup_rounds - done, 1 if sized and timed_pass is None else 0)
            times_s = self._until_steady(pass_s, least)
        if times_s:
            # The first ones are forgotten by then.
            pass_s = statistics.median(times_s[-((len(times_s) + 1) // 2) :])
        if times_s and timed_pass is not None:
            with account.of("tokens"):
                self._time_again(timed_pass, pass_s)
        if pass_s < protocol.min_window_s:
            self._passes = _passes_for(protocol.min_window_s, pass_s)

    def settled_rounds(self) -> Measured[T]:
        """The rounds, each from a device at rest to a device at rest."""
        self._clear()
        while not self._is_enough():
            self._settled_round()
            if self._is_too_short():
                self._clear()
        return self._measured(None)

    def joined_rounds(self) -> Measured[T]:
        """The rounds back to back. What throttling disturbed is run again as a whole."""
        while True:
            self._clear()
            gc.collect(1)
            too_short = False
            with self._account.of("sensor"), self._meter.joined_windows(*self._synchronize) as stretch:
                while not (too_short or self._is_enough()):
                    self._joined_round(stretch)
                    too_short = self._is_too_short()
            seconds = math.fsum(window.seconds for window in self._windows)
            self._account.add("sensor", -seconds)
            if not too_short and not self._is_repeated(self._windows[-1]):
                self._account.add("measured", seconds)
                return self._measured(stretch.total)
            self._account.add("warm-up", seconds)

    def _settled_round(self) -> None:
        while True:
            # What the last window left. A full collection walks through every object of torch and transformers, which
            # takes a large part of a second, and what it walks through has not changed.
            gc.collect(1)
            with self._account.of("sensor"):
                self._meter.pause()
                with self._meter.window(*self._synchronize) as window:
                    ran = self._run_window()
                repeated = self._is_repeated(window)
                self._account.move("warm-up" if repeated else "measured", window.seconds)
            if not repeated:
                self._note(window, *ran)
                return

    def _joined_round(self, stretch: JoinedWindows) -> None:
        with stretch.window() as window:
            ran = self._run_window()
        self._note(window, *ran)

    def _is_too_short(self) -> bool:
        """Whether the first window shows that passes have become faster since they were sized: size them again.

        Some work is compiled once more after two or three passes.
        """
        seconds, least_s = self._windows[-1].seconds, self._protocol.min_window_s
        if len(self._windows) > 1 or seconds >= least_s or self._sizings >= _MAX_SIZINGS:
            return False
        self._sizings += 1
        self._passes = max(self._passes + 1, _passes_for(least_s, seconds / self._passes))
        return True

    def _is_repeated(self, window: Window) -> bool:
        """Whether throttling has disturbed a window that may still be run again, once the device has cooled down."""
        throttled = [found.text for found in window.disturbances if found.kind == "throttled"]
        if not throttled or self._retries >= _MAX_RETRIES:
            return False
        self._retries += 1
        self._warnings.append(f"a window was thrown away and run again: {'; '.join(throttled)}")
        if not self._meter.cool_down():
            # Hotter than it should be even without our work: trying again would only take longer.
            self._retries = _MAX_RETRIES
        return True

    def _is_enough(self) -> bool:
        protocol, count = self._protocol, len(self._windows)
        if count < protocol.least_rounds:
            return False
        if protocol.rounds is not None:
            return True
        reached = relative_half_width(self._windows)
        if reached is not None and reached <= protocol.precision:
            return True
        if self._now_s() - self._begun_s < protocol.budget_s:
            return False
        shown = "an unknown one" if reached is None else f"{reached:.2%}"
        self._warnings.append(
            f"precision: {count} rounds have taken budget_s ({protocol.budget_s:g} s) and reached {shown}, not "
            f"{protocol.precision:.3%}"
        )
        return True

    def _measured(self, total: Window | None) -> Measured[T]:
        shortest_s = min(window.seconds for window in self._windows)
        if shortest_s < (1.0 - _NOTED_SHORTNESS) * self._protocol.min_window_s:
            self._warnings.append(
                f"min_window_s: passes were faster than before the rounds; the shortest window is {shortest_s:.3g} s"
            )
        return Measured(
            self._windows,
            self._outputs,
            self._timed_calls,
            self._starts_s,
            self._passes,
            total,
            self._protocol.rounds is None,
            self._warnings,
        )

    def _clear(self) -> None:
        self._begun_s = self._now_s()
        self._windows: list[Window] = []
        self._outputs: list[list[list[T]]] = []
        self._timed_calls: list[list[TimedCall]] = []
        self._starts_s: list[float] = []

    def _note(self, window: Window, outputs: list[list[T]], timed_calls: list[TimedCall], start_s: float) -> None:
        self._windows.append(window)
        self._outputs.append(outputs)
        self._timed_calls.append(timed_calls)
        self._starts_s.append(start_s)
        self._say("round", len(self._windows), self._protocol.least_rounds, self._now_s() - start_s)

    def _say(self, phase: str, done: int, total: int, seconds: float) -> None:
        if self._progress is not None:
            self._progress(phase, done, max(done, total), seconds)

    def _run_window(self) -> tuple[list[list[T]], list[TimedCall], float]:
        now_s, between_calls = self._now_s, self._meter.between_calls
        outputs: list[list[T]] = []
        timed_calls: list[TimedCall] = []
        began_s = call_s = now_s()
        for _ in range(self._passes):
            returned: list[T] = []
            for index, call in enumerate(self._calls):
                returned.append(call())
                ended_s = now_s()
                timed_calls.append(TimedCall(index, call_s - began_s, ended_s - began_s))
                between_calls()
                call_s = now_s()
            outputs.append(returned)
        return outputs, timed_calls, began_s

    def _run_pass(self) -> None:
        for call in self._calls:
            call()

    def _timed(self, run: Callable[[], None]) -> float:
        """Seconds that a pass takes."""
        start_s = self._now_s()
        run()
        for synchronize in self._synchronize:
            synchronize()
        return self._now_s() - start_s

    def _until_steady(self, pass_s: float, least: int) -> list[float]:
        """Run passes until a trend in their times can no longer be told from their noise.

        Args:
            pass_s: what a pass takes, as far as is known, in seconds.
            least: so many passes are run at least.

        Returns:
            What each took, in seconds.
        """
        protocol = self._protocol
        times_s: list[float] = []
        while True:
            spent_s = math.fsum(times_s)
            rounds_s = protocol.least_rounds * max(protocol.min_window_s, pass_s)
            if len(times_s) >= least:
                if len(times_s) < FEWEST:
                    # Fewer would tell nothing.
                    if spent_s + (FEWEST - len(times_s)) * pass_s > _CHEAP * rounds_s:
                        return times_s
                elif spent_s >= min(_LEAST_WARM_UP_S, _CHEAP * rounds_s):
                    if not has_trend(times_s):
                        return times_s
                    if spent_s + pass_s > rounds_s:
                        self._warnings.append(
                            f"not steady: passes still change after {len(times_s)} of them before the rounds"
                        )
                        return times_s
            times_s.append(self._timed(self._run_pass))
            pass_s = statistics.median(times_s[-FEWEST:])
            self._say("warm-up", len(times_s), least, times_s[-1])

    def _time_again(self, timed_pass: Callable[[], None], pass_s: float) -> None:
        """Time the tokens of warm passes: at least of one, then of more while they are cheap."""
        cheap_s = _CHEAP_TIMING * self._protocol.least_rounds * max(self._protocol.min_window_s, pass_s)
        spent_s = 0.0
        for _ in range(_MOST_TIMED_PASSES):
            spent_s += self._timed(timed_pass)
            if spent_s + pass_s > cheap_s:
                return


def _passes_for(window_s: float, pass_s: float) -> int:
    return math.ceil(window_s / max(pass_s, 1e-9) * _WINDOW_MARGIN)
