"""Scales of plots: what an axis shows, where a value lies along it, and round numbers beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_llem.report.quantities import alike, percents, short

if TYPE_CHECKING:
    from collections.abc import Sequence

Tick = tuple[float, str]

_MOST_STEPS, _MOST_DECADES = 6, 8
_ROUND_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_MARGIN = 0.06


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        title: the quantity.
        unit: its SI symbol; ticks get a prefix. ``%`` for a change as a fraction.
        ticks: values and texts instead of computed ones.
        from_zero: whether 0 is in sight.
        logarithmic: for values that differ by orders of magnitude, all positive.
    """

    title: str
    unit: str = ""
    ticks: Sequence[Tick] | None = None
    from_zero: bool = False
    logarithmic: bool = False


class Scale:
    """Where the values of an axis lie, as a share of its length: 0 at its beginning, 1 at its end.

    Args:
        values: what must be in sight; a little more is.
    """

    def __init__(self, axis: Axis, values: Sequence[float]) -> None:
        self._logarithmic = axis.logarithmic
        along = [self._along(value) for value in (*values, *(at for at, _ in axis.ticks or ()))]
        low, high = min(along), max(along)
        if axis.from_zero:
            low, high = min(low, 0.0), max(high, 0.0)
        margin = _MARGIN * (high - low)
        if margin <= 1e-9 * abs(high):  # values that are all the same
            margin = 0.05 * abs(high) or 1.0
        self._low = low if axis.from_zero and low == 0 else low - margin
        self._high = high + margin
        find_ticks = _decades if axis.logarithmic else _steps
        self.ticks = axis.ticks or find_ticks(self._low, self._high, axis.unit)

    def __call__(self, value: float) -> float:
        return (self._along(value) - self._low) / (self._high - self._low)

    def _along(self, value: float) -> float:
        return math.log10(value) if self._logarithmic else value


def _steps(low: float, high: float, unit: str) -> list[Tick]:
    """Multiples of a round number, at least three and at most seven."""
    least = (high - low) / _MOST_STEPS
    power = 10.0 ** math.floor(math.log10(least))
    step = next((step * power for step in _ROUND_STEPS if step * power >= least), 20 * power)
    values = [count * step for count in range(math.ceil(low / step), math.floor(high / step) + 1)]
    texts = percents(values, step) if unit == "%" else alike(values, step, unit)
    return list(zip(values, texts, strict=True))


def _decades(low: float, high: float, unit: str) -> list[Tick]:
    """Powers of ten between two exponents, with 2 and 5 times each where there are few of them."""
    every = math.ceil((high - low) / _MOST_DECADES)
    factors = (1, 2, 5) if high - low < 2.2 else (1,)
    exponents = range(math.floor(low), math.ceil(high) + 1, every)
    values = [factor * 10.0**exponent for exponent in exponents for factor in factors]
    return [(value, short(value, unit)) for value in values if low <= math.log10(value) <= high]
