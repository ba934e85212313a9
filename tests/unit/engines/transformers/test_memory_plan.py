from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_llem.engines.transformers import memory_plan
from pytest_llem.engines.transformers.available_memory import Available
from pytest_llem.engines.transformers.memory_plan import (
    check_fits,
    predict,
    predict_weights,
)
from pytest_llem.errors import UnavailableError
from tests.unit.engines.transformers.conftest import HERE, experiment

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_llem.engines.base import MemoryPlan
    from pytest_llem.engines.transformers.engine import TransformersModel
    from tests.unit.engines.transformers.conftest import Load

CPU = torch.device("cpu")


def plan(**fields: Any) -> MemoryPlan:
    return predict(experiment(**fields), HERE)


def weights_bytes(model: Any) -> int:
    """Every tensor of a loaded model, and what bitsandbytes keeps beside its weights."""
    # Of a weight that is tied, the second name is not listed again.
    total: int = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            total += state.absmax.nbytes + (state.state2.absmax.nbytes if state.nested else 0)
        if getattr(parameter, "SCB", None) is not None:
            total += parameter.SCB.nbytes
    return total


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"precision": "bf16"},
        {"precision": "bf16", "pytorch": {"load_in_8bit": True}},
        {"precision": "bf16", "pytorch": {"load_in_4bit": True}},
        {"precision": "bf16", "pytorch": {"load_in_4bit": True, "bnb_4bit_use_double_quant": True}},
    ],
    ids=str,
)
def test_weights_are_predicted_to_the_byte(load: Load, fields: dict[str, Any]) -> None:
    assert plan(**fields).weights_bytes == weights_bytes(load(**fields).model)


def test_a_large_model_is_predicted_without_its_memory() -> None:
    predicted = plan(model="builtin:llama-8b", precision="bf16", pytorch={"batch_size": 4}, max_output_tokens=93)
    # 8 030 261 248 parameters of two bytes, and the fp32 frequencies of the rotary embedding, kept twice.
    assert predicted.weights_bytes == 2 * 8_030_261_248 + 2 * 64 * 4
    # Two tensors, 32 layers, 8 heads of 128, 8 + 93 - 1 tokens, two bytes, three prompts.
    assert predicted.kv_cache_bytes == 2 * 32 * 8 * 128 * 100 * 2 * 3
    assert predicted.total_bytes == predicted.weights_bytes + predicted.kv_cache_bytes
    assert predicted.reason is None


def test_random_weights_are_held_twice_while_they_are_quantised(saved_model: Path) -> None:
    large: dict[str, Any] = {"model": "builtin:llama-8b", "precision": "bf16"}
    drawn, quantised = (plan(**large, pytorch={"load_in_4bit": on}) for on in (False, True))
    assert drawn.weights_bytes is not None
    assert quantised.weights_bytes is not None
    assert quantised.total_bytes == drawn.weights_bytes + quantised.weights_bytes
    read = plan(model=str(saved_model), precision="bf16", pytorch={"load_in_8bit": True})
    assert read.loading_bytes == read.weights_bytes


def test_experiments_that_share_a_load_build_it_once() -> None:
    predict_weights.cache_clear()
    for batch_size in range(1, 20):
        plan(pytorch={"batch_size": batch_size})
    assert predict_weights.cache_info().misses == 1


def cache_bytes(cache: Any) -> int:
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def generated_cache(model: TransformersModel, /, **fields: Any) -> Any:
    caches: list[Any] = []
    original = model.model.generate

    def generate(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        caches.append(output.past_key_values)
        return output

    vars(model.model)["generate"] = generate
    try:
        model.prepare(experiment(**fields), HERE).run(0)
    finally:
        del vars(model.model)["generate"]
    return caches[0]


FULL = {"decoder": {"min_new_tokens": 6}}


@pytest.mark.parametrize(
    "pytorch",
    [
        {},
        {"batch_size": 2},
        {"batch_size": 8},
        {"batch_size": 2, "num_beams": 3},
        {"cache_implementation": "static", "batch_size": 3},
        {"num_return_sequences": 4},
    ],
    ids=str,
)
def test_the_cache_is_predicted_to_the_byte(tiny: TransformersModel, pytorch: dict[str, Any]) -> None:
    decoder = {"min_new_tokens": 6, "do_sample": "num_return_sequences" in pytorch}
    fields = {"pytorch": pytorch, "decoder": decoder}
    assert plan(**fields).kv_cache_bytes == cache_bytes(generated_cache(tiny, **fields))


@pytest.mark.parametrize(
    "heads",
    [{"multi_query": True}, {"multi_query": False}, {"new_decoder_architecture": True, "num_kv_heads": 2}],
    ids=str,
)
def test_heads_that_are_shared_without_a_number_count_once(load: Load, tmp_path: Path, heads: dict[str, Any]) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}
    ids = {"bos_token_id": 1, "eos_token_id": 2}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "falcon"} | sizes | ids | heads))
    fields = FULL | {"model": str(tmp_path), "weights": "random"}
    assert plan(**fields).kv_cache_bytes == cache_bytes(generated_cache(load(**fields), **fields))


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_a_sliding_window_bounds_the_cache(load: Load, tmp_path: Path, kind: str) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 64}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}
    window = {"model_type": "mistral", "sliding_window": 10, "bos_token_id": 1, "eos_token_id": 2}
    (tmp_path / "config.json").write_text(json.dumps(window | sizes | heads))
    fields = FULL | {"model": str(tmp_path), "weights": "random", "pytorch": {"cache_implementation": kind}}
    predicted = plan(**fields).kv_cache_bytes
    assert predicted == 2 * 2 * 1 * 8 * 10 * 4  # two tensors, layers, heads, head_dim, window instead of 13, fp32
    cache = generated_cache(load(**fields), **fields)
    # The tensors of the dynamic cache show one token less than they hold.
    assert predicted == sum(
        tensor.untyped_storage().nbytes() for layer in cache.layers for tensor in (layer.keys, layer.values)
    )


