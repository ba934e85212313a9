"""The whole experiment: defaults, and what its sections mean together."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pytest_llem.config import (
    BuiltinDataset,
    DecoderConfig,
    ExperimentConfig,
    FileDataset,
    MeasureConfig,
    PyTorchConfig,
    SyntheticDataset,
    SyntheticPrompts,
)


def experiment(**values: Any) -> ExperimentConfig:
    return ExperimentConfig.model_validate({"model": "gpt2", **values})


def errors(**values: Any) -> list[tuple[str, str, str]]:
    with pytest.raises(ValidationError) as caught:
        experiment(**values)
    return [(".".join(map(str, e["loc"])), e["type"], e["msg"]) for e in caught.value.errors()]


def test_only_the_model_is_required() -> None:
    config = ExperimentConfig(model="gpt2")
    assert config.model_dump() == {
        "name": None,
        "model": "gpt2",
        "weights": "pretrained",
        "backend": "pytorch",
        "precision": "bf16",
        "device": "any",
        "dataset": {"synthetic": {"n": 8, "input_len": None, "seed": None}},
        "chat": None,
        "template_date": None,
        "max_input_tokens": 128,
        "max_output_tokens": 64,
        "output_lengths": None,
        "random_seed": 42,
        "decoder": DecoderConfig().model_dump(),
        "pytorch": None,
        "vllm": None,
        "tensorrt": None,
        "parallel": {"tensor": 1},
        "measure": MeasureConfig().model_dump(),
        "timeout_s": None,
        "compare": {},
        "passthrough": {"from_pretrained": {}, "generate": {}},
        "marks": [],
    }
    assert config.measure == MeasureConfig(rounds=10, warmup_rounds=2, min_window_s=None, phases=False)
    assert (config.input_len, config.dataset_seed) == (128, 42)
    with pytest.raises(ValidationError, match="model"):
        ExperimentConfig.model_validate({})


def test_takes_sections_as_objects() -> None:
    config = ExperimentConfig(model="gpt2", pytorch=PyTorchConfig(revision="abc123"))
    assert config.pytorch is not None
    assert config.pytorch.revision == "abc123"


def test_a_full_experiment_survives_a_json_round_trip() -> None:
    config = experiment(
        name="full",
        dataset="natural",
        chat=True,
        decoder={"preset": "standard", "min_new_tokens": 4, "stop_strings": ["."]},
        pytorch={
            "lora": {"path": "a"},
            "cache_implementation": "quantized",
            "cache_config": {"nbits": 2},
            "device_map": "auto",
            "max_memory": {0: "1GiB"},
            "num_beams": 2,
            "early_stopping": "never",
        },
        measure={"min_window_s": "auto"},
        compare={"energy": "2%..5%"},
        passthrough={"generate": {"max_time": 5.0}},
        marks=["slow"],
    )
    again = ExperimentConfig.model_validate_json(config.model_dump_json())
    assert again == config
    assert hash(again) == hash(config)


def test_every_field_has_help() -> None:
    for section in (ExperimentConfig, MeasureConfig, SyntheticDataset, SyntheticPrompts, BuiltinDataset, FileDataset):
        for name, field in section.model_fields.items():
            assert field.description, name


def test_kinds_of_dataset() -> None:
    assert experiment(dataset="natural").dataset == "natural"
    assert experiment(dataset={"path": "p.jsonl"}).dataset == FileDataset(path="p.jsonl")
    assert experiment(dataset={"builtin": "natural", "n": 4}).dataset == BuiltinDataset(builtin="natural", n=4)
    synthetic = experiment(dataset={"synthetic": {"n": 2, "input_len": 16, "seed": 7}})
    assert (synthetic.input_len, synthetic.dataset_seed) == (16, 7)
    assert experiment(dataset="natural").input_len is None
    assert experiment(dataset={"synthetic": {}}, random_seed=3, max_input_tokens=9).input_len == 9
    assert experiment(dataset={"synthetic": {}}, random_seed=3).dataset_seed == 3
    assert experiment(dataset={"synthetic": {"seed": 0}}, random_seed=3).dataset_seed == 0


@pytest.mark.parametrize("source", [{"path": "p.jsonl"}, {"builtin": "natural"}], ids=str)
def test_order_of_texts(source: dict[str, str]) -> None:
    whole = experiment(dataset=source, random_seed=3)
    assert (whole.prompt_count, whole.dataset_seed) == (None, 3)
    chosen = experiment(dataset={**source, "n": 4, "shuffle": True, "seed": 0}, random_seed=3)
    assert (chosen.prompt_count, chosen.dataset_seed) == (4, 0)
    assert ExperimentConfig.model_validate_json(chosen.model_dump_json()) == chosen
    for shuffle in ({}, {"shuffle": False}):
        assert [
            (field.rpartition(".")[2], *rest) for field, *rest in errors(dataset={**source, "seed": 1, **shuffle})
        ] == [("seed", "contradiction", "has no effect without shuffle; set shuffle: true or remove it")]


def test_a_field_of_a_text_file_is_refused() -> None:
    message = "has no effect on a text file, each line of which is a prompt; remove it or use a .jsonl file"
    for path, field in (("p.txt", "text"), ("a/P.TXT", "prompt")):
        assert errors(dataset={"path": path, "field": field}) == [("dataset.<file>.field", "contradiction", message)]
    config = experiment(dataset={"path": "p.txt"})
    assert ExperimentConfig.model_validate_json(config.model_dump_json()) == config


def test_the_number_of_prompts_is_known_of_synthetic_ones_and_not_of_a_whole_set() -> None:
    assert experiment(dataset={"synthetic": {"n": 3}}).prompt_count == 3
    assert experiment(dataset="natural").prompt_count is None


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"model": ""}, "model"),
        ({"model": 3}, "model"),
        ({"modle": "x"}, "modle"),
        ({"weights": "none"}, "weights"),
        ({"backend": "onnx"}, "backend"),
        ({"precision": "float16"}, "precision"),
        ({"device": "gpu"}, "device"),
        ({"max_input_tokens": 0}, "max_input_tokens"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"random_seed": -1}, "random_seed"),
        ({"random_seed": 2**32}, "random_seed"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"dataset": ""}, "dataset.<name>"),
        ({"dataset": ["a"]}, "dataset"),
        ({"dataset": {"synthetic": {"n": 0}}}, "dataset.<synthetic>.synthetic.n"),
        ({"dataset": {"synthetic": {}, "path": "x"}}, "dataset.<synthetic>.path"),
        ({"dataset": {"file": "x"}}, "dataset.<file>.path"),
        ({"dataset": {"path": "x", "n": 0}}, "dataset.<file>.n"),
        ({"dataset": {"builtin": ""}}, "dataset.<builtin>.builtin"),
        ({"dataset": {"builtin": "natural", "path": "x"}}, "dataset.<builtin>.path"),
        ({"compare": {"power": "5%"}}, "compare.power.[key]"),
        ({"compare": {"energy": "5"}}, "compare.energy"),
        ({"compare": {"energy": 5}}, "compare.energy"),
        ({"marks": "slow"}, "marks"),
        ({"marks": ["not a name"]}, "marks.0"),
        ({"marks": ["parametrize"]}, "marks.0"),
        ({"name": "two words"}, "name"),
        ({"name": "-x"}, "name"),
        ({"name": "ünï"}, "name"),
        ({"name": "pytest_x"}, "name"),
        ({"name": "setup_module"}, "name"),
        ({"name": "tearDownModule"}, "name"),
        ({"name": "__file__"}, "name"),
        ({"name": "a\n"}, "name"),
    ],
    ids=str,
)
def test_refuses(values: dict[str, Any], field: str) -> None:
    assert errors(**values)[0][0] == field


@pytest.mark.parametrize("name", ["a", "tiny-llama", "v1.2+cu128", "_x", "1b"])
def test_takes_the_name(name: str) -> None:
    assert experiment(name=name).name == name


@pytest.mark.parametrize(
    ("values", "field", "message"),
    [
        (
            {"backend": "vllm", "pytorch": {}},
            "pytorch",
            "does not fit backend: vllm; remove it or set backend: pytorch",
        ),
        ({"vllm": {}}, "vllm", "does not fit backend: pytorch; remove it or set backend: vllm"),
        (
            {"decoder": {"temperature": 0.7}},
            "decoder.temperature",
            "has no effect without sampling; set do_sample: true or remove it",
        ),
        (
            {"decoder": {"preset": "deterministic", "top_k": 5}},
            "decoder.top_k",
            "has no effect without sampling; set do_sample: true or remove it",
        ),
        (
            {"decoder": {"temperature": 0}},
            "decoder.temperature",
            "has no effect without sampling; use do_sample: false (the likeliest token)",
        ),
        (
            {"decoder": {"do_sample": True, "temperature": 0}},
            "decoder.temperature",
            "0 cannot be sampled with; use do_sample: false (the likeliest token)",
        ),
        (
            {"decoder": {"preset": "standard", "do_sample": False, "temperature": 0.7}},
            "decoder.temperature",
            "has no effect without sampling; set do_sample: true or remove it",
        ),
        (
            {"decoder": {"min_new_tokens": 65}},
            "decoder.min_new_tokens",
            "65 is above max_output_tokens (64); lower it or raise max_output_tokens",
        ),
        (
            {"dataset": {"synthetic": {"input_len": 129}}},
            "dataset.synthetic.input_len",
            "129 is above max_input_tokens (128); lower it or raise max_input_tokens",
        ),
        (
            {"pytorch": {"early_stopping": True}},
            "pytorch.early_stopping",
            "has no effect with one beam; set num_beams above 1 or remove it",
        ),
        (
            {"pytorch": {"length_penalty": 2, "num_beams": 1}},
            "pytorch.length_penalty",
            "has no effect with one beam; set num_beams above 1 or remove it",
        ),
        (
            {"pytorch": {"prompt_lookup_num_tokens": 3, "batch_size": 2}},
            "pytorch.prompt_lookup_num_tokens",
            "does not work with batch_size 2; set batch_size: 1",
        ),
        (
            {"pytorch": {"prompt_lookup_num_tokens": 3, "num_beams": 4}},
            "pytorch.prompt_lookup_num_tokens",
            "does not work with 4 beams; set num_beams: 1",
        ),
        (
            {"pytorch": {"prompt_lookup_num_tokens": 3, "cache_implementation": "offloaded_static"}},
            "pytorch.prompt_lookup_num_tokens",
            "does not work with the offloaded_static cache; use cache_implementation: dynamic",
        ),
        (
            {"pytorch": {"prompt_lookup_num_tokens": 3, "use_cache": False}},
            "pytorch.prompt_lookup_num_tokens",
            "does not work with use_cache: false; remove it",
        ),
        (
            {"pytorch": {"max_memory": {0: "1GiB"}}},
            "pytorch.max_memory",
            "has no effect without device_map; set one, such as auto",
        ),
        (
            {"device": "cpu", "pytorch": {"cache_implementation": "offloaded"}},
            "pytorch.cache_implementation",
            "offloaded needs a GPU, but device is cpu; use dynamic or static",
        ),
        (
            {"model": "builtin:tiny-llama", "pytorch": {"revision": "main"}},
            "pytorch.revision",
            "has no meaning for a built-in model; remove it",
        ),
    ],
    ids=str,
)
def test_refuses_contradictions_with_the_way_out(values: dict[str, Any], field: str, message: str) -> None:
    assert errors(**values) == [(field, "contradiction", message)]


@pytest.mark.parametrize(
    "values",
    [
        {"backend": "vllm", "vllm": {"max_num_seqs": 1}},
        {"backend": "tensorrt"},
        {"decoder": {"do_sample": True, "temperature": 1, "top_k": 50, "top_p": 0.5, "min_p": 0.1}},
        {"decoder": {"preset": "factual", "temperature": 0.1}},
        {"decoder": {"preset": "deterministic", "do_sample": True, "temperature": 0.5}},
        {"decoder": {"preset": "creative", "do_sample": False}},
        {"decoder": {"min_new_tokens": 64}},
        {"pytorch": {"num_beams": 2, "early_stopping": "never", "length_penalty": 0.5}},
        {"pytorch": {"prompt_lookup_num_tokens": 3, "cache_implementation": "dynamic"}},
        {"pytorch": {"device_map": "auto", "max_memory": {"cpu": "1GiB"}}},
        {"pytorch": {"cache_implementation": "offloaded"}},
        {"model": "builtin:tiny-llama", "weights": "random", "pytorch": {"load_in_4bit": True}},
    ],
    ids=str,
)
def test_takes(values: dict[str, Any]) -> None:
    experiment(**values)


def test_all_contradictions_are_told_at_once() -> None:
    found = errors(decoder={"top_k": 5, "min_new_tokens": 99}, pytorch={"length_penalty": 2})
    assert [field for field, _, _ in found] == [
        "decoder.top_k",
        "decoder.min_new_tokens",
        "pytorch.length_penalty",
    ]
