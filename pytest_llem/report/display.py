"""How a result shows itself in a notebook and in IPython."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llem.errors import printable
from pytest_llem.records.record import Record
from pytest_llem.report import footprints, phrases, tables
from pytest_llem.report.data import ExperimentPage, build_report
from pytest_llem.report.html import render

if TYPE_CHECKING:
    from pytest_llem.measurement.result import ExperimentResult


def as_html(result: ExperimentResult, name: str = "") -> str:
    """A fragment of HTML: a table of the quantities, and the warnings; ``name`` is the experiment's."""
    page = _page(result, name)
    return render("result.html.jinja", page=page, rows=_rows(page))


def as_text(result: ExperimentResult, name: str = "") -> str:
    """The same as lines of text."""
    page = _page(result, name)
    rows = _rows(page)
    width = max(len(quantity) for quantity, _ in rows)
    title = ", ".join((name or "Result", "intervals of 95%", *(text for _, text in phrases.marks(page))))
    lines = [title, *(f"{quantity.ljust(width)}  {value}" for quantity, value in rows)]
    return "\n".join(map(printable, (*lines, *(f"warning: {text}" for text in result.warnings))))


def _rows(page: ExperimentPage) -> list[tuple[str, str]]:
    """All numbers of a result, with carbon and cost where they were asked for."""
    rows = tables.quantities(page)
    for _, what, *values, _ in footprints.rows([page.source]):
        rows += [(f"{what} per {unit}", value) for unit, value in zip(footprints.UNITS, values, strict=True)]
    if page.result.footprint is not None:
        title = footprints.TITLE.lower()
        rows += [
            (f"{title} from", footprints.source(page.result)),
            (f"{title} by", footprints.terms(page.result.footprint)),
        ]
    return rows


def _page(result: ExperimentResult, name: str) -> ExperimentPage:
    record = Record(nodeid=name, name=name, file="", result=result, workload_hash="", environment={})
    return build_report([record], [], {}, {}, {}, "").experiments[0]
