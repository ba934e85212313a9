from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers.cache_utils import DynamicCache, QuantizedCache, StaticCache

from pytest_llem.engines.transformers.caches import check_cache
from pytest_llem.engines.transformers.generation import (
    Generation,
    SpecialTokens,
    build_generation,
    check_resolved,
    neutral_generation,
    special_tokens,
)
from pytest_llem.errors import MeasurementError, UnavailableError
from tests.unit.engines.transformers.conftest import HERE, experiment

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_llem.engines.transformers.engine import TransformersModel
    from tests.unit.engines.transformers.conftest import Load

SPECIAL = SpecialTokens(bos=256, eos=(257,), pad=258)


def build(**fields: Any) -> Generation:
    return build_generation(experiment(**fields), SPECIAL, cuda=False)


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_cuda_graphs_need_a_cache_that_does_not_grow(mode: str) -> None:
    options = {"torch_compile": True, "torch_compile_mode": mode}
    for cache in ({}, {"cache_implementation": "dynamic"}):
        config = experiment(pytorch=options | cache)
        with pytest.raises(
            UnavailableError, match=r"set cache_implementation: static, or .* max-autotune-no-cudagraphs"
        ):
            build_generation(config, SPECIAL, cuda=True)
        assert not build_generation(config, SPECIAL, cuda=False).cuda_graphs
    for able in ({"cache_implementation": "static"}, {"use_cache": False}):
        assert build_generation(experiment(pytorch=options | able), SPECIAL, cuda=True).cuda_graphs
    for without in ({"torch_compile_mode": "max-autotune-no-cudagraphs"}, {"torch_compile_backend": "eager"}):
        assert not build_generation(experiment(pytorch=options | without), SPECIAL, cuda=True).cuda_graphs


@pytest.mark.parametrize(
    ("fields", "option", "value"),
    [
        ({"max_output_tokens": 9}, "max_new_tokens", 9),
        ({"decoder": {"do_sample": True}}, "do_sample", True),
        ({"decoder": {"do_sample": True, "temperature": 2}}, "temperature", 2.0),
        ({"decoder": {"do_sample": True, "top_k": 3}}, "top_k", 3),
        ({"decoder": {"do_sample": True, "top_p": 0.5}}, "top_p", 0.5),
        ({"decoder": {"do_sample": True, "min_p": 0.1}}, "min_p", 0.1),
        ({"decoder": {"repetition_penalty": 1.2}}, "repetition_penalty", 1.2),
        ({"decoder": {"min_new_tokens": 4}}, "min_new_tokens", 4),
        ({"decoder": {"preset": "creative"}}, "temperature", 0.8),
        ({"decoder": {"preset": "creative", "top_p": 0.7}}, "top_p", 0.7),
        ({"decoder": {"preset": "deterministic"}}, "do_sample", False),
        ({"pytorch": {"use_cache": False}}, "use_cache", False),
        ({"pytorch": {"cache_implementation": "static"}}, "cache_implementation", "static"),
        ({"pytorch": {"num_beams": 2}}, "num_beams", 2),
        ({"pytorch": {"num_beams": 2, "early_stopping": "never"}}, "early_stopping", "never"),
        ({"pytorch": {"num_beams": 2, "length_penalty": 0.5}}, "length_penalty", 0.5),
        ({"pytorch": {"no_repeat_ngram_size": 2}}, "no_repeat_ngram_size", 2),
        ({"pytorch": {"prompt_lookup_num_tokens": 3}}, "prompt_lookup_num_tokens", 3),
        ({"pytorch": {"torch_compile": False}}, "disable_compile", True),
        ({"passthrough": {"generate": {"suppress_tokens": [1]}}}, "suppress_tokens", [1]),
    ],
)
def test_each_field_reaches_the_config_that_generate_resolves(
    tiny: TransformersModel, fields: dict[str, Any], option: str, value: object
) -> None:
    generation = build(**fields)
    check_resolved(tiny.model, generation)
    with neutral_generation(tiny.model):
        resolved, unused = tiny.model._prepare_generation_config(generation.config)
    assert getattr(resolved, option) == value
    assert unused == {}


def test_an_integer_temperature_samples(tiny: TransformersModel) -> None:
    workload = tiny.prepare(experiment(decoder={"do_sample": True, "temperature": 2}), HERE)
    assert workload.run(0).shape[0] == 1


def test_the_defaults_of_the_models_own_files_do_not_leak_in(
    load: Load, saved_model: Path, tiny: TransformersModel, tmp_path: Path
) -> None:
    saved = load(model=str(saved_model))
    own = saved.model.generation_config.to_dict()
    assert own["do_sample"]  # the file was read: there is something that could leak
    (tmp_path / "p.txt").write_text("one\nanother\n")
    # The tokens that end a sequence are the model's own; they are made the same here.
    fields = {"dataset": {"path": "p.txt"}, "passthrough": {"generate": {"eos_token_id": 257}}}
    ours, theirs = (model.prepare(experiment(**fields), tmp_path) for model in (tiny, saved))
    for index in range(ours.calls):
        assert torch.equal(ours.run(index), theirs.run(index))
    assert saved.model.generation_config.to_dict() == own


