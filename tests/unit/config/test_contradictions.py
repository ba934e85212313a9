"""What transformers ignores in silence, or refuses once the model is loaded, is refused in the file."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pytest_llem.config import ExperimentConfig


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
