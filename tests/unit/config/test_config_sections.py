"""The sections of an experiment one by one: what they take, what they refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import pytest
from pydantic import ValidationError

from pytest_llem.config import DecoderConfig, ExperimentConfig, MeasureConfig, Passthrough, PyTorchConfig, stage_of
from pytest_llem.config.base import Stage
from pytest_llem.config.names import fields, sections

if TYPE_CHECKING:
    from pydantic import BaseModel


def error_types(section: type[BaseModel], **values: Any) -> list[tuple[str, str]]:
    with pytest.raises(ValidationError) as caught:
        section.model_validate(values)
    return [(".".join(map(str, error["loc"])), error["type"]) for error in caught.value.errors()]


def quantized(**cache_config: Any) -> dict[str, Any]:
    return {"cache_implementation": "quantized", "cache_config": cache_config}


def test_every_pytorch_field_defaults_to_none() -> None:
    assert set(PyTorchConfig().model_dump().values()) == {None}


@pytest.mark.parametrize(
    "values",
    [
        {"attn_implementation": "flash_attention_3"},
        {"attn_implementation": "flex_attention"},
        {"load_in_4bit": True, "bnb_4bit_compute_dtype": "bfloat16"},
        {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True},
        {"load_in_4bit": False, "load_in_8bit": True},
        {"torch_compile": True, "torch_compile_mode": "max-autotune"},
        {"torch_compile": True, "torch_compile_backend": "a_backend_of_tomorrow"},
        {"use_cache": True, "cache_implementation": "static"},
        {"early_stopping": "never"},
        {"early_stopping": True},
        {"attn_implementation": "kernels-community/flash-attn2@v1:flash", "trust_remote_code": True},
        {"cache_implementation": "quantized", "cache_config": {"nbits": 2, "axis_key": -1}},
        {"cache_implementation": "quantized", "cache_config": {"backend": "hqq", "nbits": 8, "axis_key": 1}},
        {"cache_implementation": "quantized", "cache_config": {"backend": "fp8"}},
        {"disable_compile": True},
        {"disable_compile": True, "torch_compile": False},
        {"disable_compile": False, "cache_implementation": "static"},
        {"assistant_model": "builtin:tiny-llama", "num_assistant_tokens": 4},
        {"num_return_sequences": 2},
        {"allow_tf32": False},
        {"lora": {"path": "adapters/a", "merge": True}},
        {"device_map": "auto"},
        {"device_map": {"model.layers.0": 0, "lm_head": "cpu"}},
        {"max_memory": {0: "10GiB", "cpu": 10**9}},
        {"no_repeat_ngram_size": 0},
        {"length_penalty": -1},
        {"batch_size": 1, "num_beams": 1, "prompt_lookup_num_tokens": 1},
    ],
    ids=str,
)
def test_pytorch_takes(values: dict[str, Any]) -> None:
    config = PyTorchConfig(**values)
    assert config.model_dump(exclude_none=True) == values


@pytest.mark.parametrize(
    ("values", "errors"),
    [
        ({"nonexistent": True}, [("nonexistent", "extra_forbidden")]),
        ({"torch_compile_mode": "reduce-overhead"}, [("torch_compile_mode", "contradiction")]),
        (
            {"torch_compile": False, "torch_compile_backend": "eager"},
            [("torch_compile_backend", "contradiction")],
        ),
        ({"bnb_4bit_compute_dtype": "bfloat16"}, [("bnb_4bit_compute_dtype", "contradiction")]),
        (
            {"load_in_8bit": True, "bnb_4bit_quant_type": "nf4"},
            [("bnb_4bit_quant_type", "contradiction")],
        ),
        ({"bnb_4bit_use_double_quant": False}, [("bnb_4bit_use_double_quant", "contradiction")]),
        ({"load_in_4bit": True, "load_in_8bit": True}, [("load_in_8bit", "contradiction")]),
        (
            {"use_cache": False, "cache_implementation": "static"},
            [("cache_implementation", "contradiction")],
        ),
        (
            {"torch_compile_mode": "x", "use_cache": False, "cache_implementation": "dynamic"},
            [("torch_compile_mode", "contradiction"), ("cache_implementation", "contradiction")],
        ),
        (
            {"load_in_4bit": True, "bnb_4bit_compute_dtype": "int8"},
            [("bnb_4bit_compute_dtype", "literal_error")],
        ),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "int4"}, [("bnb_4bit_quant_type", "literal_error")]),
        ({"attn_implementation": "paged|eager"}, [("attn_implementation", "refused")]),
        ({"attn_implementation": "flash"}, [("attn_implementation", "literal_error")]),
        ({"attn_implementation": "a/b/c", "trust_remote_code": True}, [("attn_implementation", "literal_error")]),
        ({"attn_implementation": "org/kernel"}, [("attn_implementation", "contradiction")]),
        ({"attn_implementation": "org/k", "trust_remote_code": False}, [("attn_implementation", "contradiction")]),
        ({"cache_config": {"nbits": 4}}, [("cache_config", "contradiction")]),
        ({"cache_config": {}, "cache_implementation": "dynamic"}, [("cache_config", "contradiction")]),
        (
            {"use_cache": False, "cache_implementation": "quantized", "cache_config": {}},
            [("cache_implementation", "contradiction")],
        ),
        (quantized(bits=4), [("cache_config.bits", "extra_forbidden")]),
        (quantized(backend="gptq"), [("cache_config.backend", "literal_error")]),
        (quantized(nbits=0), [("cache_config.nbits", "greater_than_equal")]),
        (quantized(nbits=8), [("cache_config.nbits", "contradiction")]),
        (quantized(axis_key=1), [("cache_config.axis_key", "contradiction")]),
        (quantized(backend="hqq", nbits=5), [("cache_config.nbits", "contradiction")]),
        (quantized(backend="hqq", axis_value=-1), [("cache_config.axis_value", "contradiction")]),
        (
            quantized(backend="fp8", q_group_size=32, residual_length=1),
            [("cache_config.q_group_size", "contradiction"), ("cache_config.residual_length", "contradiction")],
        ),
        ({"num_assistant_tokens": 3}, [("num_assistant_tokens", "contradiction")]),
        ({"assistant_model": "a", "num_assistant_tokens": 0}, [("num_assistant_tokens", "greater_than_equal")]),
        ({"assistant_model": ""}, [("assistant_model", "string_too_short")]),
        ({"disable_compile": False}, [("disable_compile", "contradiction")]),
        ({"disable_compile": False, "cache_implementation": "dynamic"}, [("disable_compile", "contradiction")]),
        (
            {"disable_compile": False, "cache_implementation": "static", "torch_compile": False},
            [("disable_compile", "contradiction")],
        ),
        ({"disable_compile": True, "torch_compile": True}, [("disable_compile", "contradiction")]),
        ({"num_return_sequences": 0}, [("num_return_sequences", "greater_than_equal")]),
        ({"lora": {}}, [("lora.path", "missing")]),
        ({"lora": {"path": ""}}, [("lora.path", "string_too_short")]),
        ({"lora": {"path": "a", "scale": 1}}, [("lora.scale", "extra_forbidden")]),
        ({"lora": "a"}, [("lora", "model_type")]),
        ({"cache_implementation": "hybrid"}, [("cache_implementation", "refused")]),
        ({"cache_implementation": "paged"}, [("cache_implementation", "refused")]),
        ({"cache_implementation": "sliding_window"}, [("cache_implementation", "refused")]),
        ({"batch_size": 0}, [("batch_size", "greater_than_equal")]),
        ({"num_beams": 0}, [("num_beams", "greater_than_equal")]),
        ({"prompt_lookup_num_tokens": 0}, [("prompt_lookup_num_tokens", "greater_than_equal")]),
        ({"no_repeat_ngram_size": -1}, [("no_repeat_ngram_size", "greater_than_equal")]),
        ({"batch_size": 1.0}, [("batch_size", "int_type")]),
        ({"batch_size": "4"}, [("batch_size", "int_type")]),
        ({"batch_size": True}, [("batch_size", "int_type")]),
        ({"use_cache": "yes"}, [("use_cache", "bool_type")]),
        ({"use_cache": 1}, [("use_cache", "bool_type")]),
        ({"length_penalty": float("nan")}, [("length_penalty", "finite_number")]),
        ({"early_stopping": "always"}, [("early_stopping", "expected")]),
        ({"early_stopping": 1}, [("early_stopping", "expected")]),
        ({"device_map": {"lm_head": -1}}, [("device_map", "expected")]),
        ({"max_memory": {"gpu0": "1GiB"}}, [("max_memory", "expected")]),
        ({"max_memory": {0: "lots"}}, [("max_memory", "expected")]),
        ({"max_memory": {0: -1}}, [("max_memory", "expected")]),
        ({"max_memory": {-1: "1GiB"}}, [("max_memory", "expected")]),
        ({"torch_compile": True, "torch_compile_mode": ""}, [("torch_compile_mode", "string_too_short")]),
        ({"revision": 1234567}, [("revision", "string_type")]),
    ],
    ids=str,
)
def test_pytorch_refuses(values: dict[str, Any], errors: list[tuple[str, str]]) -> None:
    assert error_types(PyTorchConfig, **values) == errors


def test_max_memory_survives_a_json_round_trip_and_can_be_hashed() -> None:
    config = PyTorchConfig(max_memory={0: "10GiB", "cpu": "50GiB"})
    again = PyTorchConfig.model_validate_json(config.model_dump_json())
    assert again == config
    assert again.max_memory == {0: "10GiB", "cpu": "50GiB"}
    assert hash(again) == hash(config)


def test_every_field_says_what_it_decides_and_what_it_is() -> None:
    assert all(field.description for field in fields().values())
    stages = {name: stage_of(section, name.rpartition(".")[2]) for name, section in sections().items()}
    mixed = {name for name, stage in stages.items() if stage not in get_args(Stage)}
    # The seed decides several; what these sections decide is known of each of their fields.
    assert mixed == {"random_seed", "pytorch", "passthrough"}


def test_only_the_options_of_a_stage_are_kept() -> None:
    config = PyTorchConfig(
        batch_size=4, num_beams=2, attn_implementation="sdpa", load_in_8bit=True, torch_compile=False
    )
    assert config.only("load").model_dump(exclude_none=True) == {
        "attn_implementation": "sdpa",
        "load_in_8bit": True,
    }
    assert config.only("batch").model_dump(exclude_none=True) == {"batch_size": 4}
    assert config.only("call").model_dump(exclude_none=True) == {"num_beams": 2}


def test_decoder_defaults_to_none() -> None:
    assert set(DecoderConfig().model_dump().values()) == {None}


@pytest.mark.parametrize(
    "values",
    [
        {"min_p": 0.1, "min_new_tokens": 10},
        {"temperature": 0.7},
        {"temperature": 0},
        {"temperature": 2},
        {"top_p": 0, "min_p": 1, "top_k": 0},
        {"repetition_penalty": 1},
    ],
    ids=str,
)
def test_decoder_alone_takes_sampling_options_without_sampling(values: dict[str, Any]) -> None:
    assert DecoderConfig(**values).model_dump(exclude_none=True) == values


def test_an_integer_temperature_becomes_a_float() -> None:
    assert isinstance(DecoderConfig(temperature=1).temperature, float)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", True),
        ("temperature", "1"),
        ("temperature", float("inf")),
        ("top_p", 1.5),
        ("top_p", -0.1),
        ("min_p", 1.1),
        ("min_p", -0.1),
        ("top_k", -1),
        ("top_k", 1.5),
        ("repetition_penalty", 0),
        ("min_new_tokens", 0),
        ("do_sample", "yes"),
        ("preset", "wild"),
        ("temprature", 1),
        ("stop_strings", []),
        ("stop_strings", "x"),
    ],
)
def test_decoder_refuses(field: str, value: Any) -> None:
    assert [name for name, _ in error_types(DecoderConfig, **{field: value})] == [field]


@pytest.mark.parametrize(
    ("preset", "options"),
    [
        ("deterministic", {"do_sample": False}),
        ("standard", {"do_sample": True, "temperature": 1.0, "top_p": 0.95}),
        ("creative", {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.1}),
        ("factual", {"do_sample": True, "temperature": 0.3}),
    ],
)
def test_presets(preset: Any, options: dict[str, Any]) -> None:
    assert DecoderConfig(preset=preset).resolved().model_dump(exclude_none=True) == options


def test_an_explicit_option_wins_over_the_preset() -> None:
    resolved = DecoderConfig(preset="creative", temperature=0.1, min_new_tokens=3).resolved()
    assert resolved == DecoderConfig(
        do_sample=True, temperature=0.1, top_p=0.9, repetition_penalty=1.1, min_new_tokens=3
    )


def test_without_sampling_nothing_is_left_of_what_the_preset_says_of_it() -> None:
    resolved = DecoderConfig(preset="creative", do_sample=False).resolved()
    assert resolved == DecoderConfig(do_sample=False, repetition_penalty=1.1)
    # What is given explicitly stays, to be told that it has no effect.
    assert DecoderConfig(preset="creative", do_sample=False, top_p=0.5).resolved().top_p == 0.5
    assert DecoderConfig(preset="deterministic", do_sample=True).resolved() == DecoderConfig(do_sample=True)


@pytest.mark.parametrize("value", [1, 0.25, 0, "auto", None])
def test_min_window_is_a_number_or_auto(value: Any) -> None:
    assert MeasureConfig(min_window_s=value).min_window_s == value


@pytest.mark.parametrize("value", [-1, "1.0", True, "automatic", float("inf")])
def test_min_window_refuses(value: Any) -> None:
    assert error_types(MeasureConfig, min_window_s=value) == [("min_window_s", "expected")]


@pytest.mark.parametrize(("field", "value"), [("rounds", 0), ("warmup_rounds", -1), ("phases", "no")])
def test_measure_bounds(field: str, value: Any) -> None:
    assert [name for name, _ in error_types(MeasureConfig, **{field: value})] == [field]


@pytest.mark.parametrize(
    ("call", "argument", "field"),
    [
        ("from_pretrained", "dtype", "use the field precision"),
        ("from_pretrained", "revision", "use the field pytorch.revision"),
        ("from_pretrained", "use_safetensors", "pickled weights are never loaded; remove it"),
        ("generate", "temperature", "use the field decoder.temperature"),
        ("generate", "num_beams", "use the field pytorch.num_beams"),
        ("generate", "max_new_tokens", "use the field max_output_tokens"),
        ("generate", "stop_strings", "use the field decoder.stop_strings"),
        ("generate", "num_return_sequences", "use the field pytorch.num_return_sequences"),
        ("generate", "assistant_model", "use the field pytorch.assistant_model"),
        ("generate", "stopping_criteria", "is an object of Python, which a file cannot give; remove it"),
    ],
)
def test_passthrough_names_the_field_of_an_argument_that_has_one(call: str, argument: str, field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ExperimentConfig.model_validate({"model": "gpt2", "passthrough": {call: {argument: 1}}})
    (error,) = caught.value.errors()
    assert (error["loc"], error["type"], error["msg"]) == (("passthrough", call, argument), "misplaced", field)


def test_passthrough_keeps_the_rest_as_it_is() -> None:
    arguments = {"from_pretrained": {"variant": "fp16"}, "generate": {"eos_token_id": None}}
    assert Passthrough.model_validate(arguments).model_dump() == arguments
