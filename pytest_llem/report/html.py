"""One self-contained HTML file: no script, no request, readable offline for as long as there are browsers.

Its templates show what :mod:`pytest_llem.report.data` holds. Jinja2 escapes every text that they insert.
"""

from __future__ import annotations

import itertools
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

import pytest_llem
from pytest_llem.report import across_engines, figures, footprints, phrases, tables
from pytest_llem.report.plots import SHAPES
from pytest_llem.report.quantities import number
from pytest_llem.report.verdicts import HEADINGS, verdict_cells

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from pytest_llem.report.data import ExperimentPage, Report

# Neither XML nor HTML can hold these, not even as a character reference.
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def write_html(report: Report, path: str | os.PathLike[str]) -> None:
    """Write the report to ``path``, making its folder."""
    text = render_html(report)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8", newline="\n")


def render_html(report: Report) -> str:
    """The report as the text of an HTML file."""
    # Tables and plots are numbered for what refers to them.
    return _rendered("page", report=report, next_number=itertools.count(1).__next__)


def render_result(page: ExperimentPage, rows: Sequence[tuple[str, str]]) -> str:
    """One result as a fragment of HTML: a table of ``rows``, and its warnings."""
    return _rendered("result", page=page, rows=rows)


def _rendered(template: str, **values: object) -> str:
    text = _templates().get_template(f"{template}.html.jinja").render(values)
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("pytest_llem.report"),
        autoescape=True,
        extensions=["jinja2.ext.do"],
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.globals |= {
        "figures": figures,
        "footprints": footprints,
        "number": number,
        "shapes": SHAPES,
        "tables": tables,
        "verdict_cells": verdict_cells,
        "verdict_headings": HEADINGS,
        "version": pytest_llem.__version__,
        "across_engines": across_engines,
        "phrases": phrases,
    }
    return templates
