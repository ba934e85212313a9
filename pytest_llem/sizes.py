"""Sizes of memory, for people."""

from __future__ import annotations


def size(number_bytes: float) -> str:
    """``1_363_149`` as ``1.30 MiB``: three significant digits, at most three of them before the point."""
    if number_bytes < 999.5:
        return f"{number_bytes:.0f} B"
    units = iter(("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"))
    while number_bytes >= 999.5:  # it would be rounded to four digits, and written with an exponent
        number_bytes /= 1024
        unit = next(units)
    return f"{number_bytes:#.3g} {unit}".replace(". ", " ")
