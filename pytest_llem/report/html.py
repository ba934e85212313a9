"""One self-contained HTML file: no request, readable offline and without scripts for as long as there are browsers.

Its templates show what :mod:`pytest_llem.report.data` holds. Jinja2 escapes every text that they insert. The page's
policy lets one script run, by its hash, which sorts and filters a table that is whole without it.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import pytest_llem
from pytest_llem.report import across_engines, figures, footprints, phrases, tables
from pytest_llem.report.plots import SHAPES
from pytest_llem.report.quantities import number
from pytest_llem.report.verdicts import HEADINGS, verdict_cells

if TYPE_CHECKING:
    import os

    from pytest_llem.report.data import Report
    from pytest_llem.report.two_runs import TwoRuns

# Neither XML nor HTML can hold these, not even as a character reference.
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Script:
    """The one script of a page.

    Attributes:
        text: as it stands between its tags.
        source: what lets it run, and nothing else, in the ``script-src`` of the page's policy.
    """

    text: Markup
    source: str

    @classmethod
    def of(cls, name: str) -> Script:
        """A file beside the templates."""
        text = (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        return cls(Markup(text), f"'sha256-{digest}'")  # noqa: S704  (it is our own)


def write_html(report: Report, path: str | os.PathLike[str]) -> None:
    """Write the report to ``path``, making its folder."""
    write_page(render_html(report), path)


def write_page(text: str, path: str | os.PathLike[str]) -> None:
    """Write a page, making its folder."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8", newline="\n")


def render_html(report: Report) -> str:
    """The report as the text of an HTML file."""
    return render("page.html.jinja", report=report, brief=report.downsampled, script=Script.of("sorting.js"))


def render_two_runs(runs: TwoRuns) -> str:
    """Two saved runs side by side."""
    return render("two_runs.html.jinja", runs=runs, script=Script.of("sorting.js"))


def render(template: str, **values: object) -> str:
    """A page as text."""
    # Tables and plots are numbered for what refers to them.
    text = _templates().get_template(template).render(values, next_number=itertools.count(1).__next__)
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
