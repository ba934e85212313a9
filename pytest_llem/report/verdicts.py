"""Verdicts as lines: the first word is the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llem.report import words
from pytest_llem.verdict.decision import Status
from pytest_llem.verdict.judging import OTHER_TOKENS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.verdict.judging import Judged

_EXPLAINED = (Status.INCONCLUSIVE, Status.NO_BASELINE)

HEADINGS = ("verdict", "experiment", "metric", "change", "limit", "runs", "why")


def verdict_cells(one: Judged) -> tuple[str, ...]:
    """What goes below :data:`HEADINGS` after the verdict itself."""
    verdict = one.verdict
    change, runs = words.change(verdict), words.runs(verdict)
    return one.candidate.name, one.candidate.metric, change, str(verdict.limit), runs, verdict.reason


def verdict_lines(judged: Sequence[Judged]) -> list[str]:
    """One aligned line a verdict, such as
    ``REGRESSED  llama-1b[bs:4]  energy  +6.1% [+4.2%, +8.0%]  limit 2.5%..5%  1 run vs 10 saved``."""
    rows = []
    for one in judged:
        name, metric, change, limit, runs, _ = verdict_cells(one)
        rows.append((one.verdict.status.value, name, metric, change, f"limit {limit}", runs))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for one, row in zip(judged, rows, strict=True):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        reason = one.verdict.reason
        explain = one.verdict.status in _EXPLAINED or reason.startswith("accepted") or OTHER_TOKENS in reason
        lines.append(f"{line}  ({reason})" if explain else line)
    return lines
