"""What all sections of an experiment share: strictness, field metadata, and the refusal of contradictions."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WrapValidator
from pydantic_core import InitErrorDetails, PydanticCustomError

from pytest_llem.config.builtin_models import BUILTIN_NAMES, PREFIX, is_builtin
from pytest_llem.config.data import builtin_dataset_names

Stage = Literal["load", "prompts", "batch", "call", "measurement", "session"]
"""What a field decides.

The work: the loaded model (``load``), the ``prompts``, how they form a ``batch``, the arguments of ``generate()``
(``call``). Beside the work: how, where and under which name it is measured (``measurement``), or what the ``session``
does with it: whether it runs, how long it may take, how it is judged.
"""

ErrorKind = Literal["contradiction", "expected", "misplaced", "refused"]
"""Types of the errors that are raised here, beside pydantic's own."""

CONTRADICTION: ErrorKind = "contradiction"
"""Error type of values that are fine one by one but not together."""

EXPECTED: ErrorKind = "expected"
"""Error type of a value of the wrong kind, whose message says what the field takes."""

REFUSED: ErrorKind = "refused"
"""Error type of a value whose message is finished: it says what is wrong and what would be right."""

MISPLACED: ErrorKind = "misplaced"
"""Error type of a key that belongs elsewhere; its message is finished, too."""


def refusal(message: str) -> PydanticCustomError:
    """An error of the type :data:`REFUSED`. As a parameter, so that braces of the message are no template's."""
    return PydanticCustomError(REFUSED, "{message}", {"message": message})


def builtin_model(model: str) -> str:
    """Refuse a built-in model that there is not."""
    if is_builtin(model):
        _refuse_unknown("model", model.removeprefix(PREFIX), BUILTIN_NAMES, PREFIX)
    return model


def builtin_dataset(name: str) -> str:
    """Refuse a built-in dataset that there is not."""
    _refuse_unknown("dataset", name, builtin_dataset_names(), further="; for a file, write {path: ...}")
    return name


def _refuse_unknown(kind: str, name: str, names: Sequence[str], prefix: str = "", further: str = "") -> None:
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {prefix}{near[0]}?" if near else ""
    there = ", ".join(prefix + known for known in names)
    raise refusal(f"unknown built-in {kind} {name[:60]!r}; use one of {there}{further}{hint}")


class Section(BaseModel):
    """Base of every mapping in an experiment file: unknown keys refused, nothing coerced, not mutable.

    Instances are hashable by value even where they hold mappings.

    Args:
        stage: what those fields decide that say nothing of it themselves.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
    _stage: ClassVar[Stage | None] = None

    def __init_subclass__(cls, *, stage: Stage | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._stage = stage or cls._stage

    def __hash__(self) -> int:
        return hash((type(self), frozen(self.__dict__)))

    def given(self, *stages: Stage) -> dict[str, Any]:
        """The fields that decide one of ``stages`` and are not ``None``, by name."""
        wanted = fields_of(type(self), *stages)
        return {name: value for name, value in self if name in wanted and value is not None}


def frozen(value: Any) -> Any:
    """A hashable stand-in for a value made of mappings, sequences and scalars; equal for equal values."""
    if isinstance(value, Mapping):
        return frozenset((key, frozen(item)) for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return tuple(frozen(item) for item in value)
    return value


def option(
    description: str,
    *,
    default: Any = None,
    stage: Stage | None = None,
    unit: str | None = None,
    sampling: bool = False,
    **bounds: Any,
) -> Any:
    """A field, with all that is known of it: whatever depends on a field reads it here.

    Args:
        description: help text, one place for the documentation, the schema and editors.
        default: ``None`` where the backend's own default applies.
        stage: what the field decides, see :func:`stage_of`.
        unit: unit of the value, where it has one.
        sampling: whether the field has no effect without sampling.
        bounds: pydantic constraints (``ge``, ``le``, ``gt``, ``min_length`` ...).
    """
    about = {"stage": stage, "unit": unit, "sampling": sampling or None, **bounds.pop("json_schema_extra", {})}
    extra = {key: value for key, value in about.items() if value is not None}
    return Field(default=default, description=description, json_schema_extra=extra, **bounds)


def metadata_of(section: type[BaseModel], field: str) -> Mapping[str, Any]:
    """What ``field`` of ``section`` says of itself beside what pydantic knows, see :func:`option`."""
    extra = section.model_fields[field].json_schema_extra
    return extra if isinstance(extra, dict) else {}


def stage_of(section: type[Section], field: str) -> Stage | None:
    """What ``field`` of ``section`` decides.

    ``None`` for what is not of one stage. Such a field counts as work: results that differ in it are not comparable.
    """
    stage: Stage | None = metadata_of(section, field).get("stage", section._stage)
    return stage


@cache
def fields_of(section: type[Section], *stages: Stage) -> frozenset[str]:
    """The fields of ``section`` that decide one of ``stages``."""
    return frozenset(field for field in section.model_fields if stage_of(section, field) in stages)


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
            type=PydanticCustomError(kind, "{message}", {"message": message}),
            loc=tuple(field.split(".")),
            input=None,
        )
        for field, message in conflicts
    ]
    if errors:
        raise ValidationError.from_exception_data(type(section).__name__, errors)