def test_special_tokens_are_the_models_own(load: Load, saved_model: Path) -> None:
    saved = load(model=str(saved_model))
    assert special_tokens(saved.model, saved.tokenizer) == SpecialTokens(bos=256, eos=(257, 17), pad=258)


def test_a_padding_token_is_found_where_the_model_has_none(load: Load, one_layer: str) -> None:
    model = load(model=one_layer, weights="random")
    assert special_tokens(model.model, None) == SpecialTokens(bos=1, eos=(2,), pad=2)


@pytest.mark.parametrize("pad", [-1, 64])
def test_a_padding_token_without_an_embedding_is_not_used(
    load: Load, one_layer: str, monkeypatch: pytest.MonkeyPatch, pad: int
) -> None:
    model = load(model=one_layer, weights="random")
    monkeypatch.setattr(model.model.config, "pad_token_id", pad)
    assert special_tokens(model.model, None).pad == 2
    # Nor is an end of sequence without one.
    monkeypatch.setattr(model.model.generation_config, "eos_token_id", [64, 3])
    assert special_tokens(model.model, None).pad == 3


def test_a_difference_between_asked_and_resolved_is_a_failure(
    tiny: TransformersModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation = build()
    original = tiny.model._prepare_generation_config

    def leaking(*args: Any, **kwargs: Any) -> Any:
        resolved, unused = original(*args, **kwargs)
        resolved.repetition_penalty = 1.5
        return resolved, unused

    monkeypatch.setitem(vars(tiny.model), "_prepare_generation_config", leaking)
    with pytest.raises(MeasurementError, match=r"with repetition_penalty 1\.5 instead of 1\.0"):
        check_resolved(tiny.model, generation)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"is_assistant": True}, "is set by the measurement itself"),
        ({"pad_token_id": -1}, "contradict each other: .*pad_token_id"),
        ({"forced_bos_token_id": 1}, "no effect on a decoder-only model"),
        ({"continuous_batching_config": {}}, "transformers ignores it"),
        ({"low_memory": True}, "transformers ignores it"),
        ({"token_healing": True}, "would change the prompts"),
        ({"target_lookbehind": 3}, "which is refused"),
        ({"max_cache_len": 64}, "no effect without a static cache"),
        ({"max_matching_ngram_size": 3}, "no effect without pytorch.prompt_lookup_num_tokens"),
        ({"assistant_confidence_threshold": 0.1}, "no effect without pytorch.assistant_model"),
        ({"typical_p": 1.4}, r"must be above 0 and below 1, or 1 for off, got 1\.4"),
        ({"epsilon_cutoff": 2}, "must be above 0 and below 1, or 0 for off, got 2"),
        ({"eta_cutoff": "0.1"}, "must be above 0 and below 1, or 0 for off, got '0.1'"),
    ],
)
def test_arguments_that_could_not_be_carried_out_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MeasurementError, match=message) as error:
        build(decoder={"do_sample": True}, passthrough={"generate": arguments})
    assert "\n" not in str(error.value)


def test_an_argument_that_generate_does_not_know_is_a_failure(tiny: TransformersModel) -> None:
    workload = tiny.prepare(experiment(passthrough={"generate": {"nonsense": 1}}), HERE)
    with pytest.raises(MeasurementError, match="nonsense"):
        workload.run(0)


@pytest.mark.parametrize("arguments", [{"typical_p": 1.0}, {"epsilon_cutoff": 0.0, "eta_cutoff": 0.5}])
def test_a_cutoff_that_is_off_or_acts_is_passed_on(arguments: dict[str, Any]) -> None:
    config = build(decoder={"do_sample": True}, passthrough={"generate": arguments}).config
    assert arguments.items() <= config.to_dict().items()


def test_attention_weights_come_out_of_eager_attention_alone(tiny: TransformersModel, load: Load) -> None:
    asked = experiment(passthrough={"generate": {"output_attentions": True}})
    with pytest.raises(MeasurementError, match="output_attentions: sdpa attention gives no weights out; set pytorch"):
        tiny.prepare(asked, HERE)
    load(pytorch={"attn_implementation": "eager"}).prepare(asked, HERE).run(0)


@pytest.mark.parametrize("cache", ["offloaded", "offloaded_static"])
def test_offloaded_caches_need_a_gpu(cache: str) -> None:
    with pytest.raises(UnavailableError, match=f"'{cache}': needs a CUDA GPU"):
        build(pytorch={"cache_implementation": cache})


