"""A line of the journal: a record as JSON, and what a line must hold to be reported again.

A file may have been damaged, or written by somebody else. What the user said of an item (its labels) may be anything.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace

from pydantic import TypeAdapter, ValidationError

from pytest_llem import __version__
from pytest_llem.records.record import BenchmarkLabels, Record
from pytest_llem.records.rows import dumps
from pytest_llem.verdict.gates import resolve

VERSION = 2
"""Of the journal: what another one wrote is not read."""

_RECORD = TypeAdapter(Record)
_KEPT = [field.name for field in fields(Record) if field.compare]


class OtherVersionError(ValueError):
    """The line is of another version of the journal."""


def as_line(record: Record) -> str:
    """The inverse of :func:`from_line`, with the end of the line."""
    kept = {name: getattr(record, name) for name in _KEPT}
    kept["result"] = record.result.as_dict()
    kept["more_runs"] = [run.as_dict() for run in record.more_runs]
    kept["other_runs"] = [asdict(run) for run in record.other_runs]
    # Not copied: what a user adds may be anything.
    kept["labels"] = vars(record.labels)
    return dumps({"journal": VERSION, "version": __version__, **kept}) + "\n"


def from_line(line: str) -> Record:
    """Read a line.

    Raises:
        OtherVersionError: another version of the journal wrote it.
        ValueError: it is torn, no line of a journal, or one of its values is missing, of another type or no number;
            the message says which.
    """
    try:
        values = json.loads(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(values, dict) or "journal" not in values:
        raise ValueError("no line of a journal")
    version, by = values.pop("journal"), values.pop("version", "unknown")
    if version != VERSION:
        raise OtherVersionError(
            f"pytest-llem {by} wrote it as version {version} of the journal, and {__version__} reads version {VERSION}"
        )
    labels = values.pop("labels", None)
    try:
        # As JSON, where a list may stand for a tuple and a string for nothing else.
        record = _RECORD.validate_json(json.dumps(values, allow_nan=False), strict=True)
        known = BenchmarkLabels(**labels)
        resolve({}, (record.config or {}).get("compare") or {})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from None
    except (TypeError, AttributeError) as error:
        raise ValueError(f"not complete: {error}") from None
    return replace(record, labels=known)
