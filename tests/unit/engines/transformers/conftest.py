from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_llem.config import ExperimentConfig
from pytest_llem.engines.transformers.engine import TransformersModel, load_here

HERE = Path(__file__).parent

Load = Callable[..., TransformersModel]


def experiment(**fields: Any) -> ExperimentConfig:
    """A small experiment on the built-in model in fp32, with ``fields`` on top."""
    defaults: dict[str, Any] = {
        "model": "builtin:tiny-llama",
        "precision": "fp32",
        "dataset": {"synthetic": {"n": 3, "input_len": 8}},
        "max_output_tokens": 6,
    }
    return ExperimentConfig.model_validate(defaults | fields)


def load_experiment(config: ExperimentConfig, folder: Path = HERE) -> TransformersModel:
    return load_here(config.load_config(folder), "cpu")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the hub answer at once that it cannot be reached."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def tiny() -> Iterator[TransformersModel]:
    """The built-in model in fp32, shared by all tests that leave it as it is."""
    model = load_experiment(experiment())
    # What importing torch and transformers left need not be searched at every close: that took most of the
    # time.
    gc.freeze()
    yield model
    gc.unfreeze()
    model.close()


@pytest.fixture
def load() -> Iterator[Load]:
    """Load the model of ``experiment(**fields)``; it is closed when the test ends."""
    loaded: list[TransformersModel] = []

    def load_fields(folder: Path = HERE, **fields: Any) -> TransformersModel:
        model = load_experiment(experiment(**fields), folder)
        loaded.append(model)
        return model

    yield load_fields
    for model in loaded:
        model.close()


@pytest.fixture(scope="session")
def one_layer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with the architecture of a model small enough to be traced by the compiler in no time."""
    folder = tmp_path_factory.mktemp("one-layer")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 64}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}
    config = {"model_type": "llama", "bos_token_id": 1, "eos_token_id": 2} | sizes | heads
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory, tiny: TransformersModel) -> Path:
    """The built-in model as a local folder, with a generation config that would change the tokens."""
    folder = tmp_path_factory.mktemp("models") / "saved"
    own = tiny.model.generation_config
    tiny.model.generation_config = type(own).from_dict(
        own.to_dict()
        | {
            "do_sample": True,
            "temperature": 0.6,
            "top_k": 7,
            "repetition_penalty": 1.3,
            "suppress_tokens": [5],
        }
        | {"eos_token_id": [257, 17]}
    )
    try:
        tiny.model.save_pretrained(folder)
    finally:
        tiny.model.generation_config = own
    tiny.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def lora_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter for the built-in model, large enough to change its tokens."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("adapters") / "lora"
    folder.mkdir()
    modules = {"q_proj": 256, "v_proj": 128}
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 64}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"target_modules": list(modules)}))
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for layer in range(4):
        for module, width in modules.items():
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(4, 256, generator=generator) / 16
            tensors[f"{name}.lora_B.weight"] = torch.randn(width, 4, generator=generator)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder
