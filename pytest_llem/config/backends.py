"""The names that ``backend:`` may have: the three that this package knows, and those that other packages add."""

from __future__ import annotations

import functools
from importlib.metadata import EntryPoints, entry_points
from typing import Any

from pydantic_core import PydanticKnownError

BACKENDS = ("pytorch", "vllm", "tensorrt")
"""Backends whose sections a file may hold, whether there is an engine for them or not."""

ENGINES = "pytest_llem.engines"
"""Entry point group of engines: the backend's name, and the class or factory of its engine."""


@functools.cache
def registered() -> EntryPoints:
    """The engines of other packages. None is imported; every installed package's metadata is read, so ask for this only
    where a name is not this package's own."""
    return entry_points(group=ENGINES)


def backends() -> list[str]:
    """All names: this package's, then the registered ones."""
    return [*BACKENDS, *sorted(registered().names - {*BACKENDS})]


def backend_name(name: Any) -> Any:
    """Refuse a name that is neither this package's nor registered."""
    if name in BACKENDS or name in backends():
        return name
    *names, last = map(repr, backends())
    raise PydanticKnownError("literal_error", {"expected": f"{', '.join(names)} or {last}"})
