"""Verdicts as lines: the first word is the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llem.report import phrases
from pytest_llem.verdict.decision import Status
from pytest_llem.verdict.limits import SAME

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.verdict.judging import Judged

_EXPLAINED = (Status.INCONCLUSIVE, Status.NO_BASELINE)

HEADINGS = ("verdict", "experiment", "metric", "change", "limit", "runs", "why")


def verdict_cells(judged: Judged) -> tuple[str, ...]:
    """What goes below :data:`HEADINGS` after the verdict itself."""
    verdict = judged.verdict
    change, runs = phrases.change(verdict), phrases.runs(judged)
    return judged.candidate.name, judged.candidate.metric, change, str(verdict.limit), runs, judged.why


def verdict_lines(judged: Sequence[Judged]) -> list[str]:
    """One aligned line a verdict, such as
    ``REGRESSED  llama-1b[bs:4]  energy  +6.1% [+4.2%, +8.0%]  limit 2.5%..5%  1 run vs 10 saved``."""
    rows = []
    for found in judged:
        name, metric, change, limit, runs, _ = verdict_cells(found)
        rows.append((found.verdict.status.value, name, metric, change, f"limit {limit}", runs))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for found, row in zip(judged, rows, strict=True):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        # Of a percentage the line says all; of what was generated nothing yet.
        differs = found.verdict.limit == SAME and found.verdict.status is Status.REGRESSED
        explain = found.verdict.status in _EXPLAINED or found.remarks or differs
        lines.append(f"{line}  ({found.why})" if explain else line)
    return lines
