"""The times of tokens that an engine notes itself."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from pytest_llem.engines.base import CallTiming
from pytest_llem.errors import MeasurementError

if TYPE_CHECKING:
    from collections.abc import Sequence

# Between the clocks of two processes, which are the same one, and between the steps of one call.
_CLOCK_TOLERANCE_S = 1e-3


@dataclass(frozen=True)
class NotedTimes:
    """When a sequence was begun and its first and last token appeared, on the monotonic clock, in seconds.

    Attributes:
        tokens: how many new ones it has.
    """

    scheduled_s: float
    first_token_s: float
    last_token_s: float
    tokens: int


def timing(start_s: float, noted: Sequence[NotedTimes], end_s: float, engine: str) -> CallTiming:
    """Of a call, in the mean over its sequences, each from the call to its first token: with what it waited for its
    turn.

    Args:
        start_s, end_s: of the call, on the monotonic clock of this process.
        noted: by the engine itself, for each sequence.
        engine: its name, for messages.

    Raises:
        MeasurementError: the times do not lie within the call.
    """
    further_s = []
    for times in noted:
        order = (start_s, times.scheduled_s, times.first_token_s, times.last_token_s, end_s)
        if any(later < earlier - _CLOCK_TOLERANCE_S for earlier, later in pairwise(order)):
            raise MeasurementError(
                f"the times that {engine} notes of its tokens do not lie within the call, by the clock of this process"
            )
        if times.tokens > 1:
            further_s.append((times.last_token_s - times.first_token_s) / (times.tokens - 1))
    return CallTiming(
        statistics.fmean(times.first_token_s - start_s for times in noted),
        statistics.fmean(further_s) if further_s else None,
        # Sequences reach the engine one by one, so which of them share its first step differs from pass to pass.
        at_once=len(noted) == 1,
    )
