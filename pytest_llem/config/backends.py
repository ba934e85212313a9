"""The names that ``backend:`` may have: the three that this package knows, and those that other packages add."""

from __future__ import annotations

import functools
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic_core import PydanticKnownError

BACKENDS = ("pytorch", "vllm", "tensorrt")
"""Backends whose sections a file may hold, whether there is an engine for them or not."""

ENGINES = "pytest_llem.engines"
"""Entry point group of engines: the backend's name, and the class or factory of its engine."""


@functools.cache
def registered() -> dict[str, tuple[EntryPoint, ...]]:
    """The engines of other packages by backend. Nothing of them is imported; the search reads every installed package's
    metadata, so it is made only for a name that this package has no engine for."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in entry_points(group=ENGINES):
        found[entry.name] = (*found.get(entry.name, ()), entry)
    return found


def backends() -> list[str]:
    """All names: this package's, then the registered ones."""
    return [*BACKENDS, *sorted(registered().keys() - BACKENDS)]


def backend_name(name: Any) -> Any:
    """Refuse a name that is neither this package's nor registered."""
    if name in BACKENDS or (isinstance(name, str) and name in registered()):
        return name
    *names, last = map(repr, backends())
    raise PydanticKnownError("literal_error", {"expected": f"{', '.join(names)} or {last}"})
