"""Boards of every kind that a meter should cope with, drawn at random."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pynvml

from tests.simulators.board import SimulatedBoard, ideal_board, noisy_board
from tests.simulators.power import LoadedPower

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

# Short reads, in seconds, for boards that only they make worth measuring.
_SHORT_READS_S = 0.0005


def _steps(random: Random) -> LoadedPower:
    """Falls to idle power at once, as the recorded boards do."""
    return LoadedPower(random.uniform(60.0, 130.0), afterglow_w=random.uniform(2.0, 4.0))


def _decays(random: Random, **changes: Any) -> LoadedPower:
    """Keeps its clocks up for a while."""
    idle_w, tail_w = random.uniform(60.0, 130.0), random.uniform(150.0, 250.0)
    return LoadedPower(idle_w, tail_w, random.uniform(0.05, 0.2), afterglow_w=random.uniform(2.0, 4.0), **changes)


def _board(
    random: Random, build: Callable[..., SimulatedBoard] = SimulatedBoard, period_s: float = 0.1, **changes: Any
) -> SimulatedBoard:
    drawn = {"power": _steps(random), "phase_s": random.uniform(0.0, period_s), "seed": random.randrange(1 << 30)}
    return build(period_s=period_s, **(drawn | changes))


def _uniform_jitter_s(sd_s: float) -> float:
    """Half the width of a uniform jitter of this standard deviation, in seconds."""
    return sd_s * math.sqrt(3.0)


def _decaying(random: Random, power: LoadedPower) -> SimulatedBoard:
    return _board(random, power=power, jitter_s=_uniform_jitter_s(0.005), read_cost_s=_SHORT_READS_S)


def _period(random: Random) -> SimulatedBoard:
    period_s = math.exp(random.uniform(math.log(0.015), math.log(1.0)))
    return _board(random, period_s=round(period_s / 0.005) * 0.005, read_cost_s=_SHORT_READS_S)


def _odd_period(random: Random) -> SimulatedBoard:
    # Far from every multiple of 5 ms.
    period_s = 0.005 * random.randint(4, 23) + random.uniform(0.002, 0.003)
    return _board(random, period_s=period_s, read_cost_s=_SHORT_READS_S)


_DRAW: dict[str, Callable[[Random], SimulatedBoard]] = {
    "ideal": lambda random: _board(random, ideal_board, power=LoadedPower(random.uniform(60.0, 130.0))),
    "recorded": _board,
    "noisy": lambda random: _board(random, noisy_board),
    "lag": lambda random: _board(random, sensor_lag_s=random.uniform(0.002, 0.12)),
    "decay": lambda random: _decaying(random, _decays(random)),
    "holding": lambda random: _decaying(random, _decays(random, hold_s=0.05)),
    "jitter": lambda random: _board(random, jitter_s=_uniform_jitter_s(0.005), read_cost_s=_SHORT_READS_S),
    "period": _period,
    "odd period": _odd_period,
    "lagging counter": lambda random: _board(random, lag_s=random.uniform(0.005, 0.06)),
    "late samples": lambda random: _board(random, sample_delay_s=random.uniform(0.05, 0.15)),
    "no samples": lambda random: _board(random, errors={"nvmlDeviceGetSamples": pynvml.NVML_ERROR_NOT_SUPPORTED}),
    "wandering": lambda random: _board(random, wander_s=0.005),
}


def _of_kind(kind: str) -> Callable[[Random], SimulatedBoard]:
    def draw(random: Random) -> SimulatedBoard:
        board = _DRAW[kind](random)
        # A board of its own: what a meter keeps of another one does not hold for it.
        board.uuid = f"GPU-{kind.replace(' ', '-')}-{board.seed}"
        return board

    return draw


KINDS = {kind: _of_kind(kind) for kind in _DRAW}
"""By name: draws one board of the kind, with a phase and a seed of its own."""
