"""One self-contained HTML file: no script, no request, readable offline for as long as there are browsers."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import pytest_llem
from pytest_llem.report.experiment_section import experiment_section
from pytest_llem.report.markup import Html, element, join
from pytest_llem.report.overview import results_section, sweeps_section, verdicts_section
from pytest_llem.report.plots import MissingExtraError, Plots, require_pygal
from pytest_llem.report.tables import Tables

if TYPE_CHECKING:
    import os

    from pytest_llem.report.data import Report

__all__ = ["MissingExtraError", "render_html", "require_pygal", "write_html"]

# Whatever a name or a warning might smuggle in, the browser runs no script and asks nobody for anything.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_METHOD = (
    "Intervals are of 95%. ± is the half-width of one; a question mark stands for an uncertainty that nobody stated, a "
    "dash for a quantity that was not measured.",
    "Energy of a call: the mean of the windows; the half-width holds the scatter between windows and what the meter "
    "states for each. Latency of a call: the mean of the windows, half-width t(0.975, B - 1) s / √B.",
    "A ratio a / b has the interval ratio · exp(± t u) with u² = (u_a / a)² + (u_b / b)² (JCGM 100:2008, 5.1.6) and "
    "the effective degrees of freedom of G.4.1. It covers what the windows of one process show, not what another "
    "process would change; what changes between commits is judged by the verdicts, from saved processes.",
    "Change points: segmentation of the run means' logarithms by Student's t with Bonferroni's correction; in a "
    "history of independent runs without a change there is one with a probability of 1% at most.",
)


def write_html(report: Report, path: str | os.PathLike[str]) -> None:
    """Write the report to ``path``, making its folder.

    Raises:
        MissingExtraError: the extra ``report`` is not installed.
    """
    text = render_html(report)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8", newline="\n")


def render_html(report: Report) -> str:
    """The report as the text of an HTML file.

    Raises:
        MissingExtraError: the extra ``report`` is not installed.
    """
    plots, tables = Plots(tooltips=not report.downsampled), Tables()
    sections = [
        (title, key, body)
        for title, key, body in (
            ("Verdicts", "verdicts", verdicts_section(report, tables)),
            ("Results", "results", results_section(report, plots, tables)),
            ("Sweeps", "sweeps", sweeps_section(report, plots, tables)),
            ("Experiments", "experiments", _experiments(report, plots, tables)),
            ("Machine", "machine", _machine(report, tables)),
            ("Method", "method", join(*(element("p", text) for text in _METHOD))),
        )
        if body
    ]
    title = "Energy of LLM inference"
    style = resources.files("pytest_llem.report").joinpath("style.css").read_text(encoding="utf-8")
    page = element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="color-scheme", content="light dark"),
            element("meta", name="generator", content=f"pytest-llem {pytest_llem.__version__}"),
            element("title", f"{title}, {report.created}"),
            element("style", Html(style)),
        ),
        element(
            "body",
            element("a", "Skip to the content", href="#content", class_="skip"),
            plots.shapes(),
            element("header", element("h1", title), _origin(report)),
            element(
                "nav",
                element("ul", *(element("li", element("a", name, href=f"#{key}")) for name, key, _ in sections)),
                aria_label="Sections",
            ),
            element(
                "main",
                *(
                    element(
                        "section",
                        element("h2", name, id=f"{key}-heading"),
                        body,
                        id=key,
                        aria_labelledby=f"{key}-heading",
                    )
                    for name, key, body in sections
                ),
                id="content",
                tabindex=-1,
            ),
            element("footer", element("p", f"Written by pytest-llem {pytest_llem.__version__}.")),
        ),
        lang="en",
    )
    return f"<!doctype html>\n{page}\n"


def _origin(report: Report) -> Html:
    commit = dict(report.commit)
    parts = [element("time", report.created)]
    if commit.get("id") == "unversioned":  # pytest-benchmark's word
        parts.append(join("not under version control"))
    elif "id" in commit:
        dirty = " with uncommitted changes" if commit.get("dirty") == "true" else ""
        branch = f" on {commit['branch']}" if "branch" in commit else ""
        parts.append(join("commit ", element("code", commit["id"][:12]), branch, dirty))
    count = len(report.experiments)
    parts.append(join(f"{count} experiment{'' if count == 1 else 's'}"))
    return element("p", join(*parts, separator=" · "), class_="origin")


def _experiments(report: Report, plots: Plots, tables: Tables) -> Html:
    if not report.experiments:
        return element("p", "No experiment left a result.")
    return join(
        *(experiment_section(page, plots, tables, opened=len(report.experiments) <= 3) for page in report.experiments)
    )


def _machine(report: Report, tables: Tables) -> Html:
    return join(
        tables.pairs("Commit", report.commit) if report.commit else None,
        tables.pairs("Machine", report.machine) if report.machine else None,
    )
