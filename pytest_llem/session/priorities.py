"""In which order a budget of time is spent, and on what: pure functions on plain values.

What decides a verdict comes first. The items of a model stay together, so that no model is loaded twice; those that
are less urgent run between more urgent ones only where all of these still fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

# A duration that is not known counts as no more than this, in seconds, where decisions per second are compared.
_INSTANT_S = 1e-3


class Urgency(IntEnum):
    """What an item can still decide."""

    OPEN = 0
    """It has a gate whose saved runs cannot decide yet, or that was not clear the last time."""
    CLEAR = 1
    """All of its gates were clear the last time."""
    UNGATED = 2
    """It has no gate."""


@dataclass(frozen=True)
class Task:
    """An item that is going to be measured.

    Attributes:
        load: what its model is, ``None`` for none.
    """

    nodeid: str
    urgency: Urgency
    load: Hashable = None


def in_order(tasks: Sequence[Task], item_s: Callable[[str], float], load_s: Callable[[Hashable], float]) -> list[Task]:
    """The tasks in the order in which they are to run.

    Tasks of a model follow each other, the more urgent first, and of equally urgent ones the shorter. Of two models,
    first the one with more open items per second of loading it and measuring these; then the one with more clear ones,
    likewise. What is equal keeps its order.

    Args:
        item_s: seconds of an item without loading.
        load_s: seconds of a load.
    """
    groups: dict[Hashable, list[Task]] = {}
    for task in tasks:
        groups.setdefault(task.nodeid if task.load is None else task.load, []).append(task)

    def decided_per_s(group: Sequence[Task], urgency: Urgency) -> float:
        count = sum(task.urgency is urgency for task in group)
        seconds = sum(item_s(task.nodeid) for task in group if task.urgency <= urgency)
        return count / max(seconds + load_s(group[0].load), _INSTANT_S)

    ordered = [sorted(group, key=lambda task: (task.urgency, item_s(task.nodeid))) for group in groups.values()]
    ordered.sort(key=lambda group: [-decided_per_s(group, urgency) for urgency in Urgency])
    return [task for group in ordered for task in group]


def reserved_s(
    task: Task,
    later: Sequence[Task],
    loaded: Hashable,
    left_s: float,
    item_s: Callable[[str], float],
    load_s: Callable[[Hashable], float],
) -> float:
    """Seconds that are kept for tasks which come later and are more urgent, as far as they fit.

    Args:
        task: what is about to run.
        later: what comes after it, in order.
        loaded: the model that is there now.
        left_s: seconds that are left for all.
    """
    kept_s = 0.0
    loads = {None, loaded}
    for other in sorted((other for other in later if other.urgency < task.urgency), key=lambda other: other.urgency):
        needed_s = item_s(other.nodeid) + (0.0 if other.load in loads else load_s(other.load))
        if kept_s + needed_s <= left_s:
            kept_s += needed_s
            loads.add(other.load)
    return kept_s
