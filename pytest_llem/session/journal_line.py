"""What a line of the journal must hold to be reported: a file may have been damaged, or written by somebody else.

Only what this package writes of its own is looked at. A user's parameters, group and further information are any.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from pytest_llem.measurement.result import ExperimentResult  # noqa: TC001  (read at run time)
from pytest_llem.verdict.limits import parse_limit

if TYPE_CHECKING:
    from collections.abc import Mapping


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


_LINE = TypeAdapter(_Line)


def check(values: Mapping[str, Any]) -> None:
    """Compare a line's values with what :class:`pytest_llem.session.journal.Entry` writes.

    Raises:
        ValueError: one of them is missing, of another type or no number; the message says which.
    """
    rows = values.get("rows")
    if isinstance(rows, list):
        values = {**values, "rows": [_ours(row) for row in rows]}
    try:
        # As JSON, where a list may stand for a tuple and a string for nothing else.
        _LINE.validate_json(json.dumps(values, allow_nan=False), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from None


def _ours(row: Any) -> Any:
    if not isinstance(row, dict) or not isinstance(row.get("extra_info"), dict):
        return row
    info = _only(row["extra_info"], _Info)
    return {**_only(row, _Row), "extra_info": info}


def _only(values: Mapping[str, Any], of: type) -> dict[str, Any]:
    return {one.name: values[one.name] for one in fields(of) if one.name in values}