@pytest.mark.parametrize(("backend", "package"), [(None, "optimum-quanto"), ("hqq", "hqq")])
def test_a_missing_cache_package_is_named(monkeypatch: pytest.MonkeyPatch, backend: str | None, package: str) -> None:
    monkeypatch.setattr("pytest_llem.engines.transformers.requirements.installed", lambda _: False)
    cache_config = {"cache_config": {"backend": backend}} if backend else {}
    with pytest.raises(UnavailableError, match=f"pip install {package}"):
        build(pytorch={"cache_implementation": "quantized"} | cache_config)


def test_arguments_that_act_beside_a_field_are_passed_on() -> None:
    static = build(pytorch={"cache_implementation": "static"}, passthrough={"generate": {"max_cache_len": 64}})
    assert static.config.max_cache_len == 64
    lookup = build(pytorch={"prompt_lookup_num_tokens": 2}, passthrough={"generate": {"max_matching_ngram_size": 3}})
    assert lookup.config.max_matching_ngram_size == 3


@pytest.mark.parametrize(
    ("pytorch", "cache", "ok"),
    [
        ({}, DynamicCache(), True),
        ({"cache_implementation": "dynamic"}, DynamicCache(), True),
        ({"cache_implementation": "static"}, DynamicCache(), False),
        ({"cache_implementation": "dynamic"}, None, False),
        ({"use_cache": False}, None, True),
        ({"use_cache": False}, DynamicCache(), False),
    ],
)
def test_another_cache_than_asked_for_is_a_failure(
    pytorch: dict[str, Any], cache: DynamicCache | None, ok: bool
) -> None:
    generation = build(pytorch=pytorch)
    if ok:
        check_cache(generation.config, cache)
    else:
        with pytest.raises(
            MeasurementError, match=r"^pytorch\.(use_cache|cache_implementation) .*: generate\(\) used \w+"
        ):
            check_cache(generation.config, cache)


def test_a_static_cache_is_recognised(tiny: TransformersModel) -> None:
    generation = build(pytorch={"cache_implementation": "static"})
    check_cache(generation.config, StaticCache(config=tiny.model.config, max_cache_len=8))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"decoder": {"min_new_tokens": 6}}, 6),
        ({"decoder": {"min_new_tokens": 5}}, None),
        ({"passthrough": {"generate": {"eos_token_id": None}}}, 6),
        ({"decoder": {"min_new_tokens": 6}, "passthrough": {"generate": {"max_time": 9.0}}}, None),
    ],
)
def test_fixed_new_tokens(fields: dict[str, Any], expected: int | None) -> None:
    assert build(**fields).fixed_new_tokens == expected


def test_without_an_end_of_sequence_token_the_length_is_exact(
    tiny: TransformersModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first token that the model chooses ends its sequences, unless the file says that nothing does.
    (tmp_path / "p.txt").write_text("a prompt\n")
    dataset = {"path": str(tmp_path / "p.txt")}
    first = tiny.prepare(experiment(dataset=dataset), HERE)
    end = first.output_tokens(0, first.run(0))[0][0]
    monkeypatch.setattr(tiny.model.generation_config, "eos_token_id", end)
    short = tiny.prepare(experiment(dataset=dataset), HERE)
    assert short.output_tokens(0, short.run(0)) == [[end]]
    whole = tiny.prepare(experiment(dataset=dataset, passthrough={"generate": {"eos_token_id": None}}), HERE)
    assert len(whole.output_tokens(0, whole.run(0))[0]) == 6
    assert whole.expected_output_tokens == 6


def test_a_compilation_that_was_switched_off_is_a_failure(
    tiny: TransformersModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload = tiny.prepare(experiment(pytorch={"disable_compile": True}), HERE)
    state = vars(tiny.model)
    original = tiny.model.generate

    def compiling(**kwargs: Any) -> Any:
        state["_compiled_call"] = original
        return original(**kwargs)

    monkeypatch.setitem(state, "generate", compiling)
    with pytest.raises(MeasurementError, match="disable_compile true: generate\\(\\) compiled the model"):
        workload.run(0)
    state.pop("_compiled_call")


@pytest.mark.parametrize(
    ("shown", "message"),
    [
        ({"backend": "fp8"}, None),
        ({}, r"backend 'quanto': generate\(\) used Fp8QuantizedLayer"),
        ({"backend": "fp8", "fp8_max": 1}, "fp8_max 1: the cache shows 448"),
    ],
)
def test_a_quantised_cache_of_another_kind_is_a_failure(
    tiny: TransformersModel, shown: dict[str, Any], message: str | None
) -> None:
    config = build(pytorch={"cache_implementation": "quantized", "cache_config": {"backend": "fp8"}}).config
    cache = QuantizedCache("fp8", tiny.model.config)
    config.cache_config = shown
    if message is None:
        check_cache(config, cache)
    else:
        with pytest.raises(MeasurementError, match=message):
            check_cache(config, cache)
