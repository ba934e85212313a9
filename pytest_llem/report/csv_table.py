"""All results as one flat table of comma-separated values."""

from __future__ import annotations

import csv
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_llem.footprint import Footprint, calls_per_unit, counted_energy
from pytest_llem.measurement.account import ENTRIES
from pytest_llem.measurement.result import ExperimentResult

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from pytest_llem.records.record import Record
    from pytest_llem.verdict.judging import Judged

# What is no single value.
_NESTED = {
    "footprint",
    "warnings",
    "missing",
    "per_round",
    "prefill_rounds",
    "labels",
    "boards",
    "spent_s",
    "generated",
    "ranks",
}
_COLUMNS = [field.name for field in fields(ExperimentResult) if field.name not in _NESTED]

# A spreadsheet takes a cell that begins so for a formula (OWASP, CSV Injection), whether it is quoted or not.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def write_csv(records: Sequence[Record], path: str | os.PathLike[str], judged: Sequence[Judged] = ()) -> None:
    """Write one line an experiment, with a heading; what was not measured is an empty cell.

    Columns are the item, the result's own fields, its seconds by what they were spent on, its labels and warnings, and
    for each metric that was judged the verdict, and the change with its interval as fractions; in a comparison with
    another state of the code its name and the number of pairs; where carbon or cost was asked for, what they were
    reckoned with, and both by functional unit. Text that a spreadsheet would run as a formula gets an apostrophe in
    front.
    """
    verdicts = {(found.candidate.nodeid, found.candidate.metric): found.verdict for found in judged}
    metrics = sorted({metric for _, metric in verdicts})
    compared = any(record.against for record in records)
    reckoned = any(record.result.footprint is not None for record in records)
    rows = []
    for record in records:
        row: dict[str, Any] = {"nodeid": record.nodeid, "name": record.name, "file": record.file}
        row |= {"workload_hash": record.workload_hash}
        row |= {name: getattr(record.result, name) for name in _COLUMNS}
        row |= {f"spent_{entry.replace('-', '_')}_s": record.result.spent_s.get(entry) for entry in ENTRIES}
        row |= {"labels": "; ".join(record.result.labels), "warnings": "; ".join(record.result.warnings)}
        if reckoned:
            row |= _footprint(record.result)
        if compared:
            row |= {"against": record.against, "pairs": len(record.other_runs)}
        for metric in metrics:
            verdict = verdicts.get((record.nodeid, metric))
            row[f"{metric}_verdict"] = verdict and verdict.status.value
            row[f"{metric}_change"] = verdict and verdict.change
            low, high = (verdict and verdict.interval) or (None, None)
            row |= {f"{metric}_change_low": low, f"{metric}_change_high": high}
        rows.append(row)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # The line ends are those of RFC 4180, which the csv module writes itself. Node ids may hold bytes of file names
    # that are no text.
    with target.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else ["nodeid", "name", "file"])
        writer.writeheader()
        writer.writerows(_safe(row) for row in rows)


def _footprint(result: ExperimentResult) -> dict[str, Any]:
    footprint = Footprint() if result.footprint is None else result.footprint
    row: dict[str, Any] = {f"footprint_{name}": value for name, value in asdict(footprint).items()}
    row |= {"footprint_energy": counted_energy(result).field}
    for unit, calls in calls_per_unit(result).items():
        if unit == "call":
            continue  # a field of the result
        for name, value, suffix in (("carbon", result.carbon_g, "_g"), ("cost", result.cost, "")):
            column = f"{name}_per_{unit.replace(' ', '_')}{suffix}"
            row[column] = None if value is None or calls is None else value * calls
    return row


def _safe(row: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers as they are; text that looks like a formula as text."""
    return {
        key: f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value
        for key, value in row.items()
    }
