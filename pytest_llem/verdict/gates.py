"""Gates: which metric of which experiment may get how much worse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_llem.verdict.history import METRICS
from pytest_llem.verdict.limits import SAME, Limit, parse_limit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


OUTPUT = "output"
"""What is generated: it can be gated, and has no rows."""

GATED = (*METRICS, OUTPUT)
"""All that can be gated."""


def parse_gate(text: str) -> tuple[str, Limit]:
    """Read ``METRIC:LIMIT`` of the command line, such as ``energy:2%..5%``, ``latency:3%;rule=point`` or
    ``output:same``.

    Raises:
        ValueError: with one line that says what is wrong and what would be right.
    """
    metric, colon, limit = text.partition(":")
    metric = metric.strip()
    if not colon:
        raise ValueError(f"{text!r} is no gate; write METRIC:LIMIT, for example energy:5%")
    if metric not in GATED:
        raise ValueError(f"{metric!r} is no metric; use one of {', '.join(GATED)}")
    return metric, limit_of(metric, limit)


def limit_of(metric: str, text: str) -> Limit:
    """Read the limit of one of :data:`GATED`.

    Raises:
        ValueError: with one line that says what is wrong and what would be right.
    """
    if metric != OUTPUT:
        return parse_limit(text)
    if text.strip() != str(SAME):
        raise ValueError(f"{text[:40]!r} is no limit of output, which is the same or is not; write same")
    return SAME


def parse_gates(texts: Iterable[str]) -> dict[str, Limit]:
    """The gates of the command line by metric; of two for one metric the later one holds."""
    return dict(parse_gate(text) for text in texts)


def resolve(command_line: Mapping[str, Limit], compare: Mapping[Any, str]) -> dict[str, Limit]:
    """The gates of one experiment: those of its file, each replaced by the command line's for the same metric."""
    return {**{metric: limit_of(metric, text) for metric, text in compare.items()}, **command_line}
