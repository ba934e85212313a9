"""Gates: which metric of which experiment may get how much worse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_llem.verdict.history import METRICS
from pytest_llem.verdict.limits import Limit, parse_limit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def parse_gate(text: str) -> tuple[str, Limit]:
    """Read ``METRIC:LIMIT`` of the command line, such as ``energy:2%..5%`` or ``latency:3%;rule=point``.

    Raises:
        ValueError: with one line that says what is wrong and what would be right.
    """
    metric, colon, limit = text.partition(":")
    metric = metric.strip()
    if not colon:
        raise ValueError(f"{text!r} is no gate; write METRIC:LIMIT, for example energy:5%")
    if metric not in METRICS:
        raise ValueError(f"{metric!r} is no metric; use one of {', '.join(METRICS)}")
    return metric, parse_limit(limit)


def parse_gates(texts: Iterable[str]) -> dict[str, Limit]:
    """The gates of the command line by metric; of two for one metric the later one holds."""
    return dict(parse_gate(text) for text in texts)


def resolve(command_line: Mapping[str, Limit], compare: Mapping[Any, str]) -> dict[str, Limit]:
    """The gates of one experiment: those of its file, each replaced by the command line's for the same metric."""
    return {**{metric: parse_limit(text) for metric, text in compare.items()}, **command_line}
