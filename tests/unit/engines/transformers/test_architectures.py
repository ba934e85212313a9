"""Models whose class is not that of a causal language model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_llem.engines.transformers.memory_plan import predict
from pytest_llem.errors import LoadError
from tests.unit.engines.transformers.conftest import HERE, experiment

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_llem.engines.transformers.engine import TransformersModel
    from tests.unit.engines.transformers.conftest import Load

TEXT: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
EYES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8}
PATCHES = EYES | {"patch_size": 4}
ROTARY = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
QWEN_EYES = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}

WITH_EYES: dict[str, dict[str, Any]] = {
    "mistral3": {
        "text_config": TEXT | {"model_type": "mistral"},
        "vision_config": PATCHES | {"model_type": "pixtral"},
        "image_token_index": 60,
    },
    "llava": {
        "text_config": TEXT | {"model_type": "llama"},
        "vision_config": PATCHES | {"model_type": "clip_vision_model", "projection_dim": 16},
        "image_token_index": 60,
    },
    "qwen2_5_vl": {
        "text_config": TEXT | {"model_type": "qwen2_5_vl_text", "rope_parameters": ROTARY},
        "vision_config": QWEN_EYES | {"model_type": "qwen2_5_vl", "fullatt_block_indexes": [0]},
        "image_token_id": 60,
        "video_token_id": 61,
        "vision_start_token_id": 62,
        "vision_end_token_id": 63,
    },
    "gemma3": {
        "text_config": TEXT | {"model_type": "gemma3_text"},
        "vision_config": PATCHES | {"model_type": "siglip_vision_model"},
        "mm_tokens_per_image": 4,
        "image_token_index": 60,
    },
    "idefics3": {
        "text_config": TEXT | {"model_type": "llama"},
        "vision_config": PATCHES | {"model_type": "idefics3_vision"},
        "image_token_id": 60,
    },
}


def folder_of(folder: Path, model_type: str, config: dict[str, Any]) -> dict[str, Any]:
    (folder / "config.json").write_text(json.dumps({"model_type": model_type} | config))
    return {"model": str(folder), "weights": "random"}


def generated(model: TransformersModel, /, **fields: Any) -> list[list[int]]:
    workload = model.prepare(experiment(**fields), HERE)
    return workload.output_tokens(0, workload.run(0))


@pytest.mark.parametrize("model_type", WITH_EYES)
def test_a_model_with_eyes_runs_its_text_part(load: Load, tmp_path: Path, model_type: str) -> None:
    fields = folder_of(tmp_path, model_type, WITH_EYES[model_type]) | {"decoder": {"min_new_tokens": 6}}
    fields |= {"pytorch": {"batch_size": 3}, "dataset": {"synthetic": {"n": 3, "input_len": 9}}}
    model = load(**fields)
    tokens = generated(model, **fields)
    assert [len(row) for row in tokens] == [6, 6, 6]
    many = model.prepare(experiment(dataset={"synthetic": {"n": 1, "input_len": 999}}, max_input_tokens=999), HERE)
    named = {value for name, value in WITH_EYES[model_type].items() if "token_i" in name}
    assert not named & set(many.prompts.token_ids[0])
    planned = predict(experiment(**fields), HERE)
    assert planned.kv_cache_bytes == 2 * 1 * 16 * (9 + 6 - 1) * 4 * 3
    # A checkpoint that was saved is the same model again.
    model.model.save_pretrained(tmp_path / "saved")
    again = load(model=str(tmp_path / "saved"))
    assert type(again.model) is type(model.model)
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), model.model.parameters(), strict=True))
    assert generated(again, **fields) == tokens


@pytest.mark.parametrize(
    ("model_type", "message"),
    [
        ("clip", "generates no text with its architecture, 'clip'; only decoder-only models are measured"),
        ("vit", "generates no text with its architecture, 'vit'; only decoder-only models are measured"),
        ("t5", "an encoder-decoder model; only decoder-only models are measured"),
    ],
)
@pytest.mark.parametrize("weights", ["random", "pretrained"])
def test_what_generates_no_text_is_refused(
    load: Load, tmp_path: Path, model_type: str, message: str, weights: str
) -> None:
    fields = folder_of(tmp_path, model_type, {}) | {"weights": weights}
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert message in str(predict(experiment(**fields), HERE).reason)
    with pytest.raises(LoadError) as error:
        load(**fields)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("model_type", "config"),
    [
        ("rwkv", {"attention_hidden_size": 32, "context_length": 64}),
        ("mamba", {"state_size": 4, "expand": 2}),
        ("mamba2", {"state_size": 4, "num_heads": 4, "head_dim": 16, "expand": 2, "n_groups": 1}),
        ("falcon_mamba", {"state_size": 4, "expand": 2}),
    ],
)
def test_the_memory_of_a_model_without_attention_is_not_known_and_no_fault(
    load: Load, tmp_path: Path, model_type: str, config: dict[str, Any]
) -> None:
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "bos_token_id": 1, "eos_token_id": 2}
    fields = folder_of(tmp_path, model_type, sizes | config) | {"decoder": {"min_new_tokens": 6}}
    planned = predict(experiment(**fields), HERE)
    assert planned.weights_bytes is not None
    assert planned.kv_cache_bytes is None
    assert "cache" in str(planned.reason)
    model = load(**fields)
    assert [len(row) for row in generated(model, **fields)] == [6]


@pytest.mark.parametrize("auto_class", ["AutoModelForCausalLM", "AutoModelForImageTextToText"])
def test_a_class_that_came_with_the_model_is_the_one_it_names(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, auto_class: str
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    folder = tmp_path / auto_class
    folder.mkdir()
    (folder / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class Config(LlamaConfig):\n    model_type = 'own'\n"
        "class Model(LlamaForCausalLM):\n    config_class = Config\n"
    )
    named = {"auto_map": {"AutoConfig": "own.Config", auto_class: "own.Model"}}
    fields = folder_of(folder, "own", TEXT | named) | {"pytorch": {"trust_remote_code": True}}
    model = load(**fields)
    assert type(model.model).__name__ == "Model"
    assert len(generated(model, **fields)[0]) >= 1
