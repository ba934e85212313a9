"""Running windows: the rounds of a measurement, after the passes that precede them; what was disturbed is repeated.

What runs is a *pass*, a sequence of calls that do the same work each time; a window holds a whole number of passes.
"""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from pytest_llem.measurement.account import Account
from pytest_llem.measurement.phased_windows import TimedCall
from pytest_llem.measurement.precision import FEWEST_ROUNDS, relative_half_width
from pytest_llem.measurement.warm_up import Progress, WarmedUp, passes_for, passes_in, warm_up

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_llem.meters.base import Meter, Synchronize, Window
    from pytest_llem.meters.joined import JoinedWindows

T = TypeVar("T")

AwaitTurn = Callable[[int, int], None]
"""Waits for the turn of this process among those that share a device: windows that are over, and of how many."""

# First windows that may show that passes have become faster since; and shorter later ones that are worth a word.
_MAX_SIZINGS = 3
_NOTED_SHORTNESS = 0.1
# No noise makes a window that short: what ran before it was not yet the work.
_FAR_TOO_SHORT = 0.5
# What is noted of a call, and looked after between two, takes some microseconds: shorter calls are not told apart.
_TOLD_APART_S = 0.001
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
        timed_calls: when the calls of each window ran; empty for calls that are too short to be told apart.
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
    time_again: bool = False,
    before_rounds: Callable[[], None] | None = None,
    progress: Progress | None = None,
    await_turn: AwaitTurn | None = None,
    account: Account | None = None,
    keeps_outputs: bool = True,
) -> Measured[T]:
    """Warm up with the very calls that are measured, size the windows, measure the rounds.

    No window is run only to see whether the work is steady or how long it takes: single passes before the rounds tell
    that, and among them are those whose tokens are timed.

    Args:
        calls: those of a pass; they may leave work queued on the device.
        synchronize: waits for queued work; default: what the meter waits for by itself.
        timed_pass: runs a pass so that the times of its tokens become known, which slows it.
        time_again: run that once more however dear it is, because the first one follows a cold pass.
        before_rounds: is called between the last pass before the rounds and the first of them.
        progress: called between the windows: what runs, how many are over, of how many, seconds of the last one.
        await_turn: called before each window and after the last one: returns when the device is free for it.
        account: where the seconds are accounted for.
        keeps_outputs: whether what the calls return is wanted; of millions of calls it would fill the memory.

    Returns:
        One window a round. Every window holds the same number of passes.
    """
    account = account or Account(meter.clock.now_s)
    with undisturbed():
        before = warm_up(calls, protocol, meter.clock, account, synchronize, timed_pass, time_again, progress)
        if before_rounds is not None:
            before_rounds()
        rounds = _Rounds(calls, protocol, meter, synchronize, progress, await_turn, account, before, keeps_outputs)
        return rounds.joined() if protocol.joined else rounds.settled()


