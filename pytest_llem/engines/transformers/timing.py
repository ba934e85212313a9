"""When the tokens of a call to ``generate()`` appear."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from transformers.generation.streamers import BaseStreamer

from pytest_llem.engines.base import CallTiming

if TYPE_CHECKING:
    import torch


class TokenClock(BaseStreamer):
    """A streamer that notes when tokens come and does nothing with them.

    ``generate()`` hands it the prompt first, then each step's tokens. It copies them to the host for that,
    which waits for the device, so the times are those of finished tokens.
    """

    def __init__(self) -> None:
        self._rows: int | None = None
        self._start_s = 0.0
        self._times_s: list[float] = []
        self._tokens: list[int] = []

    def start(self) -> None:
        """Note the beginning of the call."""
        self._start_s = time.perf_counter()

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt (the first call) or the tokens of a step: one per sequence, several with speculation."""
        now_s = time.perf_counter()
        if self._rows is None:
            self._rows = value.shape[0]
            return
        self._times_s.append(now_s)
        self._tokens.append(value.numel() // self._rows)

    def end(self) -> None:
        """Nothing is buffered."""

    def timing(self) -> CallTiming:
        """What was noted.

        Raises:
            ValueError: no token came.
        """
        if not self._times_s:
            raise ValueError("generate() produced no token")
        first_s, last_s = self._times_s[0], self._times_s[-1]
        further = sum(self._tokens[1:])
        return CallTiming(
            time_to_first_token_s=first_s - self._start_s,
            time_per_output_token_s=(last_s - first_s) / further if further else None,
        )
