"""The ``pytorch:`` section: options of the transformers backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from pytest_llem.config.base import REFUSED, Conflict, Section, Stage, expects, option, refuse, stage_of

AttentionImplementation = Literal[
    "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention"
]

CacheImplementation = Literal["static", "offloaded_static", "dynamic", "offloaded", "quantized"]

STATIC_CACHES = ("static", "offloaded_static")
OFFLOADED_CACHES = ("offloaded", "offloaded_static")

# Names that transformers accepts and then runs as something else, so a result would carry the wrong label.
MISLEADING_CACHES: Mapping[str, str] = {
    "sliding_window": "sliding_window is an old name of the static cache; use static",
    "hybrid": "hybrid would silently run as the dynamic cache; use dynamic or static",
    "hybrid_chunked": "hybrid_chunked is an old name of the static cache; use static",
    "offloaded_hybrid": "offloaded_hybrid is an old name of the offloaded static cache; use offloaded_static",
    "offloaded_hybrid_chunked": (
        "offloaded_hybrid_chunked is an old name of the offloaded static cache; use offloaded_static"
    ),
    "paged": "paged belongs to continuous batching and would silently run as the dynamic cache; use dynamic",
}


def _numbered_devices(value: Any) -> Any:
    """Turn the keys ``"0"`` of JSON back into the device numbers they were."""
    if not isinstance(value, Mapping):
        return value
    return {
        int(key) if isinstance(key, str) and key.isascii() and key.isdigit() else key: item
        for key, item in value.items()
    }


def _known_cache(value: Any) -> Any:
    if isinstance(value, str) and value in MISLEADING_CACHES:
        raise PydanticCustomError(REFUSED, "{message}", {"message": MISLEADING_CACHES[value]})
    return value


DeviceNumber = Annotated[int, Field(ge=0)]
MemorySize = Annotated[str, Field(pattern=r"^\d+(\.\d+)?\s*[kKmMgGtT][iI]?[bB]$")]
MemoryBytes = Annotated[int, Field(ge=0)]


class PyTorchConfig(Section):
    """Options of the transformers backend. ``None`` means the backend's own default."""

    batch_size: int | None = option("Prompts in one generate() call. Unset: 1.", stage="batch", ge=1)
    attn_implementation: AttentionImplementation | None = option(
        "Attention kernel. The flash kernels need their package and a GPU.", stage="load"
    )
    torch_compile: bool | None = option("Compile the forward pass with torch.compile.", stage="load")
    torch_compile_mode: str | None = option(
        "Mode of torch.compile, such as default, reduce-overhead or max-autotune. Needs torch_compile: true.",
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
    use_cache: bool | None = option("Keep the keys and values of past tokens.", stage="generate")
    cache_implementation: Annotated[CacheImplementation | None, BeforeValidator(_known_cache)] = option(
        "Kind of key-value cache. Excludes use_cache: false; the offloaded kinds need a GPU.",
        stage="generate",
    )
    num_beams: int | None = option("Beams of beam search; 1 is no beam search.", stage="generate", ge=1)
    early_stopping: Annotated[bool | Literal["never"], expects("true, false or never")] | None = option(
        "When beam search stops. Needs num_beams above 1.", stage="generate"
    )
    length_penalty: float | None = option(
        "Exponent of the length in the score of a beam. Needs num_beams above 1.", stage="generate"
    )
    no_repeat_ngram_size: int | None = option(
        "No n-gram of this many tokens occurs twice; 0 is off.", stage="generate", unit="tokens", ge=0
    )
    prompt_lookup_num_tokens: int | None = option(
        "Draft tokens that are looked up in the prompt (speculative decoding). Needs batch size 1, one beam "
        "and a dynamic cache.",
        stage="generate",
        unit="tokens",
        ge=1,
    )
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
    trust_remote_code: bool | None = option("Run the Python code that comes with the model. Unset: no.", stage="load")

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

    def only(self, stage: Stage) -> PyTorchConfig:
        """The options that decide ``stage``, the others unset; an option switched off counts as unset."""
        kept = {
            field: value
            for field in _fields_of(stage)
            if (value := getattr(self, field)) is not None and value is not False
        }
        return PyTorchConfig.model_construct(**kept)


@cache
def _fields_of(stage: Stage) -> tuple[str, ...]:
    return tuple(field for field in PyTorchConfig.model_fields if stage_of(PyTorchConfig, field) == stage)