class _Rounds(Generic[T]):
    """Runs the windows of one measurement."""

    def __init__(
        self,
        calls: Sequence[Callable[[], T]],
        protocol: Protocol,
        meter: Meter,
        synchronize: Synchronize | None,
        progress: Progress | None,
        await_turn: AwaitTurn | None,
        account: Account,
        before: WarmedUp,
        keeps_outputs: bool,
    ) -> None:
        self._calls = calls
        self._protocol = protocol
        self._meter = meter
        self._now_s = meter.clock.now_s
        self._synchronize = () if synchronize is None else (synchronize,)
        self._progress = progress
        self._await_turn = await_turn
        self._account = account
        self._keeps_outputs = keeps_outputs
        self._passes, self._pass_s = before.passes, before.pass_s
        self._warnings = [*before.warnings]
        self._retries = self._sizings = 0
        # Rounds that are thrown away count as well.
        self._begun_s = self._now_s()

    def settled(self) -> Measured[T]:
        """The rounds, each from a device at rest to a device at rest."""
        self._clear()
        while not self._is_enough():
            self._wait_for_turn()
            self._settled_round()
            if self._is_too_short():
                seconds = math.fsum(window.seconds for window in self._windows)
                self._account.add("measured", -seconds)
                self._account.add("warm-up", seconds)
                self._clear()
        self._wait_for_turn()
        return self._measured(None)

    def joined(self) -> Measured[T]:
        """The rounds back to back. What throttling disturbed is run again as a whole."""
        while True:
            self._clear()
            self._wait_for_turn()
            gc.collect(1)
            self._meter.pause()
            too_short = False
            with self._account.of("sensor"), self._meter.joined_windows(*self._synchronize) as stretch:
                while not (too_short or self._is_enough()):
                    self._joined_round(stretch)
                    too_short = self._is_too_short()
            seconds = math.fsum(window.seconds for window in self._windows)
            self._account.add("sensor", -seconds)
            if not too_short and not self._is_repeated(self._windows[-1]):
                self._account.add("measured", seconds)
                self._wait_for_turn()
                return self._measured(stretch.total)
            self._account.add("warm-up", seconds)

    def _wait_for_turn(self) -> None:
        if self._await_turn is not None:
            with self._account.paused():
                self._await_turn(len(self._windows), self._protocol.least_rounds)

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
                self._note(window, ran)
                return

    def _joined_round(self, stretch: JoinedWindows) -> None:
        with stretch.window() as window:
            ran = self._run_window()
        self._note(window, ran)

    def _is_too_short(self) -> bool:
        """Whether a window shows that passes have become faster since they were sized: size them again.

        Some work is compiled once more after two or three passes, or more. That a first window is too short is enough;
        a later one has to be far too short, so that none is thrown away for what is noise.
        """
        least_s = self._protocol.min_window_s
        first = len(self._windows) == 1
        if self._windows[-1].seconds >= (1.0 if first else _FAR_TOO_SHORT) * least_s or self._sizings >= _MAX_SIZINGS:
            return False
        self._sizings += 1
        # Passes may be slow and fast by turns: the newest windows together.
        newest = self._windows[-2:]
        self._pass_s = math.fsum(window.seconds for window in newest) / len(newest) / self._passes
        self._passes = max(self._passes + 1, passes_for(least_s, self._pass_s))
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
        self._out_of_time = self._now_s() - self._begun_s >= protocol.budget_s
        return self._out_of_time

    def _note_precision(self, total: Window | None) -> None:
        """Warn where the rounds have not reached the precision that was asked for.

        Once all is known: while windows are joined, their joules are provisional and the half-widths far too wide.
        """
        protocol = self._protocol
        reached = relative_half_width(self._windows, total)
        if protocol.rounds is not None or (reached is not None and reached <= protocol.precision):
            return
        shown = "an unknown one" if reached is None else f"{reached:.2%}"
        taken = f"taken budget_s ({protocol.budget_s:g} s) and " if self._out_of_time else ""
        self._warnings.append(
            f"precision: {len(self._windows)} rounds have {taken}reached {shown}, not {protocol.precision:.3%}"
        )

    def _measured(self, total: Window | None) -> Measured[T]:
        self._note_precision(total)
        shortest_s = min(window.seconds for window in self._windows)
        if shortest_s < (1.0 - _NOTED_SHORTNESS) * self._protocol.min_window_s:
            self._warnings.append(
                f"min_window_s: passes were faster than before the rounds; the shortest window is {shortest_s:.3g} s"
            )
        return Measured(
            self._windows,
            [outputs for outputs, _, _ in self._ran],
            [timed_calls for _, timed_calls, _ in self._ran],
            [start_s for _, _, start_s in self._ran],
            self._passes,
            total,
            self._protocol.rounds is None,
            self._warnings,
        )

    def _clear(self) -> None:
        self._out_of_time = False
        self._windows: list[Window] = []
        self._ran: list[tuple[list[list[T]], list[TimedCall], float]] = []

    def _note(self, window: Window, ran: tuple[list[list[T]], list[TimedCall], float]) -> None:
        self._windows.append(window)
        self._ran.append(ran)
        if self._progress is not None:
            count, (_, _, start_s) = len(self._windows), ran
            self._progress("round", count, max(count, self._protocol.least_rounds), self._now_s() - start_s)

    def _run_window(self) -> tuple[list[list[T]], list[TimedCall], float]:
        now_s, between_calls, calls = self._now_s, self._meter.between_calls, self._calls
        outputs: list[list[T]] = []
        timed_calls: list[TimedCall] = []
        began_s = call_s = now_s()
        if 0.0 < self._pass_s < _TOLD_APART_S * len(calls):
            together = passes_in(_TOLD_APART_S, self._pass_s)
            for first in range(0, self._passes, together):
                passes = range(min(together, self._passes - first))
                if self._keeps_outputs:
                    outputs += [[call() for call in calls] for _ in passes]
                elif len(calls) == 1:
                    call = calls[0]
                    for _ in passes:
                        call()
                else:
                    for _ in passes:
                        for call in calls:
                            call()
                between_calls()
            return outputs, timed_calls, began_s
        for _ in range(self._passes):
            returned: list[T] = []
            for index, call in enumerate(calls):
                returned.append(call())
                ended_s = now_s()
                timed_calls.append(TimedCall(index, call_s - began_s, ended_s - began_s))
                between_calls()
                call_s = now_s()
            if self._keeps_outputs:
                outputs.append(returned)
        return outputs, timed_calls, began_s
