"""A result in a notebook: complete, escaped, readable without seeing it; and as text."""

from __future__ import annotations

import html
import re

from pytest_llem.footprint import Footprint, with_footprint
from pytest_llem.report.display import as_html, as_text
from tests.unit.report.examples import result
from tests.unit.report.test_html import ATTACK, Page


def test_what_must_not_be_missed_stands_in_words() -> None:
    doubtful = result(valid=False, estimated=True, warnings=["the board was throttled"])
    for text in (Page(doubtful._repr_html_()).text, as_text(doubtful)):
        for part in ("Result, intervals of 95%, invalid, estimated joules, 1 warning", "the board was throttled"):
            assert part in text
    assert "invalid" not in as_html(result()) + as_text(result())


def test_quantities_have_their_uncertainty_and_unknown_ones_are_a_dash() -> None:
    for text in (Page(as_html(result(), "llama")).text, as_text(result(), "llama")):
        assert "llama, intervals of 95%" in text
        assert "100.0 \N{PLUS-MINUS SIGN} 2.0 J" in text
    unknown = as_text(result(energy_j=None)).splitlines()
    assert [line.split()[-1] for line in unknown if line.startswith("energy of a call")] == ["-"]


def test_carbon_and_cost_are_told_where_they_were_asked_for() -> None:
    footprint = Footprint(intensity_g_per_kwh=360.0, price_per_kwh=0.5, currency="EUR", source="given")
    text = as_text(with_footprint(result(), footprint))
    assert re.search("^CO2e per call +10.00 \N{PLUS-MINUS SIGN} 0.20 mg$", text, re.MULTILINE)
    assert "360 g CO2e a kWh (given), 0.5 EUR a kWh, PUE 1" in text
    assert "CO2e" not in as_text(result())


def test_carbon_and_cost_say_which_joules_they_are_of() -> None:
    footprint = Footprint(intensity_g_per_kwh=360.0)
    total = result(energy_host_j=20.0, energy_total_j=120.0, host_sensor="rapl")
    for measured, joules in ((result(), "energy_j"), (total, "energy_total_j")):
        text = as_text(with_footprint(measured, footprint))
        assert re.search(f"^carbon and cost from +{joules}, nvml", text, re.MULTILINE)


def test_texts_are_escaped_and_no_mathematics() -> None:
    page = Page(as_html(result(warnings=[ATTACK]), ATTACK))
    assert {tag for tag, _ in page.tags} == {
        *("div", "table", "caption", "strong", "thead", "tbody", "tr", "th", "td", "p", "ul", "li")
    }
    assert page.text.count("<script>alert(1)</script>") == 2
    assert page.tags[0] == ("div", {"class": "mathjax_ignore tex2jax_ignore"})
    assert html.escape(ATTACK[:8]) in as_html(result(warnings=[ATTACK]))
    # Nor does it drive a terminal.
    assert "\\x1b[2J" in as_text(result(warnings=["\x1b[2J"]))


def test_a_screen_reader_is_told_what_each_number_is() -> None:
    tags = Page(as_html(result())).tags
    rows = [attributes["scope"] for tag, attributes in tags if tag == "th"]
    assert rows[:2] == ["col", "col"]
    assert set(rows[2:]) == {"row"}
    assert len(rows) - 2 == sum(tag == "td" for tag, _ in tags) > 5
