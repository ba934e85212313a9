from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_llem.engines.transformers.checks import check_loaded, placement
from pytest_llem.errors import LoadError, UnavailableError
from tests.unit.engines.transformers.conftest import HERE, experiment

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_llem.engines.transformers.engine import TransformersModel
    from tests.unit.engines.transformers.conftest import Load

CPU = torch.device("cpu")


def check(model: TransformersModel, /, device: torch.device = CPU, **fields: Any) -> None:
    """Ask of a model that is there already what ``fields`` say."""
    load = experiment(**fields).load_config(HERE)
    check_loaded(model.model, load, load.pytorch, device)


def test_what_was_asked_for_passes(tiny: TransformersModel) -> None:
    check(tiny, pytorch={"attn_implementation": "sdpa"})
    assert placement(tiny.model) == {"cpu"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"precision": "bf16"}, r"^precision 'bf16': \S+ is torch\.float32"),
        ({"pytorch": {"attn_implementation": "eager"}}, "the model uses 'sdpa' instead"),
        ({"pytorch": {"load_in_4bit": True}}, "load_in_4bit: no layer"),
        ({"pytorch": {"load_in_8bit": True}}, "load_in_8bit: no layer"),
    ],
    ids=["precision", "attention", "4bit", "8bit"],
)
def test_a_difference_is_refused(tiny: TransformersModel, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(LoadError, match=message):
        check(tiny, **fields)


def test_weights_on_the_cpu_are_refused_in_a_run_on_the_gpu(tiny: TransformersModel) -> None:
    gpu = torch.device("cuda", 0)
    for options in ({}, {"device_map": {"": "cpu"}}):
        with pytest.raises(LoadError, match="runs on cuda, but the model lies on cpu"):
            check(tiny, device=gpu, pytorch=options)


def test_a_part_on_the_cpu_must_be_asked_for(tiny: TransformersModel, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(tiny.model, "hf_device_map", {"model": 0, "lm_head": "cpu"}, raising=False)
    with pytest.raises(LoadError, match="device_map: part of the model lies on cpu, which it does not name"):
        check(tiny, device=gpu, pytorch={"device_map": "auto"})
    check(tiny, device=gpu, pytorch={"device_map": {"model": 0, "lm_head": "cpu"}})
    check(tiny, device=gpu, pytorch={"device_map": "auto", "max_memory": {0: "1GiB", "cpu": "1GiB"}})


def test_offloaded_weights_are_found_in_the_map(tiny: TransformersModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny.model, "hf_device_map", {"model": 0, "lm_head": "disk"}, raising=False)
    assert placement(tiny.model) == {"cuda:0", "disk"}
    with pytest.raises(LoadError, match=r"lies on disk, .*device_map"):
        check(tiny, device=torch.device("cuda", 0))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_what_stays_in_fp32_is_what_the_library_keeps_so(load: Load, tmp_path: Path, precision: str) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "moe_intermediate_size": 16, "vocab_size": 64, "head_dim": 8}
    counts = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "n_routed_experts": 4}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "glm4_moe"} | sizes | counts))
    fields: dict[str, Any] = {"model": str(tmp_path), "weights": "random", "precision": precision}
    model = load(**fields)
    layer = model.model.model.layers[1]
    router = layer.mlp.gate
    assert router.weight.dtype == torch.float32
    for odd, own in ((router, torch.float32), (layer.self_attn.q_proj, layer.self_attn.q_proj.weight.dtype)):
        odd.weight.data = odd.weight.data.to({torch.float32: torch.bfloat16}.get(own, torch.float32))
        with pytest.raises(LoadError, match=rf"precision .{precision}.: model\.layers\.1\..*weight is"):
            check(model, **fields)
        odd.weight.data = odd.weight.data.to(own)
    check(model, **fields)


class TestQuantised:
    def test_each_4bit_option_is_compared(self, load: Load) -> None:
        options = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
        model = load(precision="bf16", pytorch=options)
        check(model, precision="bf16", pytorch=options)
        different: list[tuple[str, Any]] = [
            ("bnb_4bit_quant_type", "fp4"),
            ("bnb_4bit_use_double_quant", True),
            ("bnb_4bit_compute_dtype", "bfloat16"),  # unset, it is float32
        ]
        for field, value in different:
            with pytest.raises(LoadError, match=f"{field} .*: the model's layers show"):
                check(model, precision="bf16", pytorch=options | {field: value})
        with pytest.raises(LoadError, match="precision 'fp32'"):
            check(model, precision="fp32", pytorch=options)

    def test_a_layer_left_out_is_found(self, load: Load) -> None:
        options = {"load_in_8bit": True}
        model = load(pytorch=options)
        model.model.model.layers[2].mlp.up_proj = torch.nn.Linear(256, 768, bias=False)
        with pytest.raises(LoadError, match=r"1 layers are not quantised, 'model\.layers\.2\.mlp\.up_proj'"):
            check(model, pytorch=options)

    @pytest.mark.parametrize("field", ["load_in_4bit", "load_in_8bit"])
    def test_experts_that_are_no_layers_are_found(self, load: Load, tmp_path: Path, field: str) -> None:
        sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "vocab_size": 64}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 4}
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "mixtral"} | sizes | heads))
        with pytest.raises(LoadError, match=rf"{field}: \d\d% of the bytes .*experts\.gate_up_proj' among them;"):
            load(tmp_path, model=str(tmp_path), weights="random", precision="bf16", pytorch={field: True})

    def test_sizes_that_this_cpu_cannot_pack_are_refused(self, load: Load, one_layer: str) -> None:
        from bitsandbytes.functional import has_avx512bf16

        fields: dict[str, Any] = {"model": one_layer, "weights": "random", "pytorch": {"load_in_4bit": True}}
        if not has_avx512bf16():  # type: ignore[no-untyped-call]
            load(**fields).prepare(experiment(**fields), HERE).run(0)
            return
        with pytest.raises(UnavailableError, match=r"outputs divide by 32 and inputs by 64; 'model\.layers\.0\."):
            load(**fields)