@pytest.mark.parametrize(
    ("pytorch", "expected"),
    [
        ({"use_cache": False}, 0),
        # Two of four layers are on the GPU at a time.
        ({"cache_implementation": "offloaded"}, 2 * 2 * 2 * 64 * 13 * 4),
        ({"cache_implementation": "quantized", "cache_config": {"backend": "fp8"}}, None),
    ],
    ids=str,
)
def test_caches_of_another_kind(pytorch: dict[str, Any], expected: int | None) -> None:
    predicted = plan(pytorch=pytorch)
    assert predicted.kv_cache_bytes == expected
    assert (predicted.reason is None) == (expected is not None) == (predicted.total_bytes is not None)


def test_an_assistant_counts() -> None:
    alone, assisted = plan(), plan(pytorch={"assistant_model": "builtin:tiny-llama"})
    assert alone.weights_bytes is not None
    assert assisted.weights_bytes == 2 * alone.weights_bytes


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"model": "nobody/nothing"}, "model 'nobody/nothing'"),
        ({"pytorch": {"assistant_model": "nobody/nothing"}}, "assistant_model: model 'nobody/nothing'"),
    ],
)
def test_what_is_unknown_has_a_reason(fields: dict[str, Any], reason: str) -> None:
    predicted = plan(**fields)
    assert predicted.weights_bytes is None
    assert predicted.total_bytes is None
    assert reason in str(predicted.reason)


def test_a_quantised_checkpoint_is_unknown(tmp_path: Path, saved_model: Path) -> None:
    config = json.loads((saved_model / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    predicted = plan(model=str(tmp_path))
    assert predicted.weights_bytes is None
    assert predicted.kv_cache_bytes is not None
    assert predicted.reason == "not predicted for a checkpoint that is quantised already"


def test_too_little_memory_is_said_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_plan, "available", lambda _: Available(5 * 2**30))
    check_fits(5 * 2**30, CPU, "the experiment")
    with pytest.raises(UnavailableError, match=r"would take 5\.50 GiB, but cpu has 5\.00 GiB available"):
        check_fits(11 * 2**29, CPU, "the experiment")
    monkeypatch.setattr(memory_plan, "available", lambda _: Available(2**30, "limited by X"))
    with pytest.raises(UnavailableError, match=r"but cpu has 1\.00 GiB available \(limited by X\)$"):
        check_fits(2**31, CPU, "the experiment")


def test_weights_that_do_not_fit_are_not_loaded(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr("pytest_llem.engines.transformers.engine.load_weights", fail)
    monkeypatch.setattr(memory_plan, "available", lambda _: Available(2**30))
    with pytest.raises(UnavailableError, match=r"^model .builtin:llama-8b.: the weights would take 15\.0 GiB"):
        load(model="builtin:llama-8b", precision="bf16")


def test_a_cache_that_does_not_fit_is_not_filled(tiny: TransformersModel, monkeypatch: pytest.MonkeyPatch) -> None:
    # Two tensors, four layers, two heads of 64, 8 + 6 - 1 tokens, fp32.
    monkeypatch.setattr(memory_plan, "available", lambda _: Available(2 * 4 * 2 * 64 * 13 * 4))
    tiny.prepare(experiment(), HERE)
    with pytest.raises(UnavailableError, match="the key-value cache would take"):
        tiny.prepare(experiment(pytorch={"batch_size": 2}), HERE)


def test_a_batch_is_no_larger_than_the_prompts_that_are_chosen() -> None:
    dataset = {"builtin": "natural", "n": 2}
    few, two = (plan(dataset=dataset, pytorch={"batch_size": size}).kv_cache_bytes for size in (8, 2))
    assert few == two
    assert plan(dataset="natural", pytorch={"batch_size": 8}).kv_cache_bytes != two
