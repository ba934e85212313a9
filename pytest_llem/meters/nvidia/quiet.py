"""Whether boards are quiet before a measurement, asked again and again: most often their power alone says so."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_llem.meters.nvidia.idle_blocks import powers_before
from pytest_llem.meters.nvidia.idle_power import is_flat
from pytest_llem.meters.nvidia.readiness import QUIET_S, check_quiet
from pytest_llem.meters.nvidia.settling import FADED_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.meters.base import Clock, Disturbance
    from pytest_llem.meters.nvidia.counter.sensor import CounterSensor
    from pytest_llem.meters.nvidia.disturbances import BoardWatch

_BLOCK_S, _LOOKED_BACK_S = 0.1, 1.0
_STAYS_QUIET_S = 60.0  # for so long power alone says that a board is idle


class QuietBoards:
    """The boards of a meter, when they were last found quiet, and what they drew then."""

    def __init__(self, watches: Sequence[BoardWatch], counters: Sequence[CounterSensor], clock: Clock) -> None:
        """Of boards some of which have no counter, the power does not say."""
        self._watches = watches
        self._counters = counters if len(counters) == len(watches) else ()
        self._clock = clock
        self._since_s = self._ended_s = self._found_s = -math.inf
        self._powers_w: list[float] = []
        self._found = False

    @property
    def rested_s(self) -> float:
        """For how long nothing has run on the boards, in seconds; minus infinity where that is not known."""
        return self._clock.now_s() - self._since_s if self._found else -math.inf

    def begin_window(self) -> None:
        """Work begins."""
        self._found = False

    def end_window(self, end_s: float) -> None:
        """Work has ended."""
        self._ended_s = end_s

    def others_worked(self) -> None:
        """Work of another process has ended."""
        self.begin_window()
        self.end_window(self._clock.now_s())

    def check(self) -> list[Disturbance]:
        """What disturbs them, see :func:`pytest_llem.meters.nvidia.readiness.check_quiet`."""
        resting = self._draw_idle_power()
        disturbances = check_quiet(self._watches, self._clock, resting=resting)
        if not resting:
            self._found_s = self._clock.now_s()
            self._found, self._since_s = not disturbances, self._found_s - QUIET_S
            drawn = [powers_before(counter, 1, _BLOCK_S) for counter in self._counters]
            known = not disturbances and all(drawn)
            self._powers_w = [powers[0].power_w for powers in drawn] if known else []
        if not disturbances:
            # Pauses between windows are mostly too short to show it; this one is not.
            for counter in self._counters:
                counter.note_rest()
        return disturbances

    def _draw_idle_power(self) -> bool:
        """Whether each board has drawn what it drew when it was last found idle, for as long as it has been at rest
        since the last window."""
        now_s = self._clock.now_s()
        if not self._powers_w or now_s - self._found_s > _STAYS_QUIET_S:
            return False
        rested_s = min(now_s - self._ended_s - FADED_S, _LOOKED_BACK_S)
        drawn = [powers_before(counter, max(int(rested_s / _BLOCK_S), 1), _BLOCK_S) for counter in self._counters]
        return all(
            bool(powers) and all(is_flat(power.power_w, idle_w) for power in powers)
            for powers, idle_w in zip(drawn, self._powers_w, strict=True)
        )
