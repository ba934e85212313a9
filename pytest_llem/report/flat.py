"""Nested plain values as names and texts, for tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def flat(value: Any, prefix: str = "") -> tuple[tuple[str, str], ...]:
    """Nested plain values as dotted keys and texts; what is not set is left out."""
    if isinstance(value, Mapping):
        inner = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        inner = [(str(number), item) for number, item in enumerate(value)]
        if all(not isinstance(item, Mapping | list | tuple) for item in value):
            return ((prefix, ", ".join(map(_text, value))),) if value else ()
    else:
        return () if value is None else ((prefix, _text(value)),)
    return tuple(pair for key, item in inner for pair in flat(item, f"{prefix}.{key}" if prefix else key))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.12g}"
    return str(value)
