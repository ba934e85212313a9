"""What GitHub shows of a workflow's step: a summary, and annotations on the commit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_llem.report import footprints, phrases
from pytest_llem.report.across_engines import PER_TOKEN, across_engines
from pytest_llem.report.pairs import ENERGY, LATENCY, POWER
from pytest_llem.report.quantities import number, with_uncertainty
from pytest_llem.report.verdicts import HEADINGS, verdict_cells
from pytest_llem.verdict.decision import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_llem.report.data import Report
    from pytest_llem.verdict.judging import Judged

_DECIDED = (Status.REGRESSED, Status.IMPROVED)
_LEVELS = {Status.REGRESSED: "error", Status.INCONCLUSIVE: "warning"}

# GitHub shows ten errors and ten warnings of a step, and says nothing of the rest.
_SHOWN = 10

# GitHub drops the whole summary of a step beyond 1 MiB; a table of this many rows stays well below.
_ROWS = 1000

# Markdown reads any of these; a backslash before punctuation takes its meaning away (CommonMark 0.31, 2.4).
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#+!|~&@$:-])")


def write_step_summary(report: Report, environ: Mapping[str, str]) -> bool:
    """Append the results to the step's summary, where there is one.

    Args:
        environ: the process's environment; GitHub sets ``GITHUB_STEP_SUMMARY`` to the path of a file.

    Returns:
        Whether it was written.
    """
    path = environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return False
    with Path(path).open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(summary(report))
    return True


def summary(report: Report) -> str:
    """The session in Markdown: verdicts, worst first, what changed where pairs were decided, then results."""
    lines = ["## Energy of LLM inference", ""]
    if report.judged:
        counts = [f"{count} {status.value}" for status, count in report.counts.items() if count]
        rows = [
            (f"{phrases.SIGNS[found.verdict.status]} {found.verdict.status.value}", *verdict_cells(found))
            for found in report.judged
        ]
        lines += [", ".join(counts), "", *_table(HEADINGS, rows), ""]
    lines += _what_changed(report)
    with_host = any(page.result.energy_total_j is not None for page in report.experiments)
    results = [
        (
            page.source.name,
            phrases.estimate(page.energy, "J"),
            *([with_uncertainty(page.result.energy_total_j, page.result.energy_total_uncertainty_j, "J")] * with_host),
            number(page.result.energy_per_output_token_j, "J"),
            phrases.estimate(page.latency, "s"),
            number(page.result.output_tokens_per_s, ""),
            phrases.meter(page.result) + ("" if page.result.valid else ", INVALID"),
        )
        for page in report.experiments
    ]
    headings = (
        "experiment",
        "energy/call",
        *["with host"] * with_host,
        "energy/token",
        "latency/call",
        "tokens/s",
        "meter",
    )
    across = across_engines([page.source for page in report.experiments])
    apart = ["", f"{PER_TOKEN.capitalize()}."] if across else []
    return "\n".join([*lines, *_table(headings, results), *apart, *_footprints(report), "", ""])


def _footprints(report: Report) -> list[str]:
    """Carbon and cost, where they were asked for."""
    rows = footprints.rows([page.source for page in report.experiments])
    if not rows:
        return []
    explanation = footprints.explanation(page.result for page in report.experiments)
    told = f"{footprints.TITLE} {_markdown(explanation)}."
    return ["", f"### {footprints.TITLE}", "", *_table(footprints.HEADINGS, rows), "", told]


def _what_changed(report: Report) -> list[str]:
    """Of experiments that pairs show to be worse or better, what else moved."""
    decided = {found.candidate.nodeid for found in report.judged if found.verdict.status in _DECIDED}
    pages = [page for page in report.compared if page.source.nodeid in decided]
    lines = []
    for page in pages[:_SHOWN]:
        if (compared := page.compared) is None:
            continue
        shown = [found for found in compared.changed if found.moved or found.name in (ENERGY, LATENCY, POWER)]
        rows = [
            (
                found.name,
                phrases.amount(found.this, found.unit),
                phrases.amount(found.other, found.unit),
                phrases.changed(found),
            )
            for found in shown
        ]
        lines += [f"### What changed in {_markdown(page.source.name)}", ""]
        lines += [*_table(("quantity", "this side", compared.against, "change (95%)"), rows), ""]
    if (rest := len(pages) - _SHOWN) > 0:
        lines += [f"... and in {rest} more experiments", ""]
    return lines


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [_row(headings), _row(["---"] * len(headings), escape=False), *(_row(row) for row in rows[:_ROWS])]
    if len(rows) > _ROWS:
        lines += ["", f"... and {len(rows) - _ROWS} more"]
    return lines


def _row(cells: Iterable[str], *, escape: bool = True) -> str:
    return f"| {' | '.join(_markdown(cell) if escape else cell for cell in cells)} |"


def _markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def annotation_lines(judged: Sequence[Judged], environ: Mapping[str, str]) -> list[str]:
    """Workflow commands to print, each on a line of its own: an error for each REGRESSED, a warning for each
    INCONCLUSIVE.

    Args:
        environ: the process's environment; GitHub sets ``GITHUB_ACTIONS`` to ``true``. Elsewhere there are none.
    """
    if environ.get("GITHUB_ACTIONS") != "true":
        return []
    lines = []
    for status, level in _LEVELS.items():
        alike = [found for found in judged if found.verdict.status is status]
        shown = alike if len(alike) <= _SHOWN else alike[: _SHOWN - 1]
        lines += [_annotation(level, found) for found in shown]
        if rest := len(alike) - len(shown):
            lines.append(f"::{level} title={_property(status.value)}::{rest} more experiments")
    return lines


def _annotation(level: str, found: Judged) -> str:
    candidate, verdict = found.candidate, found.verdict
    file = candidate.nodeid.partition("::")[0]
    title = f"{verdict.status.value} {candidate.metric} of {candidate.name}"
    message = f"{phrases.change(verdict)}, limit {verdict.limit}, {phrases.runs(found)}: {found.why}"
    return f"::{level} file={_property(file)},title={_property(title)}::{_data(message)}"


def _data(text: str) -> str:
    """The message of a workflow command, escaped as GitHub's toolkit does (actions/toolkit, core/src/command.ts)."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """A property of a workflow command."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")
