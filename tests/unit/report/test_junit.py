"""Properties of a test case."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree

from pytest_llem.report.junit import pair_properties, properties
from tests.unit.report.examples import in_pairs, judged_pairs, result

if TYPE_CHECKING:
    import pytest


def test_numbers_are_exact_and_unknown_ones_are_left_out() -> None:
    found = dict(properties(result(1 / 3, energy_uncertainty_j=None, estimated=True)))
    assert float(found["llem.energy_j"]) == 1 / 3
    assert "llem.energy_uncertainty_j" not in found
    assert "llem.time_to_first_token_s" not in found
    assert found["llem.boundaries"] == "settled"
    assert (found["llem.estimated"], found["llem.valid"], found["llem.meter"]) == ("true", "true", "nvml")


def test_pytest_writes_them(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from pytest_llem.report.junit import properties
        from pytest_llem.measurement.result import ExperimentResult

        def test_it(request):
            result = ExperimentResult(latency_s=0.5, meter="none", estimated=False, rounds=1, calls_per_round=1)
            request.node.user_properties += properties(result)
        """
    )
    assert pytester.runpytest("--junitxml=junit.xml").ret == 0
    tree = ElementTree.parse(pytester.path / "junit.xml")  # noqa: S314  (written by pytest)
    found = {one.get("name"): one.get("value") for one in tree.iter("property")}
    assert found["llem.latency_s"] == "0.5"


def test_pairs_have_a_verdict_and_an_interval_by_metric() -> None:
    record = in_pairs(change=0.1)
    found = dict(pair_properties(record, judged_pairs(in_pairs("another")) + judged_pairs(record, "energy")))
    low, high = float(found.pop("llem.energy.low")), float(found.pop("llem.energy.high"))
    assert low < float(found.pop("llem.energy.change")) < high
    assert found == {"llem.against": "main", "llem.pairs": "4", "llem.energy.verdict": "REGRESSED"}


def test_one_pair_has_no_interval() -> None:
    record = in_pairs(pairs=1)
    assert dict(pair_properties(record, judged_pairs(record, "energy"))) == {
        "llem.against": "main",
        "llem.pairs": "1",
        "llem.energy.verdict": "INCONCLUSIVE",
        "llem.energy.change": "0.0",
    }
