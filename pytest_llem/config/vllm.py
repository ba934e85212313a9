"""The ``vllm:`` section: options of the vLLM backend, by the names of vLLM 0.32's ``LLM()``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import model_validator

from pytest_llem.config.base import Conflict, Section, option, refuse
from pytest_llem.config.builtin_models import is_builtin

if TYPE_CHECKING:
    from collections.abc import Iterator

AttentionBackend = Literal[
    "FLASH_ATTN",
    "FLASHINFER",
    "TRITON_ATTN",
    "FLEX_ATTENTION",
    "FLASH_ATTN_MLA",
    "FLASHINFER_MLA",
    "FLASHMLA",
    "CUTLASS_MLA",
    "TRITON_MLA",
    "ROCM_ATTN",
    "ROCM_AITER_FA",
    "ROCM_AITER_MLA",
    "CPU_ATTN",
    "CPU_MLA",
]
"""Attention of language models; what only one family of models has is chosen by vLLM itself."""

HALF_PRECISION_ATTENTION = ("FLASH_ATTN", "FLASHINFER")
"""Attention that computes in fp16 and bf16 only."""

CPU_ATTENTION = ("CPU_ATTN", "CPU_MLA")

KvCacheDtype = Literal[
    "auto",
    "float16",
    "bfloat16",
    "fp8",
    "fp8_e4m3",
    "fp8_e5m2",
    "fp8_inc",
    "fp8_ds_mla",
    "nvfp4_ds_mla",
    "turboquant_k8v4",
    "turboquant_4bit_nc",
    "turboquant_k3v4_nc",
    "turboquant_3bit_nc",
    "ultraquant_4bit",
    "int4_per_token_head",
    "int8_per_token_head",
    "fp8_per_token_head",
    "nvfp4",
    "nvfp4_4over6",
]

Quantization = Literal[
    "awq",
    "auto_awq",
    "awq_marlin",
    "gptq",
    "auto_gptq",
    "gptq_marlin",
    "fp8",
    "fp8_per_tensor",
    "fp8_per_block",
    "fp8_per_channel",
    "int8_per_channel_weight_only",
    "nvfp4_per_token",
    "mxfp4",
    "mxfp8",
    "online",
    "compressed-tensors",
    "modelopt",
    "modelopt_fp4",
    "modelopt_mxfp8",
    "modelopt_mixed",
    "quark",
    "torchao",
    "inc",
    "bitsandbytes",
    "humming",
    "experts_int8",
    "moe_wna16",
    "gpt_oss_mxfp4",
    "deepseek_v4_fp8",
]

_N_GRAM = ("ngram", "ngram_gpu")
_WITHOUT_A_MODEL = (*_N_GRAM, "suffix", "mtp")


class SpeculativeConfig(Section, stage="load"):
    """``speculative_config: {method: ngram, num_speculative_tokens: 4, prompt_lookup_max: 3}``."""

    method: Literal[
        "ngram", "ngram_gpu", "suffix", "draft_model", "eagle", "eagle3", "mtp", "medusa", "mlp_speculator"
    ] = option(
        "What drafts tokens: look-up in the prompt (ngram, ngram_gpu), in prompt and output (suffix), a smaller model "
        "(draft_model), or heads trained for it.",
        default=...,
    )
    model: str | None = option(
        "Hub id or local folder (a relative one starts at the file's folder) of what drafts. Needed by all methods but "
        "ngram, ngram_gpu, suffix and mtp.",
        min_length=1,
    )
    revision: str | None = option("Branch, tag or commit of that model on the hub. Needs model.", min_length=1)
    num_speculative_tokens: int | None = option(
        "Tokens drafted at a time. Unset: what the method's model says; ngram and draft_model need it.",
        unit="tokens",
        ge=1,
    )
    prompt_lookup_max: int | None = option(
        "Longest sequence of tokens that is looked up. Needs method ngram or ngram_gpu.", unit="tokens", ge=1
    )
    prompt_lookup_min: int | None = option(
        "Shortest sequence of tokens that is looked up. Needs method ngram or ngram_gpu.", unit="tokens", ge=1
    )

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        refuse(self, self._contradictions())
        return self

    def _contradictions(self) -> Iterator[Conflict]:
        if self.model is None and self.method not in _WITHOUT_A_MODEL:
            yield Conflict("method", f"{self.method} needs the field model: what drafts the tokens")
        if is_builtin(self.model):
            yield Conflict("model", "a built-in model cannot draft here; name a hub id or a local folder")
        if self.model is not None and self.method in (*_N_GRAM, "suffix"):
            yield Conflict("model", f"has no effect with method: {self.method}, which looks tokens up; remove it")
        if self.revision is not None and self.model is None:
            yield Conflict("revision", "has no effect without model; set one or remove it")
        if self.num_speculative_tokens is None and self.method in (*_N_GRAM, "draft_model"):
            yield Conflict("method", f"{self.method} needs the field num_speculative_tokens, such as 4")
        for field in ("prompt_lookup_max", "prompt_lookup_min"):
            if getattr(self, field) is not None and self.method not in _N_GRAM:
                yield Conflict(field, f"has no effect with method: {self.method}; set method: ngram or remove it")
        if (self.prompt_lookup_min or 0) > (self.prompt_lookup_max or self.prompt_lookup_min or 0):
            yield Conflict(
                "prompt_lookup_min", f"{self.prompt_lookup_min} is above prompt_lookup_max ({self.prompt_lookup_max})"
            )


class VllmConfig(Section, stage="load"):
    """Options of the vLLM backend. ``None`` means vLLM's own default.

    Every field is an argument of ``LLM()`` of the same name, but for ``cudagraph_mode``, which is one of
    ``compilation_config``.
    """

    gpu_memory_utilization: float | None = option(
        "Share of the device's memory that weights, activations and the key-value cache may take; the cache gets what "
        "the others leave of it. vLLM's default: 0.92.",
        gt=0,
        le=1,
    )
    kv_cache_memory_bytes: int | None = option(
        "Size of the key-value cache on each device, in place of what gpu_memory_utilization leaves.",
        unit="bytes",
        ge=1,
    )
    max_num_seqs: int | None = option(
        "Most sequences that are computed at a time: all prompts of a pass are handed over at once, and vLLM forms its "
        "batches of them.",
        ge=1,
    )
    max_num_batched_tokens: int | None = option(
        "Most tokens of one forward pass, prefill and decoding together; at least max_num_seqs.", unit="tokens", ge=1
    )
    max_model_len: int | None = option(
        "Longest sequence, prompt and output together. vLLM's default: what the model was made for.",
        unit="tokens",
        ge=1,
    )
    enforce_eager: bool | None = option("Neither compile the model nor record CUDA graphs.")
    optimization_level: Literal[0, 1, 2, 3] | None = option(
        "How much is compiled and recorded, 0 (nothing) to 3. vLLM's default: 2."
    )
    cudagraph_mode: Literal["NONE", "PIECEWISE", "FULL", "FULL_DECODE_ONLY", "FULL_AND_PIECEWISE"] | None = option(
        "What is recorded as CUDA graphs; excludes enforce_eager: true. vLLM's default: FULL_AND_PIECEWISE, where the "
        "attention can."
    )
    enable_prefix_caching: bool | None = option(
        "Keep the keys and values of prompts for later prompts that begin alike. Unset: no, against vLLM's own "
        "default, since from the second round on every prompt would be known and its prefill not be measured."
    )
    enable_chunked_prefill: bool | None = option(
        "Divide long prompts over several forward passes; false needs max_num_batched_tokens of at least max_model_len."
    )
    async_scheduling: bool | None = option("Plan the next forward pass while the last one runs.")
    kv_cache_dtype: KvCacheDtype | None = option("Data type of the key-value cache; auto is the model's.")
    block_size: int | None = option("Tokens in one block of the key-value cache.", unit="tokens", ge=1)
    quantization: Quantization | None = option(
        "How the weights are quantised. Unset: as the model's configuration says. The fp8, int8, nvfp4 and mxfp8 kinds "
        "also quantise weights that are not, while loading; bitsandbytes is not known to every version of vLLM."
    )
    attention_backend: AttentionBackend | None = option(
        "Attention kernel. FLASH_ATTN and FLASHINFER need a GPU, and fp16 or bf16."
    )
    speculative_config: SpeculativeConfig | None = option("Speculative decoding: draft tokens, then check them.")
    cpu_offload_gb: float | None = option(
        "GiB of weights that stay in the memory of the host and are read by the GPU in each forward pass. Needs a GPU.",
        unit="GiB",
        ge=0,
    )
    revision: str | None = option(
        "Branch, tag or commit of the model on the hub, for weights, configuration and tokenizer.", min_length=1
    )
    trust_remote_code: bool | None = option("Run the Python code that comes with the model. Unset: no.")

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        refuse(self, self._contradictions())
        return self

    def _contradictions(self) -> Iterator[Conflict]:
        if self.enforce_eager and self.cudagraph_mode not in (None, "NONE"):
            yield Conflict(
                "cudagraph_mode", "contradicts enforce_eager: true, which records none; remove one of the two"
            )
        if self.enforce_eager and self.optimization_level:
            yield Conflict(
                "optimization_level", "contradicts enforce_eager: true, which is level 0; remove one of the two"
            )
        if self.kv_cache_memory_bytes is not None and self.gpu_memory_utilization is not None:
            yield Conflict(
                "gpu_memory_utilization", "has no effect beside kv_cache_memory_bytes; remove one of the two"
            )
        tokens = self.max_num_batched_tokens
        if tokens is None:
            return
        if self.max_num_seqs is not None and tokens < self.max_num_seqs:
            yield Conflict(
                "max_num_batched_tokens",
                f"{tokens} is below max_num_seqs ({self.max_num_seqs}); raise it or lower that",
            )
        if self.enable_chunked_prefill is False and self.max_model_len is not None and tokens < self.max_model_len:
            yield Conflict(
                "max_num_batched_tokens",
                f"{tokens} is below max_model_len ({self.max_model_len}), which enable_chunked_prefill: false does not "
                "allow; raise it or lower that",
            )
