"""Carbon and cost in the reports."""

from __future__ import annotations

import csv
import html
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.footprint import Footprint, with_footprint
from pytest_llem.report import footprints
from pytest_llem.report.csv_table import write_csv
from pytest_llem.report.github import summary as github_summary
from pytest_llem.report.html import render_html
from tests.unit.report.examples import experiment, report, result
from tests.unit.report.test_terminal import summary  # noqa: F401

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_llem.records.record import Record

GERMANY = Footprint(
    region="DEU", intensity_g_per_kwh=400.0, source="a table", pue=1.5, price_per_kwh=0.3, currency="EUR"
)
# 100 Wh of a call with a half-width of 1 Wh, 150 Wh at the data centre's meter.
MEASURED = result(3.6e5, energy_uncertainty_j=3.6e3, output_tokens=1000.0, prompts=5.0)


def weighed(name: str = "llama", footprint: Footprint = GERMANY, **changes: Any) -> Record:
    return experiment(name, result=with_footprint(replace(MEASURED, **changes), footprint))


def text_of(page: str) -> str:
    return " ".join(html.unescape(re.sub("<[^>]+>", " ", page)).split())


def test_a_result_has_a_line_for_its_carbon_and_one_for_its_cost() -> None:
    assert footprints.rows([weighed(), experiment("unasked")]) == [
        ("llama", "CO2e", "60.00 ± 0.60 g", "60.00 ± 0.60 kg", "12.00 ± 0.12 kg", "energy_j, nvml"),
        ("llama", "cost", "0.04500 ± 0.00045 EUR", "45.00 ± 0.45 EUR", "9.000 ± 0.090 EUR", "energy_j, nvml"),
    ]


@pytest.mark.parametrize("only", ["CO2e", "cost"])
def test_what_was_not_asked_for_has_no_line(only: str) -> None:
    kept = {"CO2e": replace(GERMANY, price_per_kwh=None), "cost": replace(GERMANY, intensity_g_per_kwh=None)}[only]
    assert [row[1] for row in footprints.rows([weighed(footprint=kept)])] == [only]


def test_marks_of_the_joules_are_those_of_carbon() -> None:
    (row, _) = footprints.rows([weighed(estimated=True, valid=False, energy_total_j=7.2e5)])
    assert row[-1] == "energy_total_j, nvml (estimated), INVALID"
    # The total has no uncertainty of its own here.
    assert row[2] == "120.0 ± ? g"


def test_unknown_quantities_are_dashes() -> None:
    rows = footprints.rows([weighed(energy_j=None, energy_uncertainty_j=None), weighed(output_tokens=None)])
    assert [row[2:5] for row in rows[:2]] == [("-", "-", "-")] * 2
    assert [row[3] for row in rows[2:]] == ["-", "-"]


@pytest.mark.parametrize(
    ("value", "half_width", "text"),
    [
        (1.0659e-9, 2.3e-11, "1.066e-09 ± 2.3e-11 EUR"),
        (0.25, None, "0.2500 ± ? EUR"),
        (0.25, 0.5, "0.25 ± 0.50 EUR"),
        (12.3456, 0.01, "12.346 ± 0.010 EUR"),
        (0.0, 0.0, "0.000 ± 0.0 EUR"),
        (130.4, 12.0, "130 ± 12 EUR"),
    ],
)
def test_money_has_no_prefixes(value: float, half_width: float | None, text: str) -> None:
    found = experiment(result=replace(MEASURED, cost=value, cost_uncertainty=half_width, footprint=GERMANY)).result
    assert footprints.cost(found, "call") == text


def test_terms_say_where_the_numbers_come_from() -> None:
    assert footprints.terms(GERMANY) == "400 g CO2e a kWh (DEU, a table), 0.3 EUR a kWh, PUE 1.5"
    assert footprints.terms(Footprint(price_per_kwh=0.25)) == "0.25 a kWh, PUE 1"


def test_the_terminal_has_a_table_where_it_was_asked_for(summary: Any) -> None:  # noqa: F811
    lines = summary([weighed()])
    at = next(number for number, line in enumerate(lines) if "carbon and cost (intervals" in line)
    cells = "llama CO2e 60.00 ± 0.60 g 60.00 ± 0.60 kg 12.00 ± 0.12 kg energy_j, nvml"
    assert " ".join(lines[at + 2].split()) == cells
    assert lines[at + 4].startswith(
        "llem: carbon and cost by 400 g CO2e a kWh (DEU, a table), 0.3 EUR a kWh, PUE 1.5: "
    )
    assert not any("carbon" in line for line in summary([experiment()]) + summary([weighed()], "-q"))


def test_the_page_has_a_table_of_the_standard_for_each_unit() -> None:
    page = render_html(report([weighed(estimated=True), experiment("unasked")]))
    section = page[page.index('<section id="footprint"') : page.index('<section id="experiments"')]
    for text in (
        "Per call no. experiment E I O = E \N{MULTIPLICATION SIGN} I M cost from notes",
        "llama 150.0 ± 1.5 Wh 400 g/kWh 60.00 ± 0.60 g not counted 0.04500 ± 0.00045 EUR energy_j estimated joules",
        "150.0 ± 1.5 kWh 400 g/kWh 60.00 ± 0.60 kg not counted 45.00 ± 0.45 EUR",
        "30.00 ± 0.30 kWh 400 g/kWh 12.00 ± 0.12 kg not counted 9.000 ± 0.090 EUR",
    ):
        assert text in text_of(section)
    assert "unasked" not in section
    assert '<a href="#footprint">Carbon and cost</a>' in page
    assert "Carbon and cost" not in render_html(report([experiment()]))


def test_the_page_and_the_summary_escape_labels() -> None:
    hostile = replace(GERMANY, region="<b>|", source="<i>", currency="<u>|")
    assert "<b>" not in (page := render_html(report([weighed(footprint=hostile)])))
    assert "<u>" not in page
    assert "<u>" not in github_summary(report([weighed(footprint=hostile)])).replace(r"\<u\>", "")


def test_githubs_summary_has_the_table() -> None:
    text = github_summary(report([weighed()])).replace("\\", "")
    assert "### Carbon and cost\n" in text
    assert "| llama | CO2e | 60.00 ± 0.60 g | 60.00 ± 0.60 kg | 12.00 ± 0.12 kg | energy_j, nvml |" in text
    assert "Carbon and cost by 400 g CO2e a kWh (DEU, a table)" in text
    assert "Carbon" not in github_summary(report([experiment()]))


def test_the_table_has_columns_where_it_was_asked_for(tmp_path: Path) -> None:
    def read(*records: Record) -> list[dict[str, str]]:
        write_csv(records, tmp_path / "out.csv")
        with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    line, unasked = read(weighed(), experiment("unasked"))
    assert (line["footprint_region"], line["footprint_pue"], line["footprint_energy"]) == ("DEU", "1.5", "energy_j")
    numbers = ("carbon_g", "carbon_per_million_output_tokens_g", "cost_per_thousand_requests", "carbon_uncertainty_g")
    assert [float(line[name]) for name in numbers] == pytest.approx([60.0, 6e4, 9.0, 0.6])
    assert (unasked["footprint_region"], unasked["carbon_per_million_output_tokens_g"]) == ("", "")
    (plain,) = read(experiment())
    assert not any(name.startswith("footprint") for name in plain)
