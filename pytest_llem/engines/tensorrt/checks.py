"""A started engine, compared with its experiment: TensorRT-LLM adjusts some requests with no more than a log line."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

from pytest_llem.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Mapping

# What this package adds itself, and what is no setting of a running engine.
_NOT_COMPARED = ("model", "skip_tokenizer_init", "tokenizer_revision")
_FIELDS = {"dtype": "precision", "tensor_parallel_size": "parallel.tensor"}


def check_resolved(arguments: Mapping[str, Any], passed: Mapping[str, Any], resolved: Any) -> list[str]:
    """Compare the arguments of ``LLM`` with what it made of them, ``llm.args``.

    Args:
        arguments: those that this package knows, configuration objects as mappings.
        passed: those that an experiment passes through.

    Returns:
        What could not be compared, a sentence each.

    Raises:
        LoadError: something was asked and did not happen.
    """
    known = {name: value for name, value in arguments.items() if name not in _NOT_COMPARED}
    wanted = {_FIELDS.get(name, f"tensorrt.{name}"): (name, value) for name, value in known.items()}
    wanted |= {f"passthrough.from_pretrained.{name}": (name, value) for name, value in passed.items()}
    return [field for at, (name, value) in wanted.items() for field in _compare(at, name, value, resolved)]


def _compare(field: str, name: str, wanted: Any, holder: Any) -> list[str]:
    if not hasattr(holder, name):
        return [f"{field}: TensorRT-LLM's configuration does not say whether it was carried out"]
    found = getattr(holder, name)
    if isinstance(wanted, dict) and not isinstance(found, dict | None):
        return [note for part, value in wanted.items() for note in _compare(f"{field}.{part}", part, value, found)]
    # An enumeration is named in a file by its name.
    plain = found.name if isinstance(found, Enum) else found
    if wanted not in (plain, found):
        raise LoadError(f"TensorRT-LLM runs with {plain!r} instead", field=field, value=wanted)
    return []
