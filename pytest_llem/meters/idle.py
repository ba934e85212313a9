"""Power while nothing runs, measured once it has stopped changing.

Power falls for a while after work. So it is measured in blocks, one after the other, until three in a row agree;
their mean is the idle power.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_llem.meters.base import COVERAGE_FACTOR_95, IdlePower

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_llem.meters.base import Clock

_BLOCKS = 3
_AGREEMENT = 0.02  # relative


@dataclass(frozen=True)
class BlockPower:
    """Mean power of one board or domain in one block.

    Attributes:
        power_w: in watts.
        uncertainty_w: its standard uncertainty, in watts.
    """

    power_w: float
    uncertainty_w: float

    @classmethod
    def of_window(cls, joules: float, uncertainty_j: float, seconds: float) -> BlockPower:
        """From a window's energy and the half-width of its 95% interval, both in joules."""
        return cls(joules / seconds, uncertainty_j / COVERAGE_FACTOR_95 / seconds)


@dataclass(frozen=True)
class SettledPower:
    """Idle powers of several boards or domains.

    Attributes:
        powers: mean of the last three blocks, one for each.
        settled: whether these agreed.
    """

    powers: list[BlockPower]
    settled: bool

    def total(self, limit_s: float) -> IdlePower:
        """All together; ``limit_s``: how long was waited, for the reason."""
        return IdlePower(
            power_w=math.fsum(power.power_w for power in self.powers),
            uncertainty_w=COVERAGE_FACTOR_95 * math.hypot(*(power.uncertainty_w for power in self.powers)),
            settled=self.settled,
            reason=None if self.settled else f"the power had not settled after {limit_s:g} s",
        )


def settled_power(
    measure_block: Callable[[], Sequence[BlockPower] | None], clock: Clock, limit_s: float
) -> SettledPower | None:
    """Measure blocks until three in a row agree.

    They agree when they lie within 2% of one another, and what their own uncertainties leave: two of them for
    the difference of two blocks. The standard uncertainty of their mean holds those uncertainties and their
    range, uniformly.

    Args:
        measure_block: measures one block; ``None`` where nothing could be measured.
        clock: where time is read.
        limit_s: when to give up, in seconds; at least three blocks are measured.

    Returns:
        ``None`` where a block could not be measured.
    """
    deadline_s = clock.now_s() + limit_s
    blocks: list[Sequence[BlockPower]] = []
    while True:
        block = measure_block()
        if block is None:
            return None
        blocks.append(block)
        if len(blocks) < _BLOCKS:
            continue
        averages = [_average(source) for source in zip(*blocks[-_BLOCKS:], strict=True)]
        settled = all(agree for _, agree in averages)
        if settled or clock.now_s() >= deadline_s:
            return SettledPower([power for power, _ in averages], settled)


def _average(blocks: Sequence[BlockPower]) -> tuple[BlockPower, bool]:
    """The mean of one source's blocks, and whether they agree."""
    powers_w = [block.power_w for block in blocks]
    mean_w, range_w = statistics.fmean(powers_w), max(powers_w) - min(powers_w)
    own_w = math.hypot(*(block.uncertainty_w for block in blocks)) / len(blocks)
    noise_w = 2.0 * max(block.uncertainty_w for block in blocks)
    agree = range_w <= _AGREEMENT * mean_w + noise_w
    return BlockPower(mean_w, math.hypot(own_w, range_w / math.sqrt(12.0))), agree
