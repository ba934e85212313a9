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
    assert schema["properties"]["sweep"] == {"$ref": "#/$defs/Sweep"}
    return schema["$defs"]["Sweep"]["anyOf"][0]  # type: ignore[no-any-return]


def test_a_file_has_the_fields_of_an_experiment_and_keys_of_its_own(schema: dict[str, Any]) -> None:
    assert set(schema["properties"]) == {*ExperimentConfig.model_fields, "base", "exclude", "experiments", "sweep"}
    assert schema["additionalProperties"] is False
    assert "required" not in schema
    entry = schema["$defs"]["ExperimentEntry"]
    assert set(entry["properties"]) == {*ExperimentConfig.model_fields, "exclude", "sweep"}
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
        *(schema["$defs"][name] for name in ("PyTorchConfig", "MeasureConfig", "BuiltinDataset", "FileDataset")),
    ]
    for section in sections:
        for name, field in section["properties"].items():
            definition = schema["$defs"][field["$ref"].rpartition("/")[2]] if "$ref" in field else field
            assert {"type": "null"} in definition["anyOf"], name


def test_every_field_but_the_name_can_be_swept(schema: dict[str, Any]) -> None:
    sweep = sweep_of(schema)
    assert set(sweep["properties"]) == set(fields()) - {"name"}
    assert {"pytorch", "pytorch.batch_size", "dataset.synthetic.n", "dataset.path", "dataset.n"} <= set(
        sweep["properties"]
    )
    (pattern,) = sweep["patternProperties"]
    for name in ("passthrough.generate.stop_strings", "vllm.x.y", "pytorch.max_memory.0", "compare.energy"):
        assert re.search(pattern, name), name
    for name in ("pytorch.batch_sise", "passthrough.x", "xvllm.a"):
        assert not re.search(pattern, name), name


def test_values_of_a_sweep_and_of_an_exclusion_are_those_of_the_field(schema: dict[str, Any]) -> None:
    field = schema["$defs"]["PyTorchConfig"]["properties"]["batch_size"]
    assert sweep_of(schema)["properties"]["pytorch.batch_size"]["items"] == field
    exclusion = schema["$defs"]["Exclusions"]["anyOf"][0]["items"]
    assert exclusion["properties"]["pytorch.batch_size"]["anyOf"][0] == field
    assert set(exclusion["properties"]) == set(fields())


def test_a_section_may_be_completed_elsewhere(schema: dict[str, Any]) -> None:
    assert "required" not in schema["$defs"]["LoraConfig"]
    # Of a dataset's mappings, each has a key that tells it from the others.
    assert schema["$defs"]["FileDataset"]["required"] == ["path"]
    assert schema["$defs"]["BuiltinDataset"]["required"] == ["builtin"]


def test_references_lead_somewhere(schema: dict[str, Any]) -> None:
    names = set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(schema)))
    assert names <= set(schema["$defs"])
    assert {"Sweep", "Exclusions", "ExperimentEntry", "LoraConfig"} <= names


def test_the_options_of_the_quantised_cache_are_named(schema: dict[str, Any]) -> None:
    cache = schema["$defs"]["PyTorchConfig"]["properties"]["cache_config"]["anyOf"][0]
    assert "residual_length" in cache["properties"]
    assert cache["additionalProperties"] is False
