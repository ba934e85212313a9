"""What makes two experiments share a loaded model."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.config import ExperimentConfig, LoadConfig, PyTorchConfig
from pytest_llem.config.base import fields_of

if TYPE_CHECKING:
    from pathlib import Path


def load(folder: Path, **values: Any) -> LoadConfig:
    return ExperimentConfig.model_validate({"model": "gpt2", **values}).load_config(folder)


@pytest.mark.parametrize(
    "values",
    [
        {"name": "other"},
        {"device": "cpu"},
        {"random_seed": 7},
        {"max_output_tokens": 5},
        {"dataset": "natural"},
        {"decoder": {"preset": "creative"}},
        {"measure": {"rounds": 3}},
        {"compare": {"energy": "5%"}},
        {"passthrough": {"generate": {"max_time": 5.0}}},
        {"decoder": {"stop_strings": ["x"]}},
        {"dataset": "natural", "chat": True},
        {"pytorch": {"disable_compile": True, "allow_tf32": False}},
        {"pytorch": {"cache_implementation": "quantized", "cache_config": {"nbits": 2}}},
        {"decoder": {"do_sample": True}, "pytorch": {"num_return_sequences": 2}},
        {"marks": ["slow"]},
        {"pytorch": {"batch_size": 4}},
        {"pytorch": {"num_beams": 4, "use_cache": True, "cache_implementation": "static"}},
        {"pytorch": {"load_in_8bit": False, "torch_compile": False, "trust_remote_code": False}},
    ],
    ids=str,
)
def test_what_does_not_decide_the_load_shares_it(tmp_path: Path, values: dict[str, Any]) -> None:
    plain, other = load(tmp_path), load(tmp_path, **values)
    assert other == plain
    assert hash(other) == hash(plain)


ANOTHER_LOAD: list[dict[str, Any]] = [
    {"model": "gpt3"},
    {"weights": "random"},
    {"backend": "vllm"},
    {"backend": "vllm", "vllm": {"max_num_seqs": 1}},
    {"backend": "tensorrt", "tensorrt": {"max_batch_size": 1}},
    {"precision": "fp16"},
    {"parallel": {"tensor": 2}},
    {"pytorch": {"attn_implementation": "eager"}},
    {"pytorch": {"torch_compile": True}},
    {"pytorch": {"load_in_8bit": True}},
    {"pytorch": {"device_map": "auto", "max_memory": {0: "1GiB", "cpu": "1GiB"}}},
    {"pytorch": {"device_map": {"": 0}}},
    {"pytorch": {"revision": "main"}},
    {"pytorch": {"trust_remote_code": True}},
    {"pytorch": {"assistant_model": "gpt2"}},
    {"pytorch": {"lora": {"path": "a/b"}}},
    {"passthrough": {"from_pretrained": {"variant": "x"}}},
]


def test_every_field_of_the_load_has_a_row() -> None:
    assert fields_of(ExperimentConfig, "load") <= {name for values in ANOTHER_LOAD for name in values}


@pytest.mark.parametrize("values", ANOTHER_LOAD, ids=str)
def test_what_decides_the_load_does_not_share_it(tmp_path: Path, values: dict[str, Any]) -> None:
    assert load(tmp_path, **values) != load(tmp_path)


def test_the_section_of_another_backend_decides_its_load(tmp_path: Path) -> None:
    sections: list[dict[str, Any]] = [{}, {"vllm": {"max_num_seqs": 1}}, {"vllm": {"max_num_seqs": 2}}]
    assert len({load(tmp_path, backend="vllm", **section) for section in sections}) == 3


def test_values_that_python_calls_equal_are_told_apart(tmp_path: Path) -> None:
    loads = {load(tmp_path, passthrough={"from_pretrained": {"x": x}}) for x in (1, True, 1.0, "1")}
    assert len(loads) == 4


def test_the_order_of_a_mapping_means_nothing(tmp_path: Path) -> None:
    one = load(tmp_path, pytorch={"device_map": "auto", "max_memory": {0: "1GiB", "cpu": "2GiB"}})
    two = load(tmp_path, pytorch={"device_map": "auto", "max_memory": {"cpu": "2GiB", 0: "1GiB"}})
    assert one == two


def test_the_seed_counts_only_where_weights_are_random(tmp_path: Path) -> None:
    assert load(tmp_path).random_seed is None
    assert load(tmp_path, weights="random", random_seed=7).random_seed == 7
    assert load(tmp_path, model="builtin:tiny-llama", random_seed=7).random_seed == 7


def test_the_seed_counts_where_the_assistant_is_random(tmp_path: Path) -> None:
    assert load(tmp_path, pytorch={"assistant_model": "gpt2"}, random_seed=7).random_seed is None
    assert load(tmp_path, pytorch={"assistant_model": "builtin:tiny-llama"}, random_seed=7).random_seed == 7


def test_whether_an_adapter_is_merged_decides_the_load(tmp_path: Path) -> None:
    loads = [
        load(tmp_path, pytorch={"lora": {"path": "a/b", **merge}}) for merge in ({}, {"merge": False}, {"merge": True})
    ]
    assert loads[0] == loads[1] != loads[2]


def test_an_assistant_and_an_adapter_in_folders_are_shared_by_files_in_two_folders(tmp_path: Path) -> None:
    (tmp_path / "models" / "m").mkdir(parents=True)
    (tmp_path / "suite").mkdir()
    here = load(tmp_path, pytorch={"assistant_model": "models/m", "lora": {"path": "models/m"}})
    there = load(tmp_path / "suite", pytorch={"assistant_model": "../models/m", "lora": {"path": "../models/m"}})
    assert here == there
    absolute = str((tmp_path / "models" / "m").resolve())
    assert here.pytorch.assistant_model == absolute
    assert here.pytorch.lora is not None
    assert here.pytorch.lora.path == absolute
    hub = load(tmp_path, pytorch={"assistant_model": "org/m", "lora": {"path": "org/l"}}).pytorch
    assert (hub.assistant_model, hub.lora and hub.lora.path) == ("org/m", "org/l")


def test_holds_the_options_of_the_load_only(tmp_path: Path) -> None:
    config = load(tmp_path, pytorch={"batch_size": 4, "load_in_8bit": True})
    assert config.pytorch == PyTorchConfig(load_in_8bit=True)


def test_files_in_two_folders_share_a_local_model(tmp_path: Path) -> None:
    (tmp_path / "models" / "m").mkdir(parents=True)
    (tmp_path / "suite").mkdir()
    here = load(tmp_path, model="models/m")
    there = load(tmp_path / "suite", model="../models/m")
    assert here == there
    assert here.model == str((tmp_path / "models" / "m").resolve())


@pytest.mark.parametrize("model", ["org/name", "builtin:tiny-llama", "x" * 5000, "a\0b"])
def test_a_name_that_is_no_folder_stays_as_it_is(tmp_path: Path, model: str) -> None:
    (tmp_path / "builtin:tiny-llama").mkdir()
    assert load(tmp_path, model=model).model == model


def test_survives_pickling(tmp_path: Path) -> None:
    config = load(tmp_path, pytorch={"device_map": {"": 0}})
    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301


def test_is_no_equal_of_other_things(tmp_path: Path) -> None:
    assert load(tmp_path) != "gpt2"
