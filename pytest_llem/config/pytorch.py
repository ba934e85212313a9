"""The ``pytorch:`` section: options of the transformers backend."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticKnownError

from pytest_llem.config.base import Conflict, Section, Stage, builtin_model, expects, option, refusal, refuse
from pytest_llem.config.kv_cache import (
    STATIC_CACHES,
    CacheImplementation,
    QuantizedCacheConfig,
    cache_arguments,
    known_cache,
)

FLASH_ATTENTION = ("flash_attention_2", "flash_attention_3", "flash_attention_4")
ATTENTION = ("eager", "sdpa", *FLASH_ATTENTION, "flex_attention")

HUB_KERNEL = re.compile(r"^[^/:@\s]+/[^/:@\s]+(@[^/:\s]+)?(:[^/:\s]+)?$")
"""An attention kernel on the hub: ``org/repo[@revision][:function]``."""

# Values of device_map that leave the choice to accelerate.
DEVICE_STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")


_GPU = re.compile(r"cuda(?::(\d+))?|(\d+)")


def gpu_number(place: int | str) -> int | None:
    """The number of the GPU that an entry of ``device_map`` or ``max_memory`` names, ``None`` where it names none."""
    found = _GPU.fullmatch(str(place))
    return None if found is None else int(found[1] or found[2] or 0)


def _numbered_devices(value: Any) -> Any:
    """Turn the keys ``"0"`` of JSON back into the device numbers they were."""
    if not isinstance(value, Mapping):
        return value
    return {
        int(key) if isinstance(key, str) and key.isascii() and key.isdigit() else key: item
        for key, item in value.items()
    }


def _known_attention(value: str) -> str:
    if value in ATTENTION or HUB_KERNEL.fullmatch(value):
        return value
    if value.startswith("paged|"):
        raise refusal("paged attention belongs to continuous batching, which generate() is not; remove paged|")
    names = ", ".join(f"'{name}'" for name in ATTENTION)
    raise PydanticKnownError("literal_error", {"expected": f"{names} or a kernel of the hub such as 'org/repo'"})


class LoraConfig(Section, stage="load"):
    """``lora: {path: adapters/style, merge: true}``."""

    path: str = option(
        "Hub id or local folder of a LoRA adapter; a relative folder starts at the experiment file's.",
        default=...,
        min_length=1,
    )
    merge: bool = option(
        "Add the adapter to the weights once, instead of computing it in each forward pass.", default=False
    )


DeviceNumber = Annotated[int, Field(ge=0)]
MemorySize = Annotated[str, Field(pattern=r"^\d+(\.\d+)?\s*[kKmMgGtT][iI]?[bB]$")]
MemoryBytes = Annotated[int, Field(ge=0)]


class PyTorchConfig(Section):
    """Options of the transformers backend. ``None`` means the backend's own default."""

    batch_size: int | None = option("Prompts in one generate() call. Unset: 1.", stage="batch", ge=1)
    attn_implementation: (
        Annotated[
            str,
            AfterValidator(_known_attention),
            WithJsonSchema(
                {"anyOf": [{"enum": list(ATTENTION)}, {"type": "string", "pattern": HUB_KERNEL.pattern}]},
            ),
        ]
        | None
    ) = option(
        "Attention kernel, or org/repo[@revision][:function] for one of the hub. The flash kernels need their package, "
        "a GPU, and fp16 or bf16; a kernel of the hub needs trust_remote_code: true.",
        stage="load",
    )
    torch_compile: bool | None = option(
        "Compile the forward pass with torch.compile; with a static cache, one beam and no quantisation that of "
        "decoding alone, the prefill runs uncompiled.",
        stage="load",
    )
    torch_compile_mode: str | None = option(
        "Mode of torch.compile, such as default, reduce-overhead or max-autotune. The latter two use CUDA graphs on a "
        "GPU, which need a static cache. Needs torch_compile: true.",
        stage="load",
        min_length=1,
    )
    torch_compile_backend: str | None = option(
        "Backend of torch.compile, such as inductor or eager. Needs torch_compile: true.",
        stage="load",
        min_length=1,
    )
    load_in_4bit: bool | None = option(
        "Quantise the linear layers to 4 bit with bitsandbytes. Excludes load_in_8bit.", stage="load"
    )
    load_in_8bit: bool | None = option(
        "Quantise the linear layers to 8 bit with bitsandbytes. Excludes load_in_4bit.", stage="load"
    )
    bnb_4bit_compute_dtype: Literal["float16", "bfloat16", "float32"] | None = option(
        "Data type that 4 bit layers compute in. Needs load_in_4bit: true.", stage="load"
    )
    bnb_4bit_quant_type: Literal["nf4", "fp4"] | None = option(
        "4 bit format of the weights. Needs load_in_4bit: true.", stage="load"
    )
    bnb_4bit_use_double_quant: bool | None = option(
        "Quantise the scales of 4 bit weights as well. Needs load_in_4bit: true.", stage="load"
    )
    use_cache: bool | None = option("Keep the keys and values of past tokens.", stage="call")
    cache_implementation: Annotated[CacheImplementation | None, BeforeValidator(known_cache)] = option(
        "Kind of key-value cache. Excludes use_cache: false; the offloaded kinds need a GPU.",
        stage="call",
    )
    cache_config: (
        Annotated[
            dict[str, Any],
            AfterValidator(cache_arguments),
            WithJsonSchema(QuantizedCacheConfig.model_json_schema()),
        ]
        | None
    ) = option(
        "Options of the quantised cache: backend, nbits, axis_key, axis_value, q_group_size, residual_length. "
        "Needs cache_implementation: quantized.",
        stage="call",
    )
    num_return_sequences: int | None = option(
        "Sequences returned for each prompt. Above 1 it needs sampling, or at least as many beams.",
        stage="call",
        ge=1,
    )
    num_beams: int | None = option("Beams of beam search; 1 is no beam search.", stage="call", ge=1)
    early_stopping: Annotated[bool | Literal["never"], expects("true, false or never")] | None = option(
        "When beam search stops. Needs num_beams above 1.", stage="call"
    )
    length_penalty: float | None = option(
        "Exponent of the length in the score of a beam. Needs num_beams above 1.", stage="call"
    )
    no_repeat_ngram_size: int | None = option(
        "No n-gram of this many tokens occurs twice; 0 is off.", stage="call", unit="tokens", ge=0
    )
    prompt_lookup_num_tokens: int | None = option(
        "Draft tokens that are looked up in the prompt (speculative decoding). Needs batch size 1, one beam "
        "and a dynamic cache.",
        stage="call",
        unit="tokens",
        ge=1,
    )
    assistant_model: Annotated[str, Field(min_length=1), AfterValidator(builtin_model)] | None = option(
        "Smaller model that drafts tokens for this one to check (speculative decoding): hub id, local folder (a "
        "relative one starts at the file's folder), or builtin:NAME. Needs batch size 1, one beam and a dynamic cache.",
        stage="load",
    )
    num_assistant_tokens: int | None = option(
        "Tokens that the assistant drafts at a time. Needs assistant_model.", stage="call", unit="tokens", ge=1
    )
    disable_compile: bool | None = option(
        "Keep generate() from compiling by itself, as it does with a static cache on a GPU; false insists on it.",
        stage="call",
    )
    allow_tf32: bool | None = option("Let fp32 matrix products on a GPU round their factors to TF32.", stage="call")
    lora: LoraConfig | None = option("LoRA adapter over the model's weights. Needs the package peft.", stage="load")
    device_map: (
        Annotated[
            str | dict[str, DeviceNumber | str],
            expects("auto, balanced, sequential, a device such as cuda:0, or a mapping of module to device"),
        ]
        | None
    ) = option("How modules are placed on devices, as in accelerate.", stage="load")
    max_memory: (
        Annotated[
            dict[DeviceNumber | Literal["cpu"], MemoryBytes | MemorySize],
            BeforeValidator(_numbered_devices),
            expects("a mapping of GPU number or cpu to a size, such as {0: 10GiB, cpu: 50GiB}"),
        ]
        | None
    ) = option(
        "Memory that weights may take on each device: sizes such as 10GiB, or bytes. Needs device_map.",
        stage="load",
        min_length=1,
    )
    revision: str | None = option(
        "Branch, tag or commit of the model on the hub, for weights, configuration and tokenizer.",
        stage="load",
        min_length=1,
    )
    trust_remote_code: bool | None = option(
        "Run the Python code that comes with the model, or with an attention kernel of the hub. Unset: no.",
        stage="load",
    )

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        refuse(self, self._contradictions())
        return self

    def _contradictions(self) -> Iterator[Conflict]:
        for field in ("torch_compile_mode", "torch_compile_backend"):
            if getattr(self, field) is not None and not self.torch_compile:
                yield Conflict(field, "has no effect without compilation; set torch_compile: true or remove it")
        for field in ("bnb_4bit_compute_dtype", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant"):
            if getattr(self, field) is not None and not self.load_in_4bit:
                yield Conflict(field, "has no effect without 4 bit weights; set load_in_4bit: true or remove it")
        if self.load_in_4bit and self.load_in_8bit:
            yield Conflict("load_in_8bit", "excludes load_in_4bit: weights are either 4 or 8 bit; keep one of the two")
        if self.cache_implementation is not None and self.use_cache is False:
            yield Conflict("cache_implementation", "contradicts use_cache: false; remove one of the two")
        if self.cache_config is not None and self.cache_implementation != "quantized":
            yield Conflict(
                "cache_config",
                "has no effect without a quantised cache; set cache_implementation: quantized or remove it",
            )
        if self.num_assistant_tokens is not None and self.assistant_model is None:
            yield Conflict("num_assistant_tokens", "has no effect without assistant_model; set one or remove it")
        if self.disable_compile is False and self.cache_implementation not in STATIC_CACHES:
            yield Conflict(
                "disable_compile",
                "false has no effect: generate() compiles by itself with a static cache only; set "
                "cache_implementation: static or remove it",
            )
        if (
            self.disable_compile is not None
            and self.torch_compile is not None
            and not (self.disable_compile and not self.torch_compile)
        ):
            yield Conflict(
                "disable_compile",
                f"contradicts torch_compile: {str(self.torch_compile).lower()}, which decides alone what is compiled; "
                "remove one of the two",
            )
        if self.attn_implementation is not None and "/" in self.attn_implementation and not self.trust_remote_code:
            yield Conflict(
                "attn_implementation",
                f"{self.attn_implementation} downloads and runs code of the hub; set trust_remote_code: true if you "
                "trust it",
            )

    def places(self) -> tuple[int | str, ...]:
        """The devices that ``device_map`` names; empty where it leaves the choice to accelerate."""
        if self.device_map is None or self.device_map in DEVICE_STRATEGIES:
            return ()
        return (self.device_map,) if isinstance(self.device_map, str) else tuple(self.device_map.values())

    def only(self, stage: Stage) -> PyTorchConfig:
        """The options that decide ``stage``, the others unset; an option switched off counts as unset."""
        return PyTorchConfig.model_construct(
            **{field: value for field, value in self.given(stage).items() if value is not False}
        )
