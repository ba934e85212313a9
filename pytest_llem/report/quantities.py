"""Numbers with SI prefixes and uncertainties, for people."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_PREFIXES = {-9: "n", -6: "u", -3: "m", 0: "", 3: "k", 6: "M"}
UNKNOWN = "-"


def number(value: float | None, unit: str, digits: int = 4) -> str:
    """``0.01234, "J"`` as ``12.34 mJ``; an unknown quantity is a dash, never a zero."""
    if value is None:
        return UNKNOWN
    exponent = _exponent(value)
    scaled = value / 10.0**exponent
    decimals = max(0, digits - 1 - (math.floor(math.log10(abs(scaled))) if scaled else 0))
    return f"{scaled:.{decimals}f} {_PREFIXES[exponent]}{unit}".rstrip()


def short(value: float, unit: str) -> str:
    """``0.02, "J"`` as ``20 mJ``: no more digits than a round number has."""
    exponent = _exponent(value)
    return f"{value / 10.0**exponent:.3g} {_PREFIXES[exponent]}{unit}".rstrip()


def alike(values: Sequence[float], step: float, unit: str) -> list[str]:
    """Multiples of a step, all with the prefix of the largest and as many decimals as the step has."""
    exponent = _exponent(max(map(abs, values)))
    scaled = step / 10.0**exponent
    decimals = next((count for count in range(12) if math.isclose(round(scaled, count), scaled)), 12)
    return [f"{value / 10.0**exponent:.{decimals}f} {_PREFIXES[exponent]}{unit}".rstrip() for value in values]


def percents(values: Sequence[float], step: float) -> list[str]:
    """Multiples of a step, both fractions, as ``+2.5%``, with as many decimals as the step has."""
    decimals = next((count for count in range(12) if math.isclose(round(step * 100, count), step * 100)), 12)
    return [f"{value:+.{decimals}%}" if value else "0%" for value in values]


def with_uncertainty(value: float | None, half_width: float | None, unit: str) -> str:
    """``12.34 +- 0.05 mJ``: the value to the second significant digit of its uncertainty (GUM, 7.2.6).

    An uncertainty that nobody stated is shown as a question mark.
    """
    if value is None:
        return UNKNOWN
    if half_width is None:
        return f"{number(value, unit).split(' ')[0]} ± ? {_PREFIXES[_exponent(value)]}{unit}"
    # An uncertainty above the value needs the larger prefix.
    exponent = _exponent(max(abs(value), half_width))
    symbol = f"{_PREFIXES[exponent]}{unit}"
    scaled = value / 10.0**exponent
    width = half_width / 10.0**exponent
    decimals = max(0, 1 - math.floor(math.log10(width))) if width > 0 else 3
    decimals = min(decimals, 6)
    # Rounded first, so that no zero has a sign.
    return f"{round(scaled, decimals) + 0.0:.{decimals}f} ± {width:.{decimals}f} {symbol}"


def _exponent(value: float) -> int:
    """The power of a thousand that leaves at least one digit before the point."""
    if value == 0 or not math.isfinite(value):
        return 0
    exponent = 3 * math.floor(math.log10(abs(value)) / 3)
    return min(max(exponent, min(_PREFIXES)), max(_PREFIXES))
