"""Files that ship with the package; read them through :mod:`importlib.resources`."""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def builtin_dataset_names() -> tuple[str, ...]:
    """Names of the prompt sets that come with this package."""
    files = resources.files(__name__).iterdir()
    return tuple(sorted(file.name.removesuffix(".jsonl") for file in files if file.name.endswith(".jsonl")))
