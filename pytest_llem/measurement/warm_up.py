"""Passes before the rounds: each serves for all that it can, and no window is run for it.

The first one carries the engine's checks and whatever is compiled or cached; then one times the tokens; cheap ones
follow until they are steady, and times of tokens once more. By the last of them the windows are sized.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_llem.measurement.steadiness import FEWEST, has_trend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.measurement.account import Account
    from pytest_llem.measurement.windows import Protocol
    from pytest_llem.meters.base import Clock, Synchronize

Progress = Callable[[str, int, int, float], None]

# Passes that are to be told steady may take that share of what the rounds will take; while a trend is seen, all of it.
_CHEAP = 0.1
# And those that time tokens once more, this share.
_CHEAP_TIMING = 0.03
# Less than that says little of what clocks and caches do.
_LEAST_S = 0.25
_MOST_TIMED_PASSES = 3
# Passes are timed together until they take so long: the clock and what is kept of a pass cost as much as short ones.
_BLOCK_S = 0.005
# The calls of a window that is sized to just reach the wanted length would fall short in half of the rounds.
_WINDOW_MARGIN = 1.05


@dataclass
class WarmedUp:
    """What passes before the rounds have told.

    Attributes:
        passes: so many fill a window.
        pass_s: seconds of one; 0 where that is not known.
        warnings: what a reader must know.
    """

    passes: int = 1
    pass_s: float = 0.0
    warnings: list[str] = field(default_factory=list)


def passes_for(window_s: float, pass_s: float) -> int:
    """How many passes fill a window."""
    return math.ceil(window_s / max(pass_s, 1e-9) * _WINDOW_MARGIN) if pass_s < window_s else 1


def passes_in(seconds: float, pass_s: float) -> int:
    """How many passes take about that long, at least one."""
    return max(round(seconds / max(pass_s, 1e-9)), 1)


def warm_up(
    calls: Sequence[Callable[[], object]],
    protocol: Protocol,
    clock: Clock,
    account: Account,
    synchronize: Synchronize | None = None,
    timed_pass: Callable[[], None] | None = None,
    time_again: bool = False,
    progress: Progress | None = None,
) -> WarmedUp:
    """Run single passes until they are steady, and size the windows by them.

    Args:
        calls: those of a pass.
        timed_pass, time_again, progress: see :func:`pytest_llem.measurement.windows.measure_windows`.
    """

    def run_pass() -> None:
        for call in calls:
            call()

    def timed(run: Callable[[], None], times: int = 1) -> float:
        """Seconds of one, the mean of so many."""
        start_s = clock.now_s()
        for _ in range(times):
            run()
        if synchronize is not None:
            synchronize()
        return (clock.now_s() - start_s) / times

    told = WarmedUp()
    sized = protocol.min_window_s > 0
    if not (timed_pass or sized or protocol.warmup_rounds):
        return told
    with account.of("first-pass"):
        pass_s = timed(run_pass)
    done = 1
    if timed_pass is not None:
        with account.of("tokens"):
            pass_s = timed(timed_pass)
        done = 2
    with account.of("warm-up"):
        least = max(protocol.warmup_rounds - done, 1 if sized and timed_pass is None else 0)
        times_s: list[float] = []
        ran, spent_s = 0, 0.0
        while _wants_more(times_s, ran, spent_s, pass_s, least, protocol, told):
            block = min(passes_in(_BLOCK_S, pass_s), passes_for(protocol.min_window_s, pass_s))
            times_s.append(timed(run_pass, block))
            ran += block
            spent_s += block * times_s[-1]
            pass_s = statistics.median(times_s[-FEWEST:])
            if progress is not None:
                progress("warm-up", ran, max(least, ran), block * times_s[-1])
    if times_s:
        # The first ones are forgotten by then.
        pass_s = statistics.median(times_s[-((len(times_s) + 1) // 2) :])
    if timed_pass is not None and (times_s or time_again):
        cheap_s, spent_s = _CHEAP_TIMING * _rounds_s(protocol, pass_s), 0.0
        with account.of("tokens"):
            for number in range(_MOST_TIMED_PASSES):
                if number and spent_s + pass_s > cheap_s:
                    break
                spent_s += timed(timed_pass)
    told.passes, told.pass_s = passes_for(protocol.min_window_s, pass_s), pass_s
    return told


def _wants_more(
    times_s: Sequence[float],
    ran: int,
    spent_s: float,
    pass_s: float,
    least: int,
    protocol: Protocol,
    told: WarmedUp,
) -> bool:
    """Whether further passes are to tell if passes are steady: a trend in their times against their noise.

    Args:
        times_s: mean times of a pass in the blocks so far.
        ran, spent_s: passes in them, and what they took.
    """
    rounds_s = _rounds_s(protocol, pass_s)
    if ran < least:
        return True
    if len(times_s) < FEWEST:
        # Fewer would tell nothing.
        return spent_s + (FEWEST - len(times_s)) * pass_s <= _CHEAP * rounds_s
    if spent_s < min(_LEAST_S, _CHEAP * rounds_s):
        return True
    if not has_trend(times_s):
        return False
    if spent_s + pass_s <= rounds_s:
        return True
    told.warnings.append(f"not steady: passes still change after {ran} of them before the rounds")
    return False


def _rounds_s(protocol: Protocol, pass_s: float) -> float:
    """What the rounds will take at least, in seconds."""
    return protocol.least_rounds * max(protocol.min_window_s, pass_s)
