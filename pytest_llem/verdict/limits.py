"""The limit of a gate: how much worse is too much.

Grammar::

    LIMIT     = PERCENT | PERCENT ".." PERCENT
    GATE      = LIMIT [";rule=" ("interval" | "point")]

``2%..5%`` means: a change of up to 2% is tolerated, one of 5% or more must be caught. A single ``5%`` is
short for ``2.5%..5%``. What is generated has no percentages: its only limit is ``same``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, get_args

_OfNumbers = Literal["interval", "point"]
Rule = Literal[_OfNumbers, "same"]

_LARGEST_PERCENTAGE = 1_000_000
_SHOWN_CHARS = 40

_PERCENT = re.compile(r"(?P<number>[+-]?([0-9]+\.?[0-9]*|\.[0-9]+))\s*%")


@dataclass(frozen=True)
class Limit:
    """How much worse a metric may get.

    Attributes:
        tolerance: relative change that is still accepted, as a fraction (0.025 is 2.5%).
        limit: relative change that must be caught, as a fraction; at least ``tolerance`` and above zero.
        rule: ``interval`` judges the confidence interval of the change, ``point`` its bare estimate; ``same`` is of
            what is generated, see :data:`SAME`.
    """

    tolerance: float
    limit: float
    rule: Rule = "interval"

    def __str__(self) -> str:
        if self.rule == "same":
            return self.rule
        rule = "" if self.rule == "interval" else f";rule={self.rule}"
        return f"{_percent(self.tolerance)}..{_percent(self.limit)}{rule}"


SAME = Limit(0.0, 0.0, rule="same")
"""The limit of what is generated: the same tokens, or not."""


def parse_limit(text: str) -> Limit:
    """Read a limit such as ``5%``, ``2%..5%`` or ``3%;rule=point``.

    Raises:
        ValueError: with one line that says what is wrong and what would be right.
    """
    shown = repr(text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}...")
    span, *options = (part.strip() for part in text.split(";"))
    rule: Rule = "interval"
    if len(options) > 1:
        raise ValueError(f"{shown} has more than one `;`; write for example 5%;rule=point")
    if options:
        rule = _rule(options[0], shown)
    if span == "same":
        raise ValueError(f"{shown} is the limit of output alone; write a percentage, for example 5%")
    bounds = [_fraction(part.strip(), shown) for part in span.split("..")]
    if len(bounds) > 2:
        raise ValueError(f"{shown} has more than one `..`; write for example 2%..5%")
    limit = bounds[-1]
    tolerance = bounds[0] if len(bounds) == 2 else limit / 2
    if float(limit) == 0:
        raise ValueError(f"{shown} allows no change at all, which noise alone exceeds; write for example 5%")
    if tolerance > limit:
        raise ValueError(f"{shown} is reversed; write the smaller percentage first, for example 2%..5%")
    return Limit(float(tolerance), float(limit), rule)


def _rule(text: str, whole: str) -> Rule:
    for rule in get_args(_OfNumbers):
        if text == f"rule={rule}":
            return rule  # type: ignore[no-any-return]
    raise ValueError(f"{whole} has an unknown option; write rule=interval or rule=point")


def _fraction(text: str, whole: str) -> Decimal:
    match = _PERCENT.fullmatch(text)
    if match is None:
        raise ValueError(f"{whole} is no limit; write a percentage such as 5% or a range such as 2%..5%")
    percentage = Decimal(match["number"])
    if percentage < 0:
        raise ValueError(f"{whole} is negative; write how much worse is too much, for example 5%")
    if percentage > _LARGEST_PERCENTAGE:
        raise ValueError(f"{whole} is beyond {_LARGEST_PERCENTAGE}%; write for example 5%")
    return percentage / 100


def _percent(fraction: float) -> str:
    # Decimal arithmetic on the shortest text of the float: 0.07 * 100 would print 7.000000000000001.
    return f"{(Decimal(repr(fraction)) * 100).normalize():f}%"
