"""What exporters get: the same identity for the same measurement, units in names, nothing where nothing is known."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.exporters.results import LABELS, SOURCE, exported, quantity_names, unit_of
from pytest_llem.footprint import Footprint
from pytest_llem.session.journal_line import as_line, from_line
from pytest_llem.verdict.history import METRICS
from pytest_llem.verdict.outputs import GeneratedSequence
from tests.unit.report.examples import experiment, result

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_llem.exporters.results import Exported

    Made = Callable[..., Exported]


def test_a_result_has_one_identity_in_each_session_that_reports_it() -> None:
    record = experiment(result=result(timestamp_s=1.5), fingerprint="work-files")
    later = replace(from_line(as_line(record)), from_journal=True, accepted=True, verdicts={"energy": "OK"})
    later = replace(later, result=replace(later.result, warnings=["other tokens"], carbon_g=1.0))
    assert exported(later).identity == exported(record).identity


@pytest.mark.parametrize("changes", [{"timestamp_s": 2.5}, {"energy_j": 101.0}, {"latency_s": 2.5}])
def test_another_measurement_has_another(made: Made, changes: dict[str, Any]) -> None:
    assert made(**changes).identity != made().identity


def test_other_work_has_another(made: Made) -> None:
    identities = {made().identity, made("other").identity, made(record={"nodeid": "elsewhere::llama"}).identity}
    assert len(identities) == 3


def test_what_is_not_known_is_absent(made: Made) -> None:
    unknown = made(energy_j=None, input_tokens=None, record={"config": None, "commit": {}})
    assert not {"energy_j", "energy_uncertainty_j", "carbon_g", "input_tokens"} & unknown.quantities.keys()
    assert unknown.quantities["latency_s"] == 2.0
    assert not {"model", "backend", "precision"} & unknown.labels.keys()
    assert (unknown.source, unknown.config) == ({}, {})


def test_what_comes_with_time_goes_along(made: Made) -> None:
    """The fields that only some sessions fill need no line in any exporter."""
    found = made(energy_total_j=3.0, carbon_g=0.5, cost=1e-6, cost_uncertainty=1e-7)
    assert {"energy_total_j": 3.0, "carbon_g": 0.5, "cost": 1e-6, "cost_uncertainty": 1e-7}.items() <= (
        found.quantities.items()
    )


def test_only_quantities_are_quantities(made: Made) -> None:
    quantities = made().quantities
    assert not {"timestamp_s", "schema_version", "valid", "estimated", "samples"} & quantities.keys()
    assert all(type(value) is float for value in quantities.values())
    assert quantities.keys() <= set(quantity_names())


def test_an_invalid_result_goes_out_as_such(made: Made) -> None:
    assert made().numbers["valid"] == 1.0
    assert made(valid=False).numbers["valid"] == 0.0


def test_labels(made: Made) -> None:
    board = {"uuid": "GPU-1", "name": "NVIDIA H200"}
    environment = {"device": "cuda", "boards": [board, {**board, "uuid": "GPU-2"}], "cpu": "EPYC"}
    labels = made(record={"environment": environment}).labels
    assert labels["board"] == "2 x NVIDIA H200"
    assert (labels["experiment"], labels["file"]) == ("llama", "bench/llama.llem.yaml")
    assert labels.keys() <= set(LABELS)
    assert made(record={"environment": {"boards": [], "cpu": "EPYC"}}).labels["board"] == "EPYC"


def test_tests_of_one_name_in_two_classes_stay_two(made: Made) -> None:
    record = {"file": "test_a.py", "name": "test_b", "nodeid": "test_a.py::TestA::test_b"}
    assert made(record=record).labels["experiment"] == "TestA::test_b"


@pytest.mark.parametrize(
    ("commit", "source"),
    [
        (
            {"id": "ab", "branch": "main", "dirty": True, "project": "p"},
            {"commit": "ab", "branch": "main", "dirty": "true", "project": "p"},
        ),
        ({"id": "ab", "branch": "(detached head)", "dirty": False}, {"commit": "ab", "dirty": "false"}),
        ({"id": "unversioned", "branch": "(unknown)", "dirty": False, "project": "p"}, {"project": "p"}),
        ({"id": "unknown", "branch": "(unknown)", "dirty": False, "error": "git"}, {}),
    ],
    ids=["repository", "detached", "none", "broken"],
)
def test_source(made: Made, commit: dict[str, Any], source: dict[str, str]) -> None:
    found = made(record={"commit": commit}).source
    assert found == source
    assert found.keys() <= set(SOURCE)


def test_a_comparison_says_with_what(made: Made) -> None:
    assert made(record={"against": "main"}).source["against"] == "main"
    assert "against" not in made().source


def test_a_cost_has_its_currency(made: Made) -> None:
    source = made(cost=1e-6, footprint=Footprint(price_per_kwh=0.3, currency="EUR")).source
    assert (source["currency"], source.get("region")) == ("EUR", None)


def test_names_that_are_no_text_are_written_as_escapes(made: Made) -> None:
    record = {"file": "caf\udce9.llem.yaml", "nodeid": "caf\udce9.llem.yaml::llama"}
    found = made(record=record)
    assert (found.nodeid, found.labels["file"]) == ("caf\\udce9.llem.yaml::llama", "caf\\udce9.llem.yaml")
    assert found.labels["experiment"] == "llama"


def test_a_change_goes_out_with_its_interval(made: Made) -> None:
    changes = {"energy": (0.05, (0.01, 0.09)), "latency": (None, None)}
    quantities = made(record={"changes": changes}).quantities
    names = ("energy_change", "energy_change_low", "energy_change_high")
    assert [quantities[name] for name in names] == [0.05, 0.01, 0.09]
    assert "latency_change" not in quantities
    for metric in METRICS:
        assert set(made(record={"changes": {metric: (0.05, (0.01, 0.09))}}).quantities) <= set(quantity_names())


def test_what_was_generated_stays_here(made: Made) -> None:
    generated = [GeneratedSequence(prompt=1, tokens=[1], text="zebra")]
    text = json.dumps(made(generated=generated).as_dict())
    assert "zebra" not in text


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("energy_j", ("energy", "J", "energy_joules")),
        ("energy_uncertainty_j", ("energy_uncertainty", "J", "energy_uncertainty_joules")),
        ("latency_s", ("latency", "s", "latency_seconds")),
        ("output_tokens", ("output_tokens", "{token}", "output_tokens")),
        ("output_tokens_per_s", ("output_tokens_per_s", "{token}/s", "output_tokens_per_second")),
        ("mean_power_w", ("mean_power", "W", "mean_power_watts")),
        ("peak_memory_bytes", ("peak_memory", "By", "peak_memory_bytes")),
        ("idle_share", ("idle_share", "1", "idle_ratio")),
        ("carbon_g", ("carbon", "g", "carbon_grams")),
        ("energy_change_low", ("energy_change_low", "1", "energy_change_low_ratio")),
        ("cost", ("cost", "", "cost")),
    ],
)
def test_units(name: str, unit: tuple[str, str, str]) -> None:
    assert unit_of(name) == unit


def test_no_two_quantities_have_one_name() -> None:
    units = [unit_of(name) for name in quantity_names()]
    assert len({unit.stem for unit in units}) == len({unit.base for unit in units}) == len(units)
