"""The ``tensorrt:`` section: options of the TensorRT-LLM backend, by the names of its LLM API (1.x)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from pytest_llem.config.base import Conflict, Section, option, refuse

if TYPE_CHECKING:
    from collections.abc import Iterator

QuantAlgo = Literal[
    "W8A16",
    "W4A16",
    "W4A16_AWQ",
    "W4A8_AWQ",
    "W8A16_GPTQ",
    "W4A16_GPTQ",
    "W8A8_SQ_PER_CHANNEL",
    "W8A8_SQ_PER_TENSOR_PLUGIN",
    "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN",
    "W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN",
    "W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN",
    "W4A8_QSERVE_PER_GROUP",
    "W4A8_QSERVE_PER_CHANNEL",
    "FP8",
    "FP8_PER_CHANNEL_PER_TOKEN",
    "FP8_BLOCK_SCALES",
    "MIXED_PRECISION",
    "NVFP4",
    "W4A8_NVFP4_FP8",
    "W4A8_MXFP4_FP8",
    "W4A8_MXFP4_MXFP8",
    "W4A16_MXFP4",
    "NO_QUANT",
]

# Options that one of the two ways to run a model has and the other would ignore.
_OF_PYTORCH = ("attn_backend", "cuda_graph_config", "disable_overlap_scheduler")
_OF_TENSORRT = ("build_config", "fast_build")


class KvCacheConfig(Section, stage="load"):
    """``kv_cache_config: {free_gpu_memory_fraction: 0.5}``."""

    free_gpu_memory_fraction: float | None = option(
        "Share of the memory that weights and buffers leave free which the key-value cache takes. TensorRT-LLM's "
        "default: 0.9.",
        ge=0,
        le=1,
    )
    max_tokens: int | None = option("Most tokens that the key-value cache holds.", unit="tokens", ge=1)
    enable_block_reuse: bool | None = option(
        "Keep the keys and values of prompts for later prompts that begin alike. Unset: no, against TensorRT-LLM's own "
        "default, since from the second round on every prompt would be known and its prefill not be measured."
    )
    dtype: Literal["auto", "float16", "bfloat16", "float32", "fp8", "int8", "nvfp4"] | None = option(
        "Data type of the key-value cache; auto is the model's."
    )
    tokens_per_block: int | None = option("Tokens in one block of the key-value cache.", unit="tokens", ge=1)
    host_cache_size: int | None = option(
        "Size of the part of the key-value cache in the memory of the host.", unit="bytes", ge=0
    )


class QuantConfig(Section, stage="load"):
    """``quant_config: {quant_algo: W4A16_AWQ}``."""

    quant_algo: QuantAlgo | None = option("How weights and activations are quantised. Unset: as the model says.")
    kv_cache_quant_algo: Literal["FP8", "INT8", "NVFP4"] | None = option("How the key-value cache is quantised.")
    group_size: int | None = option("Weights that share a scale, where the kind has groups.", ge=1)


class CudaGraphConfig(Section, stage="load"):
    """``cuda_graph_config: {max_batch_size: 8}``."""

    batch_sizes: list[Annotated[int, Field(ge=1)]] | None = option(
        "Batch sizes that a graph is recorded for. Excludes max_batch_size.", min_length=1
    )
    max_batch_size: int | None = option("Largest batch that a graph is recorded for.", ge=1)
    enable_padding: bool | None = option("Fill batches up to the next recorded size.")

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        if self.batch_sizes is not None and self.max_batch_size is not None:
            refuse(self, [Conflict("max_batch_size", "is the largest of batch_sizes already; remove one of the two")])
        return self


class BuildConfig(Section, stage="load"):
    """``build_config: {opt_batch_size: 8}``, of engines that are built."""

    opt_batch_size: int | None = option("Batch size that kernels are chosen for.", ge=1)
    opt_num_tokens: int | None = option("Tokens of a forward pass that kernels are chosen for.", unit="tokens", ge=1)
    weight_sparsity: bool | None = option("Use sparse kernels for weights that are.")
    weight_streaming: bool | None = option("Let weights stay in the memory of the host and be read when needed.")


class TensorRTConfig(Section, stage="load"):
    """Options of the TensorRT-LLM backend. ``None`` means its own default.

    Every field is an argument of ``LLM()`` of the same name.
    """

    backend: Literal["pytorch", "tensorrt"] | None = option(
        "How TensorRT-LLM runs the model: by its kernels in PyTorch, or as an engine that is built first. Unset: "
        "pytorch."
    )
    max_batch_size: int | None = option(
        "Most sequences that are computed at a time: all prompts of a pass are handed over at once, and TensorRT-LLM "
        "forms its batches of them.",
        ge=1,
    )
    max_num_tokens: int | None = option(
        "Most tokens of one forward pass, without padding; at least max_batch_size.", unit="tokens", ge=1
    )
    max_input_len: int | None = option("Longest prompt.", unit="tokens", ge=1)
    max_seq_len: int | None = option(
        "Longest sequence, prompt and output together. Unset: what the model was made for.", unit="tokens", ge=1
    )
    max_beam_width: int | None = option(
        "Beams of beam search, which are fixed when the model is loaded or built; 1 is no beam search.", ge=1
    )
    enable_chunked_prefill: bool | None = option("Divide long prompts over several forward passes.")
    attn_backend: Literal["TRTLLM", "VANILLA", "FLASHINFER"] | None = option(
        "Attention kernel. Excludes backend: tensorrt."
    )
    kv_cache_config: KvCacheConfig | None = option("Size, kind and reuse of the key-value cache.")
    quant_config: QuantConfig | None = option("How weights, activations and the key-value cache are quantised.")
    cuda_graph_config: CudaGraphConfig | None = option(
        "Which batches of decoding are recorded as CUDA graphs. Excludes backend: tensorrt."
    )
    disable_overlap_scheduler: bool | None = option(
        "Do not plan the next forward pass while the last one runs. Excludes backend: tensorrt."
    )
    build_config: BuildConfig | None = option("How the engine is built. Needs backend: tensorrt.")
    fast_build: bool | None = option("Build the engine sooner, with fewer optimisations. Needs backend: tensorrt.")
    revision: str | None = option(
        "Branch, tag or commit of the model on the hub, for weights, configuration and tokenizer.", min_length=1
    )
    trust_remote_code: bool | None = option("Run the Python code that comes with the model. Unset: no.")

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        refuse(self, self._contradictions())
        return self

    def _contradictions(self) -> Iterator[Conflict]:
        built = self.backend == "tensorrt"
        for field in _OF_PYTORCH if built else _OF_TENSORRT:
            if getattr(self, field) is not None:
                wanted = "pytorch" if built else "tensorrt"
                yield Conflict(field, f"has no effect without backend: {wanted} in this section; set it or remove this")
        if self.max_num_tokens is not None and self.max_num_tokens < (self.max_batch_size or 1):
            yield Conflict(
                "max_num_tokens",
                f"{self.max_num_tokens} is below max_batch_size ({self.max_batch_size}); raise it or lower that",
            )
        if self.max_seq_len is not None and self.max_seq_len <= (self.max_input_len or 0):
            yield Conflict(
                "max_seq_len",
                f"{self.max_seq_len} leaves no room for output after max_input_len ({self.max_input_len}); raise it",
            )
