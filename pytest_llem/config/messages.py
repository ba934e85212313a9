"""What a user reads when an experiment does not validate."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_llem.config.base import CONTRADICTION, EXPECTED, MISPLACED, REFUSED
from pytest_llem.config.dataset import TAGS as DATASET_TAGS
from pytest_llem.config.names import fields, suggestion
from pytest_llem.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pydantic_core import ErrorDetails

    from pytest_llem.config.document import Mark, Node

# What a field takes, and its bounds, by pydantic's error types.
_KINDS = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "finite_number": "a finite number",
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("above", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("below", "lt"),
}

_MISSING = {
    "model": "is missing; name a hub id, a local folder or a built-in model such as builtin:tiny-llama",
    "dataset.path": "is missing; name a file of prompts, or use `synthetic` or `builtin`",
}

_SHOWN_FIELD_CHARS = 120
_SHOWN_VALUE_CHARS = 40


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        field: dotted name.
        message: what is wrong, and what would be right.
        mark: where to point.
        contradicts: true for values that are fine one by one but exclude each other.
    """

    field: str
    message: str
    mark: Mark
    contradicts: bool = False

    def __str__(self) -> str:
        # A quoted key may hold anything, line breaks too.
        field = self.field if self.field.isprintable() else repr(self.field)
        return printable(f"{field[:_SHOWN_FIELD_CHARS]}: {self.message}")

    def render(self) -> str:
        """The finished message: one line, then the place in the file."""
        return f"{printable(self.mark.source.display)}:{self.mark.line}: {self}\n{self.mark.excerpt()}"


def problems(errors: Iterable[ErrorDetails], node: Node) -> list[Problem]:
    """The errors of one validation as messages, in the order of the files.

    Args:
        errors: what pydantic found.
        node: the mapping that was validated.
    """
    found = [_problem(error, node) for error in errors]
    return sorted(found, key=lambda problem: (problem.mark.source.display, problem.mark.line, problem.mark.column))


def _problem(error: ErrorDetails, node: Node) -> Problem:
    location = _location(error)
    found, depth = _descend(node, location)
    kind = error["type"]
    # A key is at fault where it should not be there or excludes another, else its value is.
    is_key = kind in ("extra_forbidden", "invalid_key", CONTRADICTION, MISPLACED) or _at_key(error)
    blames_key = is_key or depth < len(location)
    mark = found.key if blames_key and found.key is not None else found.mark
    field = ".".join(str(part) for part in location)
    return Problem(field, _message(error, field, _backend(node)), mark, contradicts=kind == CONTRADICTION)


def _location(error: ErrorDetails) -> list[str | int]:
    """Where an error is in the file, without what pydantic adds: a union's tag, the mark of a faulty key."""
    location = list(error["loc"])
    if _at_key(error):
        location.pop()
    if location[0] == "dataset" and len(location) > 1 and location[1] in DATASET_TAGS:
        del location[1]
    return location


def _at_key(error: ErrorDetails) -> bool:
    return error["loc"][-1] == "[key]" and error["type"] != "extra_forbidden"


def _descend(node: Node, location: Sequence[str | int]) -> tuple[Node, int]:
    """The node at ``location``, or the deepest above it, and how many parts led there."""
    for depth, part in enumerate(location):
        below = node.content
        if isinstance(below, list):
            below = dict(enumerate(below))
        if not isinstance(below, dict) or part not in below:
            return node, depth
        node = below[part]
    return node, len(location)


def place_of(field: str, node: Node) -> Mark | None:
    """Where the dotted ``field`` is in ``node``; ``None`` if it is not there."""
    location = field.split(".")
    found, depth = _descend(node, location)
    return (found.key or found.mark) if depth == len(location) else None


def _backend(node: Node) -> str | None:
    """The one that the experiment ``node`` names."""
    given = node.content.get("backend")
    return given.plain if given is not None and isinstance(given.plain, str) else None


def _message(error: ErrorDetails, field: str, backend: str | None) -> str:
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    shown = show(value)
    if kind in (CONTRADICTION, MISPLACED, REFUSED) or (kind == EXPECTED and isinstance(value, dict | list)):
        message = error["msg"]
    elif kind == EXPECTED:
        message = f"{error['msg']}; got {shown}"
    elif kind == "missing":
        message = _MISSING.get(field, "is missing; add it")
    elif kind == "extra_forbidden" and field in fields():
        message = "does not belong to this kind of dataset; remove it"
    elif kind in ("extra_forbidden", "invalid_key"):
        message = suggestion(field, backend)
    elif kind in _BOUNDS:
        relation, key = _BOUNDS[kind]
        message = f"must be {relation} {_number(context[key])}, got {shown}"
    elif kind in _KINDS:
        quotes = kind == "string_type" and isinstance(value, bool | int | float)
        message = f"expected {_KINDS[kind]}, got {shown}{'; put it in quotes' if quotes else ''}"
    elif kind == "literal_error":
        choices = context["expected"].replace("'", "")
        message = f"expected {choices}, got {shown}{_near(value, context)}"
    elif kind in ("string_too_short", "too_short"):
        message = "must not be empty"
    elif kind == "string_pattern_mismatch":
        message = f"{shown} is not allowed here; it must match {context['pattern']}"
    else:
        message = f"{shown} is not valid here"
    return message


def _number(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else str(bound)


def _near(value: Any, context: dict[str, Any]) -> str:
    choices = {choice.casefold(): choice for choice in re.findall(r"'([^']*)'", context["expected"])}
    near = difflib.get_close_matches(str(value).casefold(), list(choices), n=1)
    return f"; did you mean {choices[near[0]]}?" if near else ""


def show(value: Any) -> str:
    """A value as YAML would spell it, shortened."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = repr(value[: _SHOWN_VALUE_CHARS + 1]) if isinstance(value, str) else str(value)
    return text if len(text) <= _SHOWN_VALUE_CHARS else f"{text[:_SHOWN_VALUE_CHARS]}..."
