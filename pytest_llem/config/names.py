"""The dotted names of an experiment's fields, read off the models."""

from __future__ import annotations

import difflib
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, get_args, get_origin

from pytest_llem.config.backends import BACKENDS
from pytest_llem.config.base import Section
from pytest_llem.config.experiment import ExperimentConfig
from pytest_llem.config.instead import INSTEAD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

FILE_KEYS = ("base", "exclude", "experiments", "sweep")
"""Keys that belong to a file, beside the fields of an experiment."""


@cache
def fields() -> dict[str, FieldInfo]:
    """Every field by its dotted name, sections included, in the order of the models."""
    return {name: section.model_fields[_leaf(name)] for name, section in sections().items()}


@cache
def sections() -> dict[str, type[Section]]:
    """The section that each field belongs to, by the field's dotted name, in the order of the models."""
    return dict(_walk(ExperimentConfig, ""))


def _walk(section: type[Section], prefix: str) -> Iterator[tuple[str, type[Section]]]:
    for name, field in section.model_fields.items():
        yield prefix + name, section
        for annotation in _parts(field.annotation):
            if isinstance(annotation, type) and issubclass(annotation, Section):
                yield from _walk(annotation, f"{prefix}{name}.")


def _parts(annotation: Any) -> Iterator[Any]:
    """An annotation and all it is made of."""
    yield annotation
    for argument in get_args(annotation):
        yield from _parts(argument)


def is_section(name: str) -> bool:
    """Whether ``name`` holds further named fields."""
    return any(other.startswith(f"{name}.") for other in fields())


@cache
def open_mappings() -> tuple[str, ...]:
    """The fields that are mappings with keys of the user's own."""
    return tuple(
        name
        for name, field in fields().items()
        if any(part is dict or get_origin(part) is dict for part in _parts(field.annotation))
    )


def is_known(name: str) -> bool:
    """Whether ``name`` is a field, or a key of a field that is an open mapping."""
    return name in fields() or any(name.startswith(f"{mapping}.") for mapping in open_mappings())


def flattened(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The fields that ``value`` sets at the dotted ``name``; an empty mapping names its place."""
    if isinstance(value, dict) and value and is_section(name):
        for key, item in value.items():
            yield from flattened(f"{name}.{key}", item)
    else:
        yield name, value


# Names that transformers and other harnesses have for a field, too far from ours to be near misses.
_OTHER_NAMES = {
    "dtype": "precision",
    "max_length": "max_output_tokens",
    "max_new_tokens": "max_output_tokens",
    "seed": "random_seed",
    "stop": "decoder.stop_strings",
    "torch_dtype": "precision",
}


@lru_cache(maxsize=1024)
def suggestion(name: str, backend: str | None = None) -> str:
    """The message about the unknown dotted ``name``, with the field that was meant, or the fields there are.

    Args:
        backend: the experiment's, where it is known: what only another one has is of no use.
    """
    if name in FILE_KEYS:
        return "unknown field; it belongs to the file and not to an experiment; move it to the top level"
    section, _, leaf = name.rpartition(".")
    if section in INSTEAD and leaf in INSTEAD[section].in_section:
        return INSTEAD[section].in_section[leaf]
    siblings = {_leaf(other): other for other in fields() if other.rpartition(".")[0] == section}
    if not section:
        siblings |= {key: key for key in FILE_KEYS}
    top = section.partition(".")[0]
    backend = top if top in BACKENDS else backend
    foreign = () if backend not in BACKENDS else tuple(f"{other}." for other in BACKENDS if other != backend)
    everywhere = {_leaf(other): other for other in reversed(fields()) if not other.startswith(foreign)}
    # A name of another section, then a misspelt one of this section, then of another one.
    known = _OTHER_NAMES.get(leaf) or everywhere.get(leaf)
    meant = known or _nearest(leaf, siblings, 0.7)
    advice = INSTEAD.get(backend or "")
    if meant is None and advice is not None and leaf in advice.in_section:
        return advice.in_section[leaf]
    meant = meant or _nearest(leaf, everywhere, 0.8)
    if meant:
        return f"unknown field; did you mean {meant}?"
    if siblings:
        return f"unknown field; the fields here are {', '.join(sorted(siblings))}"
    return "unknown field; remove it"


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _nearest(leaf: str, names: dict[str, str], cutoff: float) -> str | None:
    near = difflib.get_close_matches(leaf, list(names), n=1, cutoff=cutoff)
    return names[near[0]] if near else None
