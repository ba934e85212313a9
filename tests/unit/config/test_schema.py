"""The JSON Schema agrees with what the loader takes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from pytest_llem.config import ExperimentConfig, FileDataset, PyTorchConfig, experiment_file_schema, load_experiments
from pytest_llem.config.names import fields

ROOT = Path(__file__).parents[3]
OF_A_FILE = {f"dataset.{name}" for name in FileDataset.model_fields} - {"dataset.path"}
FILES = sorted([*ROOT.glob("benchmarks/**/*.llem.yaml"), *ROOT.glob("tests/fuzz/corpus/*.yaml")])


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return json.loads(json.dumps(experiment_file_schema()))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def validator(schema: dict[str, Any]) -> Draft202012Validator:
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def sweep_of(schema: dict[str, Any]) -> dict[str, Any]:
    assert schema["properties"]["sweep"] == {"$ref": "#/$defs/Sweep"}
    return schema["$defs"]["Sweep"]  # type: ignore[no-any-return]


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
    assert (batch_size["type"], batch_size["minimum"]) == (["integer", "null"], 1)
    assert batch_size["stage"] == "batch"


def test_null_is_allowed_everywhere_as_in_the_loader(validator: Draft202012Validator) -> None:
    for name in fields():
        nested: Any = None
        for part in reversed(name.split(".")):
            nested = {part: nested}
        if name in OF_A_FILE:
            nested["dataset"]["path"] = "prompts.txt"
        elif name in ("dataset.path", "dataset.builtin"):
            continue  # they say which kind of dataset it is
        assert validator.is_valid({"base": "shared.yaml", **nested}), name
    for name in ("base", "experiments", "sweep", "exclude"):
        assert validator.is_valid({"model": "gpt2", name: None}), name


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_the_loader_takes_is_valid(validator: Draft202012Validator, file: Path) -> None:
    try:
        valid = all(experiment.config is not None for experiment in load_experiments(file))
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except Exception:  # noqa: BLE001  (what is no YAML is no matter of the schema)
        return
    if valid:
        assert best_match(validator.iter_errors(content)) is None


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("precison: fp32", "$"),
        ("pytorch: {precison: fp32}", "$.pytorch"),
        ("pytorch: {lora: {path: a, precison: true}}", "$.pytorch.lora"),
        ("pytorch: {cache_config: {precison: 2}}", "$.pytorch.cache_config"),
        ("decoder: {precison: 1}", "$.decoder"),
        ("measure: {precison: 1}", "$.measure"),
        ("passthrough: {precison: {}}", "$.passthrough"),
        ("vllm: {precison: 1}", "$.vllm"),
        ("vllm: {speculative_config: {precison: 1}}", "$.vllm.speculative_config"),
        ("tensorrt: {kv_cache_config: {precison: 1}}", "$.tensorrt.kv_cache_config"),
        ("compare: {precison: 5%}", "$.compare"),
        ("dataset: {precison: {n: 4}}", "$.dataset"),
        ("dataset: {synthetic: {precison: 4}}", "$.dataset.synthetic"),
        ("dataset: {path: a, precison: x}", "$.dataset"),
        ("dataset: {builtin: natural, precison: x}", "$.dataset"),
        ("experiments: [{precison: fp32}]", "$.experiments[0]"),
        ("experiments: [{}, {pytorch: {precison: 3}}]", "$.experiments[1].pytorch"),
        ("sweep: {precison: [1]}", "$.sweep"),
        ("sweep: {pytorch: [{precison: 1}]}", "$.sweep.pytorch[0]"),
        ("exclude: [{precison: fp32}]", "$.exclude[0]"),
    ],
)
def test_a_misspelt_key_is_named(validator: Draft202012Validator, text: str, place: str) -> None:
    error = best_match(validator.iter_errors({"model": "gpt2", **yaml.safe_load(text)}))
    assert error is not None
    assert error.json_path == place
    assert re.search(r"\('precison' was|^'precison'", error.message), error.message


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("precision: fp8", "$.precision", "'fp8' is not one of ['fp32', 'fp16', 'bf16', None]"),
        ("pytorch: {batch_size: many}", "$.pytorch.batch_size", "'many' is not of type 'integer', 'null'"),
        ("max_output_tokens: 0", "$.max_output_tokens", "0 is less than the minimum of 1"),
        ("dataset: 8", "$.dataset", "8 is not of type 'string', 'object', 'null'"),
        ("dataset: {n: 4}", "$.dataset", "'path' is a required property"),
        ("dataset: {path: a.txt, n: 0}", "$.dataset.n", "0 is less than the minimum of 1"),
        ("dataset: {synthetic: {n: 4}, field: text}", "$.dataset", "('field' was unexpected)"),
        ("measure: {rounds: atuo}", "$.measure.rounds", "'atuo' is not one of ['auto', None]"),
        ("measure: {rounds: 0}", "$.measure.rounds", "0 is less than the minimum of 1"),
        ("measure: {phases: yess}", "$.measure.phases", "is not one of ['one-token', 'both', True, False, None]"),
        ("pytorch: {attn_implementation: spda}", "$.pytorch.attn_implementation", "is not one of ['eager', 'sdpa', "),
        ("pytorch: {device_map: {lm_head: [0]}}", "$.pytorch.device_map.lm_head", "not of type 'integer', 'string'"),
        ("pytorch: {cache_config: {nbits: 9}}", "$.pytorch.cache_config.nbits", "9 is greater than the maximum of 8"),
        ("compare: {enery: 5%}", "$.compare", "'enery' is not one of ['energy', 'latency', "),
        ("sweep: {measure.rounds: [5, atuo]}", "$.sweep['measure.rounds'][1]", "'atuo' is not one of ['auto', None]"),
        ("exclude: [{pytorch.batch_size: [1, x]}]", "$.exclude[0]['pytorch.batch_size'][1]", "'x' is not of type"),
    ],
)
def test_a_mistake_is_told_at_its_field_with_what_would_be_right(
    validator: Draft202012Validator, text: str, place: str, message: str
) -> None:
    error = best_match(validator.iter_errors({"model": "gpt2", **yaml.safe_load(text)}))
    assert error is not None
    assert error.json_path == place
    assert message in error.message


def test_a_model_is_missing_only_where_nothing_else_may_bring_one(validator: Draft202012Validator) -> None:
    (error,) = validator.iter_errors({"precision": "fp32"})
    assert error.message == "'model' is a required property"
    for text in ("base: shared.yaml", "experiments: [{model: gpt2}]", "sweep: {model: [gpt2]}"):
        assert validator.is_valid(yaml.safe_load(text)), text


def test_values_that_are_choices_of_a_field_are_taken(validator: Draft202012Validator) -> None:
    for text in (
        "measure: {rounds: auto, min_window_s: 0.5, phases: one-token}",
        "measure: {rounds: 3, min_window_s: auto, phases: true}",
        "pytorch: {attn_implementation: org/kernel@v1:forward, early_stopping: never}",
        "pytorch: {attn_implementation: sdpa, early_stopping: false, device_map: {lm_head: 0, model: cpu}}",
        "pytorch: {device_map: auto, max_memory: {cpu: 8GiB}}",
        "dataset: natural",
        "dataset: {builtin: natural, n: 4}",
    ):
        assert best_match(validator.iter_errors({"model": "gpt2", **yaml.safe_load(text)})) is None, text


def test_no_choice_hides_what_is_wrong(schema: dict[str, Any]) -> None:
    """But where an exclusion's list may be the value of a field that takes lists, or a list of such values."""
    definitions = {name: schema["$defs"][name] for name in schema["$defs"].keys() - {"Exclusions"}}
    assert "anyOf" not in json.dumps({**schema, "$defs": definitions})


