"""Where the seconds of an experiment go: every one belongs to one entry, and the entries add up to all of them."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ENTRIES = {
    "load": "loading the model",
    "checks": "checking the device",
    "first-pass": "the first pass, with compilation",
    "idle": "idle power",
    "warm-up": "warming up",
    "tokens": "times of tokens",
    "sensor": "waiting for the sensor",
    "measured": "measured",
    "phases": "measuring prefill apart",
    "other": "the rest",
}
"""Names of the entries, and what each is; ``measured`` are the windows whose energy and time the result holds."""


class Account:
    """A stopwatch with one hand and many dials. Entries within others count for themselves alone."""

    def __init__(self, now_s: Callable[[], float] = time.perf_counter) -> None:
        """Start, with ``other``; ``now_s`` is where time is read."""
        self._now_s = now_s
        self._seconds = dict.fromkeys(ENTRIES, 0.0)
        self._open = ["other"]
        self._since_s = now_s()

    @contextmanager
    def of(self, entry: str) -> Iterator[None]:
        """What the body takes belongs to ``entry``."""
        self._settle()
        self._open.append(entry)
        try:
            yield
        finally:
            self._settle()
            self._open.pop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What the body takes belongs to others, which use the device meanwhile."""
        self._settle()
        yield
        self._since_s = self._now_s()

    def add(self, entry: str, seconds: float) -> None:
        """Seconds that passed before the account was opened."""
        self._seconds[entry] += seconds

    def move(self, entry: str, seconds: float) -> None:
        """Seconds of the entry that is open now belong to another one."""
        self._seconds[self._open[-1]] -= seconds
        self._seconds[entry] += seconds

    def spent_s(self) -> dict[str, float]:
        """Seconds by entry until now, without those that took none."""
        self._settle()
        return {entry: seconds for entry, seconds in self._seconds.items() if seconds > 0}

    def _settle(self) -> None:
        now_s = self._now_s()
        self._seconds[self._open[-1]] += now_s - self._since_s
        self._since_s = now_s
