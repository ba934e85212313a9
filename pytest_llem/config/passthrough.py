"""The ``passthrough:`` section: arguments of transformers that have no field of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pydantic import ValidationInfo, model_validator

from pytest_llem.config.base import MISPLACED, Conflict, Section, option, refuse
from pytest_llem.config.decoder import DecoderConfig
from pytest_llem.config.pytorch import PyTorchConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_FIELDS: Mapping[str, str] = {
    **{name: f"pytorch.{name}" for name in PyTorchConfig.model_fields},
    **{name: f"decoder.{name}" for name in DecoderConfig.model_fields},
}

# Names that transformers gives to what is a field here, and arguments that must not be set at all.
_INSTEAD_OF_FROM_PRETRAINED: Mapping[str, str] = {
    "pretrained_model_name_or_path": "use the field model",
    "dtype": "use the field precision",
    "torch_dtype": "use the field precision",
    "quantization_config": "use the fields pytorch.load_in_4bit, pytorch.load_in_8bit and pytorch.bnb_4bit_*",
    "config": "is an object of Python, which a file cannot give; remove it",
    "state_dict": "is an object of Python, which a file cannot give; remove it",
    "allow_all_kernels": "use the fields pytorch.attn_implementation and pytorch.trust_remote_code",
    "use_kernels": "code from the hub would replace layers in silence; use the field pytorch.attn_implementation",
    "low_cpu_mem_usage": "transformers 5 ignores it; remove it",
    "tp_plan": "without torchrun it silently runs on one process; remove it",
    "use_safetensors": "pickled weights are never loaded; remove it",
    "weights_only": "pickled weights are never loaded; remove it",
    "code_revision": "code comes from the same commit as the model; use the field pytorch.revision",
    "kernel_config": "is an object of Python, which a file cannot give; remove it",
    "token": "a token in a file would be saved with the results; log in with `hf auth login` or set HF_TOKEN",
    "proxies": "may hold a password, which would be saved with the results; set HTTPS_PROXY",
}

# A file never says where anything is written; Python code may.
_INSTEAD_IN_A_FILE: Mapping[str, str] = {
    "cache_dir": "a file does not say where downloads are written; set HF_HUB_CACHE",
    "offload_folder": "a file does not say where weights are written; name the modules in pytorch.device_map, whose "
    "weights are then read from the checkpoint",
}

FROM_A_FILE: Mapping[str, bool] = {"from_a_file": True}
"""Validation context of what an experiment file says, which may do less than Python code."""

_INSTEAD_OF_GENERATE: Mapping[str, str] = {
    "max_new_tokens": "use the field max_output_tokens",
    "max_length": "use the field max_output_tokens",
    "min_length": "use the field decoder.min_new_tokens",
    "generation_config": "give its options one by one",
    "use_model_defaults": "defaults of the model's own files never apply; remove it",
    "custom_generate": "code from the hub is not run in generate(); remove it",
    "inputs": "use the field dataset",
    "input_ids": "use the field dataset",
    "attention_mask": "use the field dataset",
    "inputs_embeds": "use the field dataset",
    "streamer": "the measurement sets its own; remove it",
    "return_dict_in_generate": "the measurement sets it; remove it",
    "tokenizer": "the measurement sets it; remove it",
    "cache_position": "the measurement sets it; remove it",
    "past_key_values": "use the field pytorch.cache_implementation",
    "compile_config": "use the fields pytorch.torch_compile, pytorch.torch_compile_mode and pytorch.disable_compile",
    **dict.fromkeys(
        ("num_beam_groups", "diversity_penalty", "penalty_alpha", "dola_layers", "constraints", "force_words_ids"),
        "belongs to a way of decoding that transformers has moved to the hub, whose code generate() does not run here; "
        "remove it",
    ),
    **dict.fromkeys(
        (
            "assistant_tokenizer",
            "logits_processor",
            "negative_prompt_attention_mask",
            "negative_prompt_ids",
            "prefix_allowed_tokens_fn",
            "stopping_criteria",
        ),
        "is an object of Python, which a file cannot give; remove it",
    ),
}


class Passthrough(Section):
    """Arguments handed on as they are. What has a field of its own is refused here."""

    from_pretrained: dict[str, Any] = option("Further arguments of from_pretrained().", default={}, stage="load")
    generate: dict[str, Any] = option("Further arguments of generate().", default={}, stage="call")

    @model_validator(mode="after")
    def _refuse_collisions(self, info: ValidationInfo) -> Self:
        refuse(self, self._collisions(from_a_file=bool(info.context)), MISPLACED)
        return self

    def _collisions(self, *, from_a_file: bool) -> Iterator[Conflict]:
        instead_here = {**_INSTEAD_OF_FROM_PRETRAINED, **(_INSTEAD_IN_A_FILE if from_a_file else {})}
        for section, arguments, instead in (
            ("from_pretrained", self.from_pretrained, instead_here),
            ("generate", self.generate, _INSTEAD_OF_GENERATE),
        ):
            for argument in arguments:
                if argument in _FIELDS:
                    yield Conflict(f"{section}.{argument}", f"use the field {_FIELDS[argument]}")
                elif argument in instead:
                    yield Conflict(f"{section}.{argument}", instead[argument])
                elif argument.startswith("_"):
                    yield Conflict(f"{section}.{argument}", "is transformers' own; remove it")