def test_every_field_but_the_name_can_be_swept(schema: dict[str, Any]) -> None:
    sweep = sweep_of(schema)
    assert set(sweep["properties"]) == set(fields()) - {"name"}
    assert {"pytorch", "pytorch.batch_size", "dataset.synthetic.n", "dataset.path", "dataset.n"} <= set(
        sweep["properties"]
    )
    (pattern,) = sweep["patternProperties"]
    for name in (
        "passthrough.generate.stop_strings",
        "passthrough.from_pretrained.x.y",
        "pytorch.max_memory.0",
        "compare.energy",
    ):
        assert re.search(pattern, name), name
    for name in ("pytorch.batch_sise", "passthrough.x", "vllm.a"):
        assert not re.search(pattern, name), name


def test_values_of_a_sweep_and_of_an_exclusion_are_those_of_the_field(schema: dict[str, Any]) -> None:
    field = schema["$defs"]["PyTorchConfig"]["properties"]["batch_size"]
    assert sweep_of(schema)["properties"]["pytorch.batch_size"]["items"] == field
    exclusion = schema["$defs"]["Exclusions"]["items"]
    assert exclusion["properties"]["pytorch.batch_size"]["else"] == field
    assert set(exclusion["properties"]) == set(fields())


def test_a_section_may_be_completed_elsewhere(schema: dict[str, Any]) -> None:
    assert "required" not in schema["$defs"]["LoraConfig"]
    # Of a dataset's mappings, each has a key that tells it from the others.
    assert schema["$defs"]["FileDataset"]["required"] == ["path"]
    assert schema["$defs"]["BuiltinDataset"]["required"] == ["builtin"]


