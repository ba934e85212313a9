"""What all sections of an experiment share: strictness, field metadata, and the refusal of contradictions."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WrapValidator
from pydantic_core import InitErrorDetails, PydanticCustomError

from pytest_llem.config.builtin_models import BUILTIN_NAMES
from pytest_llem.config.data import builtin_dataset_names

Stage = Literal["load", "generate", "batch"]
"""What a field decides: the loaded model, the arguments of ``generate()``, or how prompts form batches."""

ErrorKind = Literal["contradiction", "expected", "refused"]
"""Types of the errors that are raised here, beside pydantic's own."""

CONTRADICTION: ErrorKind = "contradiction"
"""Error type of values that are fine one by one but not together."""

EXPECTED: ErrorKind = "expected"
"""Error type of a value of the wrong kind, whose message says what the field takes."""

REFUSED: ErrorKind = "refused"
"""Error type of a value whose message is finished: it says what is wrong and what would be right."""


BUILTIN = "builtin:"
"""Prefix of the models that are built in memory, without a download."""


def is_builtin(model: str | None) -> bool:
    """Whether ``model`` names a model that is built in memory."""
    return model is not None and model.startswith(BUILTIN)


def builtin_model(model: str) -> str:
    """Refuse a built-in model that there is not."""
    if is_builtin(model):
        _refuse_unknown("model", model.removeprefix(BUILTIN), BUILTIN_NAMES, BUILTIN)
    return model


def builtin_dataset(name: str) -> str:
    """Refuse a built-in dataset that there is not."""
    _refuse_unknown("dataset", name, builtin_dataset_names(), further="; for a file, write {path: ...}")
    return name


def _refuse_unknown(kind: str, name: str, names: Sequence[str], prefix: str = "", further: str = "") -> None:
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {prefix}{near[0]}? " if near else ""
    there = ", ".join(prefix + known for known in names)
    message = f"there is no built-in {kind} {name[:60]!r}; {hint}there is {there}{further}"
    raise PydanticCustomError(REFUSED, "{message}", {"message": message})


class Section(BaseModel):
    """Base of every mapping in an experiment file: unknown keys refused, nothing coerced, not mutable.

    Instances are hashable by value even where they hold mappings.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    def __hash__(self) -> int:
        return hash((type(self), frozen(self.__dict__)))


def frozen(value: Any) -> Any:
    """A hashable stand-in for a value made of mappings, sequences and scalars; equal for equal values."""
    if isinstance(value, Mapping):
        return frozenset((key, frozen(item)) for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return tuple(frozen(item) for item in value)
    return value


def option(description: str, *, stage: Stage | None = None, unit: str | None = None, **bounds: Any) -> Any:
    """A field that defaults to ``None``: the backend's own default applies.

    Args:
        description: help text, one place for the documentation, the schema and editors.
        stage: what the field decides; kept in the field's ``json_schema_extra`` and read by :func:`stage_of`.
        unit: unit of the value, where it has one.
        bounds: pydantic constraints (``ge``, ``le``, ``gt``, ``min_length`` ...).
    """
    return Field(default=None, description=description, json_schema_extra=metadata(stage, unit), **bounds)


def metadata(stage: Stage | None = None, unit: str | None = None) -> dict[str, Any]:
    """The ``json_schema_extra`` of a field."""
    return {key: value for key, value in {"stage": stage, "unit": unit}.items() if value is not None}


def stage_of(section: type[BaseModel], field: str) -> Stage | None:
    """What ``field`` of ``section`` decides, ``None`` for a field that decides none of the three."""
    stage: Stage | None = metadata_of(section, field).get("stage")
    return stage


def metadata_of(section: type[BaseModel], field: str) -> Mapping[str, Any]:
    """What :func:`metadata` gave ``field`` of ``section``."""
    extra = section.model_fields[field].json_schema_extra
    return extra if isinstance(extra, dict) else {}


def expects(what: str) -> WrapValidator:
    """Replace the several errors of a union by one that says which values the field takes."""

    def validate(value: Any, inner: Callable[[Any], Any]) -> Any:
        try:
            return inner(value)
        except ValidationError:
            raise PydanticCustomError(EXPECTED, "expected {what}", {"what": what}) from None

    return WrapValidator(validate)


class Conflict(NamedTuple):
    """A field whose value does not go with the rest.

    Attributes:
        field: dotted name of the field to point at, within the section that reports it.
        message: what is wrong and the way out.
    """

    field: str
    message: str


def refuse(section: BaseModel, conflicts: Iterable[Conflict], kind: ErrorKind = CONTRADICTION) -> None:
    """Raise all ``conflicts`` of ``section`` at once, if there are any.

    Raises:
        pydantic.ValidationError: with one error of type ``kind`` for each.
    """
    errors = [
        InitErrorDetails(
            # The message as a parameter: its braces must not be taken for a template's.
            type=PydanticCustomError(kind, "{message}", {"message": message}),
            loc=tuple(field.split(".")),
            input=None,
        )
        for field, message in conflicts
    ]
    if errors:
        raise ValidationError.from_exception_data(type(section).__name__, errors)
