"""The JSON Schema agrees with what the loader takes."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from pytest_llem.config import ExperimentConfig, PyTorchConfig, experiment_file_schema
from pytest_llem.config.names import fields


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return json.loads(json.dumps(experiment_file_schema()))  # type: ignore[no-any-return]


def sweep_of(schema: dict[str, Any]) -> dict[str, Any]:
    return schema["properties"]["sweep"]["anyOf"][0]  # type: ignore[no-any-return]


def test_a_file_has_the_fields_of_an_experiment_and_two_keys_of_its_own(schema: dict[str, Any]) -> None:
    assert set(schema["properties"]) == {*ExperimentConfig.model_fields, "experiments", "sweep"}
    assert schema["additionalProperties"] is False
    assert "required" not in schema
    entry = schema["$defs"]["ExperimentEntry"]
    assert set(entry["properties"]) == {*ExperimentConfig.model_fields, "sweep"}
    assert "required" not in entry


def test_bounds_help_and_units_come_from_the_fields(schema: dict[str, Any]) -> None:
    assert schema["properties"]["max_input_tokens"]["description"] == (
        ExperimentConfig.model_fields["max_input_tokens"].description
    )
    pytorch = schema["$defs"]["PyTorchConfig"]
    assert pytorch["additionalProperties"] is False
    assert set(pytorch["properties"]) == set(PyTorchConfig.model_fields)
    batch_size = pytorch["properties"]["batch_size"]
    assert {"type": "integer", "minimum": 1} in batch_size["anyOf"]
    assert batch_size["stage"] == "batch"


def test_null_is_allowed_everywhere_as_in_the_loader(schema: dict[str, Any]) -> None:
    sections = [
        schema,
        *(schema["$defs"][name] for name in ("PyTorchConfig", "MeasureConfig", "FileDataset")),
    ]
    for section in sections:
        for name, field in section["properties"].items():
            assert {"type": "null"} in field["anyOf"], name


def test_every_field_but_the_name_can_be_swept(schema: dict[str, Any]) -> None:
    sweep = sweep_of(schema)
    assert set(sweep["properties"]) == set(fields()) - {"name"}
    assert {"pytorch", "pytorch.batch_size", "dataset.synthetic.n", "dataset.path"} <= set(sweep["properties"])
    (pattern,) = sweep["patternProperties"]
    for name in ("passthrough.generate.stop_strings", "vllm.x.y", "pytorch.max_memory.0", "compare.energy"):
        assert re.search(pattern, name), name
    for name in ("pytorch.batch_sise", "passthrough.x", "xvllm.a"):
        assert not re.search(pattern, name), name
