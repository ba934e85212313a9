"""The ``passthrough:`` section: arguments of the engine's library that have no field of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_llem.config.backends import BACKENDS
from pytest_llem.config.base import Conflict, Section, option
from pytest_llem.config.decoder import DecoderConfig
from pytest_llem.config.instead import INSTEAD
from pytest_llem.config.pytorch import PyTorchConfig
from pytest_llem.config.tensorrt import TensorRTConfig
from pytest_llem.config.vllm import VllmConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SECTIONS: Mapping[str, type[Section]] = {"pytorch": PyTorchConfig, "vllm": VllmConfig, "tensorrt": TensorRTConfig}
_FIELDS: Mapping[str, Mapping[str, str]] = {
    backend: {
        **{name: f"{backend}.{name}" for name in section.model_fields},
        **{name: f"decoder.{name}" for name in DecoderConfig.model_fields},
    }
    for backend, section in _SECTIONS.items()
}

FROM_A_FILE: Mapping[str, bool] = {"from_a_file": True}
"""Validation context of what an experiment file says, which may do less than Python code."""


class Passthrough(Section):
    """Arguments handed on as they are. What has a field of its own is refused, see :func:`collisions`."""

    from_pretrained: dict[str, Any] = option(
        "Further arguments of what loads the model: from_pretrained() of transformers, LLM() of vLLM and TensorRT-LLM.",
        default={},
        stage="load",
    )
    generate: dict[str, Any] = option(
        "Further arguments of what generates: generate() of transformers, SamplingParams of vLLM and TensorRT-LLM.",
        default={},
        stage="call",
    )


def collisions(passthrough: Passthrough, backend: str, *, from_a_file: bool) -> Iterator[Conflict]:
    """The arguments that have a field of their own or must not be set, by their names in ``passthrough``.

    Args:
        backend: one that this package does not know is taken to pass them on to transformers.
        from_a_file: whether an experiment file says it, which may do less than Python code.
    """
    backend = backend if backend in BACKENDS else BACKENDS[0]
    instead = INSTEAD[backend]
    instead_of_load = {**instead.from_pretrained, **(instead.in_a_file if from_a_file else {})}
    for section, arguments, advice in (
        ("from_pretrained", passthrough.from_pretrained, instead_of_load),
        ("generate", passthrough.generate, instead.generate),
    ):
        for argument in arguments:
            if argument in advice:
                yield Conflict(f"{section}.{argument}", advice[argument])
            elif argument in _FIELDS[backend]:
                yield Conflict(f"{section}.{argument}", f"use the field {_FIELDS[backend][argument]}")
            elif argument.startswith("_"):
                yield Conflict(f"{section}.{argument}", instead.own)
