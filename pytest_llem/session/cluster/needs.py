"""What is run as one task, what it takes, and what there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_llem.config.pytorch import gpu_number
from pytest_llem.items import parameters

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest

    from pytest_llem.config import LoadConfig


@dataclass(frozen=True)
class Group:
    """The items that share a load, which run in one process, one after the other; or one item without a load.

    Attributes:
        items: in the session's order.
        name: of their model, or of the item.
        gpus: how many GPUs the load takes; what runs on the CPU takes none of them.
    """

    items: tuple[pytest.Item, ...]
    name: str
    gpus: int


@dataclass(frozen=True)
class Machine:
    """A machine of the cluster that is there.

    Attributes:
        name: as a reader knows it.
        cpus, gpus: what Ray may give to tasks.
    """

    name: str
    cpus: float
    gpus: float


def groups_of(items: Iterable[pytest.Item]) -> list[Group]:
    """Items by load, in the order in which each first appears."""
    by_load: dict[object, list[pytest.Item]] = {}
    for item in items:
        by_load.setdefault(parameters(item).get("llem_model") or item.nodeid, []).append(item)
    return [_group(members) for members in by_load.values()]


def gpus_of(load: LoadConfig) -> int:
    """How many GPUs a load takes.

    Those that share the model; else up to the highest number that ``max_memory`` or ``device_map`` names, as these
    count from 0 the GPUs that the process sees; else one.
    """
    places = (*load.pytorch.places(), *(load.pytorch.max_memory or {}))
    numbers = [number for place in places if (number := gpu_number(place)) is not None]
    return max([load.tensor, *(number + 1 for number in numbers)])


def _group(items: list[pytest.Item]) -> Group:
    load: LoadConfig | None = parameters(items[0]).get("llem_model")
    if load is None:
        return Group(tuple(items), items[0].nodeid, gpus=1)
    return Group(tuple(items), load.model, gpus_of(load))
