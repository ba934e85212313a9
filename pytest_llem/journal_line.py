"""What a line of the journal must hold to be reported: a file may have been damaged, or written by somebody else."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from pytest_llem.limit import parse_limit
from pytest_llem.results import ExperimentResult  # noqa: TC001  (read at run time)


@dataclass
class _Info:
    metric: str
    unit: str
    workload_hash: str
    environment_hash: str
    environment: dict[str, Any]
    more_runs: list[ExperimentResult] = field(default_factory=list)
    accepted: bool = False


@dataclass
class _Row:
    name: str
    fullname: str
    group: str | None
    param: Any
    params: dict[str, Any] | None
    extra_info: _Info
    options: dict[str, Any]
    iterations: int
    data: Annotated[list[float], Field(min_length=1)]


def _limit(text: str) -> str:
    parse_limit(text)
    return text


@dataclass
class _Config:
    compare: dict[str, Annotated[str, AfterValidator(_limit)]] = field(default_factory=dict)


@dataclass
class _Line:
    nodeid: str
    name: str
    file: str
    asked: str
    result: ExperimentResult
    rows: Annotated[list[_Row], Field(min_length=1)]
    config: _Config | None = None
    swept: dict[str, Any] = field(default_factory=dict)
    split: str | None = None


def check(line: str) -> None:
    """Compare a line with what :class:`pytest_llem.journal.Entry` writes.

    Raises:
        ValueError: it is not JSON, or a value of it is missing or of another type; the message says which.
    """
    try:
        _adapter().validate_json(line, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from None


@cache
def _adapter() -> TypeAdapter[_Line]:
    return TypeAdapter(_Line)
