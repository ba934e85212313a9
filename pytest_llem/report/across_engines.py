"""Points of a sweep that ran on different engines: what of them can be compared, and whether they generated the same.

A call is a batch with one engine and a whole pass with another, so what is compared is per output token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llem.config.backends import BACKENDS
from pytest_llem.verdict.decision import Status
from pytest_llem.verdict.outputs import judge_outputs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_llem.records.record import Record

PER_TOKEN = "a call is not the same work with each backend: compare joules and seconds per output token"  # noqa: S105


# Fields, or sections, that say how the work is done.
_HOW = ("backend", *BACKENDS)


def sweeps(records: Sequence[Record]) -> list[list[Record]]:
    """The points of each sweep among the results, of those with at least two."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record.swept:
            # A test of the user's own may run several experiments, each with its sweep, under one name.
            experiment = str((record.config or {}).get("name", ""))
            groups.setdefault((record.nodeid.partition("[")[0], experiment), []).append(record)
    return [group for group in groups.values() if len(group) > 1]


def backend_of(record: Record) -> str | None:
    """What its model ran on; ``None`` for a callable."""
    name = (record.config or {}).get("backend")
    return None if name is None else str(name)


def across_engines(records: Sequence[Record]) -> bool:
    """Whether their models ran on more than one engine."""
    return len({backend_of(record) for record in records} - {None}) > 1


def other_tokens(records: Sequence[Record]) -> Iterator[tuple[Record, str]]:
    """The points of a sweep whose greedy tokens are others than those of the same work on the first engine, each with
    where they part.

    Args:
        records: the points of one sweep.
    """
    first: dict[str, Record] = {}
    for record in records:
        counterpart = first.setdefault(_work(record), record)
        here, there = backend_of(record), backend_of(counterpart)
        # Tokens that are drawn need not be the same.
        if here == there or record.result.samples or counterpart.result.samples:
            continue
        found = judge_outputs(record.result, counterpart.result, this_is=f"on {here}", other_is=f"on {there}")
        if found.status is not Status.OK:
            yield record, found.reason


def _work(record: Record) -> str:
    """The swept values that say what is generated: neither the engine nor what its section says of it."""
    return repr(
        sorted((field, repr(value)) for field, value in record.swept.items() if field.partition(".")[0] not in _HOW)
    )