SNIPPETS = json.loads((ROOT / "editors" / "llem.code-snippets").read_text(encoding="utf-8"))


@pytest.mark.parametrize("choice", [0, -1])
@pytest.mark.parametrize("name", SNIPPETS)
def test_a_snippet_is_an_experiment_or_a_part_of_one(
    validator: Draft202012Validator, tmp_path: Path, name: str, choice: int
) -> None:
    text = "\n".join(SNIPPETS[name]["body"]).replace("$0", "")
    text = re.sub(r"\$\{\d+\|([^|]*)\|\}", lambda match: match[1].split(",")[choice], text)
    text = re.sub(r"\$\{\d+:([^}]*)\}", r"\1", text).replace(r"\$", "$")
    if "model:" not in text:
        text = f"model: builtin:tiny-llama\n{text}"
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Once"}\n')
    file = tmp_path / "snippet.llem.yaml"
    file.write_text(text, encoding="utf-8")
    assert all(experiment.config is not None for experiment in load_experiments(file)), text
    assert best_match(validator.iter_errors(yaml.safe_load(text))) is None


def test_the_address_of_the_schema_is_the_one_that_is_written_in_files(schema: dict[str, Any]) -> None:
    line = f"# yaml-language-server: $schema={schema['$id']}"
    for page in ("docs/guide.md", "docs/editors.md"):
        assert line in (ROOT / page).read_text(encoding="utf-8").splitlines()
    for file in ROOT.glob("benchmarks/**/*.llem.yaml"):
        assert file.read_text(encoding="utf-8").startswith(f"{line}\n"), file
    assert SNIPPETS["pytest-llem: an experiment"]["body"][0] == line.replace("$", r"\$")


def test_references_lead_somewhere(schema: dict[str, Any]) -> None:
    names = set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(schema)))
    assert names <= set(schema["$defs"])
    assert {"Sweep", "Exclusions", "ExperimentEntry", "LoraConfig"} <= names


def test_the_options_of_the_quantised_cache_are_named(schema: dict[str, Any]) -> None:
    cache = schema["$defs"]["PyTorchConfig"]["properties"]["cache_config"]
    assert "residual_length" in cache["properties"]
    assert cache["additionalProperties"] is False
