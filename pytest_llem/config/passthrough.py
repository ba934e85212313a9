"""The ``passthrough:`` section: arguments of transformers that have no field of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from pytest_llem.config.base import REFUSED, Conflict, Section, refuse
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
    "low_cpu_mem_usage": "transformers 5 ignores it; remove it",
    "tp_plan": "without torchrun it silently runs on one process; remove it",
    "use_safetensors": "pickled weights are never loaded; remove it",
    "weights_only": "pickled weights are never loaded; remove it",
}

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
    "streamer": "the measurement sets its own; remove it",
}


class Passthrough(Section):
    """Arguments handed on as they are. What has a field of its own is refused here."""

    from_pretrained: dict[str, Any] = Field(default_factory=dict, description="Further arguments of from_pretrained().")
    generate: dict[str, Any] = Field(default_factory=dict, description="Further arguments of generate().")

    @model_validator(mode="after")
    def _refuse_collisions(self) -> Self:
        refuse(self, self._collisions(), REFUSED)
        return self

    def _collisions(self) -> Iterator[Conflict]:
        for section, arguments, instead in (
            ("from_pretrained", self.from_pretrained, _INSTEAD_OF_FROM_PRETRAINED),
            ("generate", self.generate, _INSTEAD_OF_GENERATE),
        ):
            for argument in arguments:
                if argument in _FIELDS:
                    yield Conflict(f"{section}.{argument}", f"use the field {_FIELDS[argument]}")
                elif argument in instead:
                    yield Conflict(f"{section}.{argument}", instead[argument])
