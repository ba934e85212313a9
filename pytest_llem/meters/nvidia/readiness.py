"""Whether boards are ready to be measured: idle before the start, cool again after they were throttled."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from pytest_llem.meters.base import Disturbance
from pytest_llem.meters.nvidia.disturbances import throttle_names
from pytest_llem.meters.nvidia.visibility import describe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.meters.base import Clock
    from pytest_llem.meters.nvidia.disturbances import BoardWatch

# NVML's utilisation is that of the last 1/6 to 1 s, by board: our own work just before the start is forgotten
# by the end of these samples, so a board that becomes idle within them was busy with that.
_SAMPLE_PAUSE_S = 0.25
_MOST_SAMPLES = 12
_QUIET_SAMPLES = 3
_QUIET_PERCENT = 5

QUIET_S = (_QUIET_SAMPLES - 1) * _SAMPLE_PAUSE_S
"""For so long boards have been idle when they are found to be, in seconds."""

_TEMPERATURE_PAUSE_S = 0.5
_STEADY_S = 3.0
_MARGIN_C = 10


def check_quiet(watches: Sequence[BoardWatch], clock: Clock, *, resting: bool = False) -> list[Disturbance]:
    """What would disturb a measurement on these boards that started now, while nothing of ours runs.

    A foreign process, or a board that stays busy: it is idle when three samples of its utilisation in a row
    are at most 5%, within 3 s.

    Args:
        resting: whether the boards draw what they drew when they were last found idle: then that is not asked again.
    """
    found = [disturbance for watch in watches for disturbance in watch.foreign_processes()]
    for watch in watches if not resting else ():
        percent = _utilization_if_busy(watch, clock)
        if percent is not None:
            text = f"{describe([watch.board])} is busy while nothing of ours runs: {percent:.0f}% utilisation"
            found.append(Disturbance("busy", text))
    return found


def cool_down(watches: Sequence[BoardWatch], clock: Clock, limit_s: float) -> bool:
    """Wait until no board is throttled and each is well below its slowdown temperature or cools no further.

    Returns:
        Whether they were so within ``limit_s`` seconds.
    """
    deadline_s = clock.now_s() + limit_s
    lowest_c = [watch.temperature_c() for watch in watches]
    fell_s = [clock.now_s()] * len(watches)
    while True:
        now_s = clock.now_s()
        ready = True
        for index, watch in enumerate(watches):
            temperature_c, coldest_c = watch.temperature_c(), lowest_c[index]
            if temperature_c is not None and (coldest_c is None or temperature_c < coldest_c):
                lowest_c[index], fell_s[index] = temperature_c, now_s
            slowdown_c = watch.slowdown_temperature_c()
            cool = temperature_c is None or (slowdown_c is not None and temperature_c <= slowdown_c - _MARGIN_C)
            steady = now_s - fell_s[index] >= _STEADY_S
            ready &= not throttle_names(watch.reasons() or 0) and (cool or steady)
        if ready or now_s >= deadline_s:
            return ready
        clock.sleep(min(_TEMPERATURE_PAUSE_S, deadline_s - now_s))


def _utilization_if_busy(watch: BoardWatch, clock: Clock) -> float | None:
    """Median utilisation in per cent of a board that stays busy; ``None`` for an idle one."""
    samples: list[int] = []
    while len(samples) < _MOST_SAMPLES:
        percent = watch.utilization_percent()
        if percent is None:
            return None  # unknown
        samples.append(percent)
        if len(samples) >= _QUIET_SAMPLES and max(samples[-_QUIET_SAMPLES:]) <= _QUIET_PERCENT:
            return None
        clock.sleep(_SAMPLE_PAUSE_S)
    return statistics.median(samples)
