"""What was measured of one item: the one memory of a result that counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_llem.measurement.result import ExperimentResult
    from pytest_llem.verdict.limits import Limit


@dataclass
class Recorded:
    """A result that counts once all phases of its item have passed.

    Attributes:
        nodeid: pytest's name of the item.
        name: its last part, for people.
        file: the file that it is in, from the root of the session.
        result: what was measured.
        rows: pytest-benchmark's rows of it.
        gates: limits by metric.
        config: the resolved configuration as plain values; ``None`` for a callable.
        swept: the values of this point of a sweep.
        trouble: why further runs of it, which a verdict asked for, are missing.
        from_journal: an earlier session measured it, and may have saved it.
    """

    nodeid: str
    name: str
    file: str
    result: ExperimentResult
    rows: Sequence[Any]
    gates: Mapping[str, Limit] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    swept: Mapping[str, Any] = field(default_factory=dict)
    trouble: list[str] = field(default_factory=list)
    failed: bool = False
    from_journal: bool = False
