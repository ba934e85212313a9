"""Carbon and cost of joules."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pytest_llem.footprint import Footprint, calls_per_unit, counted_energy, with_footprint, without_footprint
from pytest_llem.measurement.result import ExperimentResult
from tests.unit.report.examples import result

GERMANY = Footprint(
    region="DEU", intensity_g_per_kwh=400.0, source="a table", pue=1.5, price_per_kwh=0.3, currency="EUR"
)


def test_joules_weigh_and_cost_what_a_kilowatt_hour_does() -> None:
    found = with_footprint(result(3.6e6, energy_uncertainty_j=3.6e4), GERMANY)
    assert (found.carbon_g, found.carbon_uncertainty_g) == pytest.approx((600.0, 6.0))
    assert (found.cost, found.cost_uncertainty) == pytest.approx((0.45, 0.0045))
    assert found.footprint == GERMANY


def test_the_host_counts_where_it_was_read() -> None:
    measured = result(3.6e6, energy_total_j=7.2e6, energy_total_uncertainty_j=7.2e4)
    assert counted_energy(measured).field == "energy_total_j"
    assert counted_energy(result()).field == "energy_j"
    found = with_footprint(measured, GERMANY)
    assert (found.carbon_g, found.carbon_uncertainty_g) == pytest.approx((1200.0, 12.0))


def test_what_was_not_asked_for_is_not_reckoned() -> None:
    found = with_footprint(result(), replace(GERMANY, intensity_g_per_kwh=None))
    assert (found.carbon_g, found.carbon_uncertainty_g) == (None, None)
    assert found.cost is not None
    assert found.missing == {}


def test_joules_that_are_not_known_weigh_nothing_known() -> None:
    measured = result(None).lacking(energy_j="the counter went backwards")
    found = with_footprint(measured, GERMANY)
    assert (found.carbon_g, found.cost, found.cost_uncertainty) == (None, None, None)
    assert {found.missing[name] for name in ("carbon_g", "cost")} == {"the counter went backwards"}
    # The reason is among the warnings already.
    assert found.warnings == measured.warnings


def test_joules_without_an_uncertainty_have_carbon_without_one() -> None:
    found = with_footprint(result(energy_uncertainty_j=None), GERMANY)
    assert found.carbon_g is not None
    assert found.carbon_uncertainty_g is None


@pytest.mark.parametrize("measured", [result(), result(None).lacking(energy_j="no")], ids=["measured", "not"])
def test_another_footprint_takes_the_place_of_the_first(measured: ExperimentResult) -> None:
    free = Footprint(intensity_g_per_kwh=0.0)
    once = with_footprint(measured, free)
    assert with_footprint(with_footprint(measured, GERMANY), free) == once
    assert without_footprint(once) == measured


def test_marks_of_the_joules_stay() -> None:
    found = with_footprint(result(estimated=True, valid=False), GERMANY)
    assert (found.estimated, found.valid) == (True, False)


def test_units_are_made_of_calls() -> None:
    assert calls_per_unit(result(output_tokens=40.0, prompts=4.0)) == {
        "call": 1.0,
        "million output tokens": 25_000.0,
        "thousand requests": 250.0,
    }
    # A callable has neither, and a model may have ended every sequence at once.
    assert [*calls_per_unit(result(output_tokens=0.0)).values()] == [1.0, None, None]


def test_it_survives_json() -> None:
    found = with_footprint(result(), GERMANY)
    assert ExperimentResult.from_dict(json.loads(json.dumps(found.as_dict()))) == found
