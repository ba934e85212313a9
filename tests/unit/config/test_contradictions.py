"""What transformers ignores in silence, or refuses once the model is loaded, is refused in the file."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pytest_llem.config import DecoderConfig, ExperimentConfig, PyTorchConfig
from pytest_llem.config.kv_cache import QUANTIZED_CACHE_TAKES


def experiment(**values: Any) -> ExperimentConfig:
    return ExperimentConfig.model_validate({"model": "gpt2", **values})


def errors(**values: Any) -> list[tuple[str, str, str]]:
    with pytest.raises(ValidationError) as caught:
        experiment(**values)
    return [(".".join(map(str, e["loc"])), e["type"], e["msg"]) for e in caught.value.errors()]


@pytest.mark.parametrize(
    ("values", "field", "message"),
    [
        (
            {"chat": True},
            "chat",
            "needs prompts that are text, but synthetic prompts are token ids; set dataset: natural or a file of "
            "prompts, or remove chat",
        ),
        (
            {"template_date": "2026-05-01", "dataset": "natural"},
            "template_date",
            "has no effect without a chat template; set chat: true or remove it",
        ),
        (
            {"passthrough": {"generate": {"typical_p": 0.5}}},
            "passthrough.generate.typical_p",
            "has no effect without sampling; set decoder.do_sample: true or remove it",
        ),
        (
            {"pytorch": {"num_return_sequences": 2}},
            "pytorch.num_return_sequences",
            "2 sequences of one greedy search would be the same; set decoder.do_sample: true, num_beams: 2, or 1",
        ),
        (
            {"decoder": {"do_sample": True}, "pytorch": {"num_return_sequences": 4, "num_beams": 3}},
            "pytorch.num_return_sequences",
            "4 is above num_beams (3); lower it or raise num_beams",
        ),
        (
            {"decoder": {"stop_strings": ["x"]}, "pytorch": {"batch_size": 2}},
            "decoder.stop_strings",
            "does not work with batch_size 2, as tokens after the end of a sequence could not be told from its own; "
            "set batch_size: 1",
        ),
        (
            {"decoder": {"stop_strings": ["x"]}, "pytorch": {"num_beams": 2, "num_return_sequences": 2}},
            "decoder.stop_strings",
            "does not work with num_return_sequences 2, as tokens after the end of a sequence could not be told from "
            "its own; set num_return_sequences: 1",
        ),
        (
            {"pytorch": {"assistant_model": "a", "batch_size": 2}},
            "pytorch.assistant_model",
            "does not work with batch_size 2; set batch_size: 1",
        ),
        (
            {"pytorch": {"assistant_model": "a", "num_beams": 2}},
            "pytorch.assistant_model",
            "does not work with 2 beams; set num_beams: 1",
        ),
        (
            {"pytorch": {"assistant_model": "a", "cache_implementation": "static"}},
            "pytorch.assistant_model",
            "does not work with the static cache; use cache_implementation: dynamic",
        ),
        (
            {"pytorch": {"prompt_lookup_num_tokens": 2, "cache_implementation": "quantized"}},
            "pytorch.prompt_lookup_num_tokens",
            "does not work with the quantized cache; use cache_implementation: dynamic",
        ),
        (
            {"pytorch": {"assistant_model": "a", "use_cache": False}},
            "pytorch.assistant_model",
            "does not work with use_cache: false; remove it",
        ),
        (
            {"decoder": {"do_sample": True}, "pytorch": {"prompt_lookup_num_tokens": 2, "num_return_sequences": 2}},
            "pytorch.prompt_lookup_num_tokens",
            "does not work with 2 returned sequences; set num_return_sequences: 1",
        ),
        (
            {"pytorch": {"assistant_model": "a", "prompt_lookup_num_tokens": 2}},
            "pytorch.assistant_model",
            "excludes prompt_lookup_num_tokens: only one can draft; remove one",
        ),
        (
            {"device": "cpu", "pytorch": {"attn_implementation": "flash_attention_2"}},
            "pytorch.attn_implementation",
            "flash_attention_2 needs a GPU, but device is cpu; use sdpa or eager",
        ),
        (
            {"precision": "fp32", "pytorch": {"attn_implementation": "flash_attention_3"}},
            "pytorch.attn_implementation",
            "flash_attention_3 computes in fp16 and bf16 only, but precision is fp32; use sdpa, or precision: bf16",
        ),
        (
            {"device": "cpu", "precision": "fp32", "pytorch": {"allow_tf32": True}},
            "pytorch.allow_tf32",
            "has no effect on the CPU, but device is cpu; remove it",
        ),
        (
            {"device": "cpu", "pytorch": {"disable_compile": False, "cache_implementation": "static"}},
            "pytorch.disable_compile",
            "generate() compiles nothing on the CPU, but device is cpu; remove it",
        ),
        (
            {"device": "cpu", "pytorch": {"device_map": "cuda:0"}},
            "pytorch.device_map",
            "places modules on a GPU, but device is cpu; change one of the two",
        ),
        (
            {"device": "cpu", "pytorch": {"device_map": {"model": "cpu", "lm_head": 0}}},
            "pytorch.device_map",
            "places modules on a GPU, but device is cpu; change one of the two",
        ),
        (
            {"device": "cuda", "pytorch": {"device_map": {"": "cpu"}}},
            "pytorch.device_map",
            "places nothing on a GPU, but device is cuda; change one of the two",
        ),
        (
            {"device": "cpu", "pytorch": {"device_map": "auto", "max_memory": {0: "1GiB", "cpu": "1GiB"}}},
            "pytorch.max_memory",
            "bounds the memory of a GPU, but device is cpu; remove that bound",
        ),
        *(
            (
                {"max_output_tokens": 1, "pytorch": {field: value}},
                f"pytorch.{field}",
                "has no effect with max_output_tokens: 1, which leaves nothing to draft; raise it or remove this",
            )
            for field, value in (("prompt_lookup_num_tokens", 2), ("assistant_model", "a"))
        ),
        *(
            (
                {"model": "builtin:tiny-llama", "pytorch": {"trust_remote_code": True, **beside}},
                "pytorch.trust_remote_code",
                "has no effect on a built-in model, which brings no code; remove it",
            )
            for beside in ({}, {"assistant_model": "builtin:tiny-llama", "attn_implementation": "eager"})
        ),
        *(
            (
                {"precision": precision, "pytorch": {"allow_tf32": True, **beside}},
                "pytorch.allow_tf32",
                f"has no effect on matrix products in {precision}; set precision: fp32 or remove it",
            )
            for precision, beside in (
                ("bf16", {}),
                ("fp16", {"load_in_8bit": True}),
                ("bf16", {"load_in_4bit": True, "bnb_4bit_compute_dtype": "bfloat16"}),
            )
        ),
    ],
    ids=str,
)
def test_refuses_with_the_way_out(values: dict[str, Any], field: str, message: str) -> None:
    assert errors(**values) == [(field, "contradiction", message)]


@pytest.mark.parametrize(
    "values",
    [
        {"chat": True, "dataset": "natural", "template_date": "2026-05-01"},
        {"chat": False},
        {"decoder": {"do_sample": True}, "passthrough": {"generate": {"typical_p": 0.5}}},
        {"decoder": {"do_sample": True}, "pytorch": {"num_return_sequences": 3}},
        {"pytorch": {"num_return_sequences": 2, "num_beams": 2}},
        {"pytorch": {"num_return_sequences": 1}},
        {"decoder": {"stop_strings": ["x"]}, "pytorch": {"num_beams": 2, "batch_size": 1}},
        {"decoder": {"do_sample": True}, "pytorch": {"assistant_model": "a", "cache_implementation": "offloaded"}},
        {"precision": "fp32", "pytorch": {"attn_implementation": "flex_attention", "load_in_4bit": True}},
        {"device": "cpu", "pytorch": {"allow_tf32": False, "disable_compile": True, "device_map": {"": "cpu"}}},
        {"device": "cuda", "pytorch": {"device_map": {"model": "cpu", "lm_head": 0}}},
        {"device": "cpu", "pytorch": {"device_map": "auto", "max_memory": {"cpu": "1GiB"}}},
        {"max_output_tokens": 2, "pytorch": {"prompt_lookup_num_tokens": 2}},
        {"model": "builtin:tiny-llama", "pytorch": {"trust_remote_code": False}},
        {"model": "builtin:tiny-llama", "pytorch": {"trust_remote_code": True, "attn_implementation": "org/kernel"}},
        {"model": "builtin:tiny-llama", "pytorch": {"trust_remote_code": True, "assistant_model": "a"}},
        {"precision": "fp32", "pytorch": {"allow_tf32": True}},
        {"pytorch": {"allow_tf32": False}},
        {"pytorch": {"allow_tf32": True, "load_in_4bit": True}},
        {"pytorch": {"allow_tf32": True, "load_in_4bit": True, "bnb_4bit_compute_dtype": "float32"}},
    ],
    ids=str,
)
def test_takes(values: dict[str, Any]) -> None:
    experiment(**values)


_OPTIONS: dict[str, list[Any]] = {
    "do_sample": [None, True, False],
    "temperature": [None, 0.7, 1.0],
    "top_k": [None, 0, 5],
    "top_p": [None, 0.5],
    "min_p": [None, 0.1],
    "num_beams": [None, 1, 2],
    "early_stopping": [None, True, False, "never"],
    "length_penalty": [None, 0.5],
    "num_return_sequences": [None, 1, 2, 3],
    "use_cache": [None, True, False],
    "cache_implementation": [None, "static", "dynamic", "quantized", "offloaded_static", "hybrid", "nonsense"],
    "cache_config": [None, {}, {"nbits": 2}],
    "typical_p": [None, 0.5],
    "epsilon_cutoff": [None, 0.1],
}


@settings(max_examples=400, deadline=None)
@given(st.fixed_dictionaries({name: st.sampled_from(values) for name, values in _OPTIONS.items()}))
def test_what_the_strict_validation_of_transformers_refuses_is_refused(options: dict[str, Any]) -> None:
    from transformers import GenerationConfig

    options = {name: value for name, value in options.items() if value is not None}
    sections: dict[str, Any] = {"decoder": {}, "pytorch": {}, "passthrough": {"generate": {}}}
    for name, value in options.items():
        if name in DecoderConfig.model_fields:
            sections["decoder"][name] = value
        elif name in PyTorchConfig.model_fields:
            sections["pytorch"][name] = value
        else:
            sections["passthrough"]["generate"][name] = value
    try:
        GenerationConfig(**options).validate(strict=True)  # type: ignore[no-untyped-call]
    except ValueError:
        with pytest.raises(ValidationError):
            experiment(**sections)


def test_attention_and_cache_names_are_those_of_transformers() -> None:
    from transformers.generation.configuration_utils import ALL_CACHE_IMPLEMENTATIONS
    from transformers.modeling_utils import AttentionInterface

    from pytest_llem.config.kv_cache import MISLEADING_CACHES, CacheImplementation
    from pytest_llem.config.pytorch import ATTENTION

    names = AttentionInterface().valid_keys()  # type: ignore[no-untyped-call]
    known = {name for name in names if not name.startswith("paged|")}
    assert {*known, "eager"} == set(ATTENTION)
    assert {*CacheImplementation.__args__, *MISLEADING_CACHES} == {*ALL_CACHE_IMPLEMENTATIONS, "paged"}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "is_kernel"),
    [
        ("org/repo", True),
        ("org/repo@v1:fn", True),
        ("org/repo:fn", True),
        ("org/repo@v1", True),
        ("a/b/c", False),
        ("sdpa", False),
        ("org/", False),
        ("org/a:b:c", False),
    ],
)
def test_kernels_of_the_hub_are_told_as_transformers_tells_them(name: str, is_kernel: bool) -> None:
    from transformers.integrations.hub_kernels import is_kernel as transformers_tells

    from pytest_llem.config.pytorch import HUB_KERNEL

    assert transformers_tells(name) == is_kernel == bool(HUB_KERNEL.fullmatch(name))


@pytest.mark.parametrize("backend", ["quanto", "hqq", "fp8"])
def test_options_of_the_quantised_cache_are_those_of_transformers(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every combination is refused here exactly where transformers refuses it."""
    from transformers import LlamaConfig, cache_utils

    # The packages that quantise are not installed; what they would be asked to do is checked before they are used.
    monkeypatch.setattr(cache_utils, "is_hqq_available", lambda: True)
    layer = {"hqq": "HQQQuantizedLayer", "fp8": "Fp8QuantizedLayer"}.get(backend)
    if layer is None:
        pytest.importorskip("optimum.quanto")
    model = LlamaConfig(num_hidden_layers=1)
    assert set(QUANTIZED_CACHE_TAKES) == {"quanto", "hqq", "fp8"}
    for nbits, axis_key, axis_value, group in itertools.product(
        (None, 1, 2, 3, 4, 5, 8), (None, -1, 0, 1), (None, -1, 0, 1), (None, 64)
    ):
        given_options = {"nbits": nbits, "axis_key": axis_key, "axis_value": axis_value, "q_group_size": group}
        options = {name: value for name, value in given_options.items() if value is not None}
        try:
            cache_utils.QuantizedCache(backend=backend, config=model, **options)
            refused = False
        except (ValueError, NameError) as error:
            refused = isinstance(error, ValueError)
        pytorch = {"cache_implementation": "quantized", "cache_config": {"backend": backend, **options}}
        if refused:
            assert errors(pytorch=pytorch)
        else:
            experiment(pytorch=pytorch)
