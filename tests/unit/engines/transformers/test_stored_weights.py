"""A checkpoint is measured as what it says it is, or not at all: its quantisation, its window, each of its tensors."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_llem.errors import LoadError, UnavailableError
from tests.unit.engines.transformers.conftest import HERE, experiment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tests.unit.engines.transformers.conftest import Load

Tensors = dict[str, torch.Tensor]

FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}


@pytest.fixture
def changed(saved_model: Path, tmp_path: Path) -> Callable[..., str]:
    """A copy of the saved model with other entries of its configuration, and other tensors."""

    def change(change_tensors: Callable[[Tensors], Tensors] = dict, **entries: Any) -> str:
        folder = shutil.copytree(saved_model, tmp_path / "changed")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | entries))
        tensors = change_tensors(load_file(folder / "model.safetensors"))
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return str(folder)

    return change


def to_fp8(tensors: Tensors, *, scales: bool = True) -> Tensors:
    stored = {}
    for name, tensor in tensors.items():
        stored[name] = tensor
        if name.endswith("_proj.weight"):
            stored[name] = tensor.to(torch.float8_e4m3fn)
            if scales:
                stored[f"{name}_scale_inv"] = torch.ones([-(-size // 128) for size in tensor.shape])
    return stored


def test_fp8_that_is_unpacked_is_refused_with_the_reason(load: Load, changed: Callable[..., str]) -> None:
    model = changed(to_fp8, quantization_config=FP8)
    for _ in range(2):  # transformers gives the reason once a process
        with pytest.raises(
            LoadError,
            match=r"quantised with 'fp8', but transformers unpacked it to bf16 \(.* requires a GPU .*\): run",
        ):
            load(model=model, precision="bf16")


def test_a_quantisation_that_nothing_is_stored_in_is_refused(load: Load, changed: Callable[..., str]) -> None:
    with pytest.raises(LoadError, match="quantised with 'fp8', but transformers unpacked it"):
        load(model=changed(quantization_config=FP8))


def test_plain_tensors_that_no_layer_takes_hide_no_quantised_ones(load: Load, changed: Callable[..., str]) -> None:
    further = {"model.mtp.weight": torch.zeros(2000, 2000, dtype=torch.bfloat16)}
    with pytest.raises(LoadError, match=r"stored quantised, of which its config\.json says nothing"):
        load(model=changed(lambda tensors: to_fp8(tensors) | further))


@pytest.mark.parametrize("scales", [False, True])
def test_fp8_that_the_configuration_does_not_mention_is_refused(
    load: Load, changed: Callable[..., str], scales: bool
) -> None:
    model = changed(lambda tensors: to_fp8(tensors, scales=scales))
    with pytest.raises(LoadError, match=r"stored quantised, of which its config\.json says nothing"):
        load(model=model)


def test_mxfp4_that_is_unpacked_is_refused_with_the_reason(load: Load, saved_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "oss"
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 260, "head_dim": 16}
    counts = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt_oss"} | sizes | counts))
    load(model=str(tmp_path), weights="random", precision="bf16").model.save_pretrained(folder)
    for file in saved_model.glob("token*"):
        shutil.copy(file, folder)
    load(model=str(folder), precision="bf16")
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, inputs, outputs = tensors.pop(name).shape
        tensors[f"{name}_blocks"] = torch.zeros(experts, outputs, inputs // 32, 16, dtype=torch.uint8)
        tensors[f"{name}_scales"] = torch.full((experts, outputs, inputs // 32), 127, dtype=torch.uint8)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head", "self_attn"]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(LoadError, match=r"quantised with 'mxfp4', but transformers unpacked it to bf16 \(.*MXFP4"):
        load(model=str(folder), precision="bf16")


@pytest.mark.parametrize(("field", "dtype"), [("load_in_4bit", torch.uint8), ("load_in_8bit", torch.int8)])
def test_what_bitsandbytes_saved_runs_as_it_was_saved(
    load: Load, saved_model: Path, tmp_path: Path, field: str, dtype: torch.dtype
) -> None:
    folder = shutil.copytree(saved_model, tmp_path / "saved")
    load(model=str(saved_model), precision="bf16", pytorch={field: True}).model.save_pretrained(folder)
    fields: dict[str, Any] = {"model": str(folder), "precision": "bf16"}
    model = load(**fields)
    assert model.model.model.layers[0].mlp.up_proj.weight.dtype == dtype
    workload = model.prepare(experiment(**fields), HERE)
    assert [len(row) for row in workload.output_tokens(0, workload.run(0))] == [6]


@pytest.mark.parametrize("field", ["load_in_4bit", "load_in_8bit"])
def test_a_part_of_it_that_is_unpacked_is_found(
    load: Load, saved_model: Path, tmp_path: Path, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    folder = shutil.copytree(saved_model, tmp_path / "saved")
    load(model=str(saved_model), precision="bf16", pytorch={field: True}).model.save_pretrained(folder)
    whole: Any = LlamaForCausalLM.from_pretrained

    def unpack_a_layer(cls: Any, *arguments: Any, **options: Any) -> Any:
        model, info = whole(*arguments, **options)
        model.model.layers[1].mlp.up_proj = torch.nn.Linear(256, 768, bias=False, dtype=torch.bfloat16)
        return model, info

    monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", classmethod(unpack_a_layer))
    with pytest.raises(LoadError, match=r"quantised with 'bitsandbytes', but .* \(it does not say why\)"):
        load(model=str(folder), precision="bf16")


@pytest.mark.parametrize(
    ("quantisation", "package"),
    [
        ({"quant_method": "gptq", "bits": 4}, "GPTQ.*pip install"),
        ({"quant_method": "awq", "bits": 4}, "AWQ.*pip install"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "compressed-tensors.*pip install"),
        ({"quant_method": "quanto", "weights": "int8"}, "quanto.*pip install"),
    ],
    ids=lambda value: value["quant_method"] if isinstance(value, dict) else "",
)
def test_a_quantisation_whose_package_is_missing_is_unavailable(
    load: Load, changed: Callable[..., str], quantisation: Mapping[str, Any], package: str
) -> None:
    with pytest.raises(UnavailableError, match=package):
        load(model=changed(quantization_config=quantisation))


def test_a_quantised_cache_is_refused(load: Load, changed: Callable[..., str]) -> None:
    quantisation = {"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8}}
    with pytest.raises(LoadError, match=r"quantises the key-value cache \(kv_cache_scheme\)"):
        load(model=changed(quantization_config=quantisation))


def test_a_window_that_the_architecture_does_not_have_is_refused(load: Load, changed: Callable[..., str]) -> None:
    with pytest.raises(LoadError, match="a sliding window of 16, which transformers does not have for 'llama'"):
        load(model=changed(sliding_window=16))


def test_a_window_that_it_has_is_kept(load: Load, changed: Callable[..., str]) -> None:
    model = load(model=changed(model_type="mistral", architectures=["MistralForCausalLM"], sliding_window=16))
    assert model.model.config.sliding_window == 16


@pytest.mark.parametrize("name", ["self_attn.sinks", "self_attn.k_scale", "self_attn.q_proj.bias"])
def test_a_tensor_that_a_layer_would_run_without_is_refused(load: Load, changed: Callable[..., str], name: str) -> None:
    model = changed(lambda tensors: tensors | {f"model.layers.1.{name}": torch.zeros(256)})
    with pytest.raises(LoadError, match=rf"holds model\.layers\.1\.{name}, and transformers runs these layers without"):
        load(model=model)


def test_masks_that_former_releases_saved_are_no_weights(load: Load, changed: Callable[..., str]) -> None:
    masks = {
        "model.layers.0.self_attn.masked_bias": torch.tensor(-1e4),
        "model.layers.0.self_attn.bias": torch.ones(1, 1, 64, 64, dtype=torch.uint8),
    }
    load(model=changed(lambda tensors: tensors | masks))


def test_a_part_that_the_architecture_does_not_have_is_a_warning_of_the_load(
    load: Load, changed: Callable[..., str]
) -> None:
    further = {"vision.weight": torch.zeros(1), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(32)}
    model = load(model=changed(lambda tensors: tensors | further))
    (text,) = model.warnings
    assert text.startswith("transformers.modeling_utils: LlamaForCausalLM LOAD REPORT")
    assert "vision.weight" in text
    assert "inv_freq" not in text
