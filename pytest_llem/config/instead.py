"""What engines call things that have a name of their own here, and what an experiment does not set at all.

Refused in ``passthrough:``, and, in the sections of vLLM and TensorRT-LLM, more helpful than that a key is unknown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Instead:
    """What to say of the arguments of one engine's library, by their names.

    Attributes:
        own: what is said of an argument that is the library's own.
        from_pretrained: arguments of what loads the model.
        generate: arguments of what generates.
        in_a_file: arguments of what loads the model that Python code may set, a file may not.
        section: further keys that somebody may look for in the section, as other engines have them.
    """

    own: str
    from_pretrained: Mapping[str, str]
    generate: Mapping[str, str]
    in_a_file: Mapping[str, str] = field(default_factory=dict)
    section: Mapping[str, str] = field(default_factory=dict)

    @property
    def in_section(self) -> Mapping[str, str]:
        """What to say of keys that the section does not have."""
        return {**self.generate, **self.in_a_file, **self.from_pretrained, **self.section}


_MODEL = "use the field model"
_PRECISION = "use the field precision"
_MAX_OUTPUT_TOKENS = "use the field max_output_tokens"
_MIN_NEW_TOKENS = "use the field decoder.min_new_tokens"
_IS_AN_OBJECT = "is an object of Python, which a file cannot give; remove it"
_NO_CODE = "names Python code to run, which a file cannot do; remove it"
_NO_DOWNLOADS = "a file does not say where downloads are written; set HF_HUB_CACHE"
_NO_FILES = "a file does not say where anything is written; remove it"
_NO_SERVERS = "connects to other processes, whose energy would be missing; remove it"
_NO_TOKEN = "a token in a file would be saved with the results; log in with `hf auth login` or set HF_TOKEN"  # noqa: S105
_NO_DEFAULTS = "defaults of the model's own files never apply; remove it"
_NO_ADAPTERS = "adapters are not offered with this backend yet; remove it or set backend: pytorch"
_NOT_SAFE = "the field weights decides it, and pickled weights are never loaded; remove it"
_OWN_TOKENIZER = "the tokenizer is the model's; remove it"
_ONE_WAY = "is not offered: a model is divided by parallel.tensor alone; remove it"
_TENSOR = "use the field parallel.tensor"
_ONE_SEQUENCE = "each prompt has one sequence with this backend; remove it or set backend: pytorch"
_SET = "the measurement sets it; remove it"

_TRANSFORMERS = Instead(
    own="is transformers' own; remove it",
    from_pretrained={
        "pretrained_model_name_or_path": _MODEL,
        "dtype": _PRECISION,
        "torch_dtype": _PRECISION,
        "quantization_config": "use the fields pytorch.load_in_4bit, pytorch.load_in_8bit and pytorch.bnb_4bit_*",
        "config": _IS_AN_OBJECT,
        "state_dict": _IS_AN_OBJECT,
        "allow_all_kernels": "use the fields pytorch.attn_implementation and pytorch.trust_remote_code",
        "use_kernels": "code from the hub would replace layers in silence; use the field pytorch.attn_implementation",
        "low_cpu_mem_usage": "transformers 5 ignores it; remove it",
        **dict.fromkeys(("device_mesh", "distributed_config", "tp_plan", "tp_size"), _TENSOR),
        "use_safetensors": "pickled weights are never loaded; remove it",
        "weights_only": "pickled weights are never loaded; remove it",
        "code_revision": "code comes from the same commit as the model; use the field pytorch.revision",
        "kernel_config": _IS_AN_OBJECT,
        "token": _NO_TOKEN,
        "proxies": "may hold a password, which would be saved with the results; set HTTPS_PROXY",
    },
    generate={
        "max_new_tokens": _MAX_OUTPUT_TOKENS,
        "max_length": _MAX_OUTPUT_TOKENS,
        "min_length": _MIN_NEW_TOKENS,
        "generation_config": "give its options one by one",
        "use_model_defaults": _NO_DEFAULTS,
        "custom_generate": "code from the hub is not run in generate(); remove it",
        "inputs": "use the field dataset",
        "input_ids": "use the field dataset",
        "attention_mask": "use the field dataset",
        "inputs_embeds": "use the field dataset",
        "streamer": "the measurement sets its own; remove it",
        "return_dict_in_generate": _SET,
        "tokenizer": _SET,
        "cache_position": _SET,
        "past_key_values": "use the field pytorch.cache_implementation",
        "compile_config": "use the fields pytorch.torch_compile, pytorch.torch_compile_mode and "
        "pytorch.disable_compile",
        **dict.fromkeys(
            ("num_beam_groups", "diversity_penalty", "penalty_alpha", "dola_layers", "constraints", "force_words_ids"),
            "belongs to a way of decoding that transformers has moved to the hub, whose code generate() does not run "
            "here; remove it",
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
            _IS_AN_OBJECT,
        ),
    },
    # A file never says where anything is written; Python code may.
    in_a_file={
        "cache_dir": _NO_DOWNLOADS,
        "offload_folder": "a file does not say where weights are written; name the modules in pytorch.device_map, "
        "whose weights are then read from the checkpoint",
    },
)

_NO_BEAMS = "vLLM's generate() has no beam search; remove it or set backend: pytorch"

_VLLM = Instead(
    own="is vLLM's own; remove it",
    from_pretrained={
        "model": _MODEL,
        "tokenizer": _OWN_TOKENIZER,
        "hf_config_path": _MODEL,
        "model_weights": _MODEL,
        "dtype": _PRECISION,
        "seed": "use the field random_seed",
        "load_format": _NOT_SAFE,
        "code_revision": "code comes from the same commit as the model; use the field vllm.revision",
        "tokenizer_revision": "the tokenizer comes from the same commit as the model; use the field vllm.revision",
        "generation_config": _NO_DEFAULTS,
        "override_generation_config": "use the fields of decoder",
        "compilation_config": "use the fields vllm.cudagraph_mode, vllm.optimization_level and vllm.enforce_eager",
        **dict.fromkeys(("spec_method", "spec_model", "spec_tokens"), "use the field vllm.speculative_config"),
        "hf_token": _NO_TOKEN,
        "enable_lora": _NO_ADAPTERS,
        **dict.fromkeys(
            (
                "data_parallel_address",
                "data_parallel_backend",
                "data_parallel_rank",
                "data_parallel_rpc_port",
                "data_parallel_size",
                "data_parallel_size_local",
                "data_parallel_start_rank",
                "decode_context_parallel_size",
                "enable_expert_parallel",
                "master_addr",
                "master_port",
                "nnodes",
                "node_rank",
                "pipeline_parallel_size",
                "prefill_context_parallel_size",
            ),
            _ONE_WAY,
        ),
        "tensor_parallel_size": _TENSOR,
        **dict.fromkeys(
            (
                "distributed_executor_backend",
                "io_processor_plugin",
                "logits_processors",
                "model_class_overrides",
                "reasoning_parser_plugin",
                "scheduler_cls",
                "worker_cls",
                "worker_extension_cls",
            ),
            _NO_CODE,
        ),
        **dict.fromkeys(("disable_log_stats", "logprobs_mode", "skip_tokenizer_init", "use_tqdm_on_load"), _SET),
        **dict.fromkeys(("convert", "pooler_config", "runner"), "text generation alone is measured; remove it"),
        **dict.fromkeys(
            ("log_config_file", "logging_config", "mm_encoder_fp8_scale_save_path", "profiler_config"), _NO_FILES
        ),
        **dict.fromkeys(
            (
                "ec_transfer_config",
                "kv_events_config",
                "kv_transfer_config",
                "otlp_traces_endpoint",
                "weight_transfer_config",
            ),
            _NO_SERVERS,
        ),
    },
    generate={
        "max_tokens": _MAX_OUTPUT_TOKENS,
        "max_new_tokens": _MAX_OUTPUT_TOKENS,
        "min_tokens": _MIN_NEW_TOKENS,
        "stop": "use the field decoder.stop_strings",
        "seed": "use the field random_seed",
        **dict.fromkeys(("n", "num_return_sequences"), _ONE_SEQUENCE),
        **dict.fromkeys(("early_stopping", "length_penalty", "num_beams", "use_beam_search"), _NO_BEAMS),
        **dict.fromkeys(
            ("no_repeat_ngram_size", "typical_p"), "vLLM has no such option; remove it or set backend: pytorch"
        ),
        "prompt_lookup_num_tokens": "use the field vllm.speculative_config with method: ngram",
        **dict.fromkeys(
            ("assistant_model", "num_assistant_tokens"),
            "use the field vllm.speculative_config with method: draft_model",
        ),
        **dict.fromkeys(
            ("cache_config", "cache_implementation", "use_cache"),
            "vLLM's key-value cache is always its own, paged one; remove it",
        ),
        **dict.fromkeys(
            (
                "detokenize",
                "flat_logprobs",
                "logprobs",
                "output_kind",
                "prompt_logprobs",
                "skip_clone",
                "skip_reading_prefix_cache",
                "skip_special_tokens",
                "stream_interval",
            ),
            _SET,
        ),
        "structured_outputs": _IS_AN_OBJECT,
    },
    in_a_file={"download_dir": _NO_DOWNLOADS},
    section={
        "attn_implementation": "use the field vllm.attention_backend",
        "batch_size": "vLLM forms its batches itself; use the field vllm.max_num_seqs",
        **dict.fromkeys(("device_map", "max_memory"), _TENSOR),
        **dict.fromkeys(("load_in_4bit", "load_in_8bit"), "use the field vllm.quantization"),
        "lora": _NO_ADAPTERS,
        "max_batch_size": "use the field vllm.max_num_seqs",
        "torch_compile": "use the fields vllm.optimization_level and vllm.enforce_eager",
    },
)

_BEAMS = "use the field tensorrt.max_beam_width: beams are fixed when the model is loaded or built"

_TENSORRT = Instead(
    own="is TensorRT-LLM's own; remove it",
    from_pretrained={
        "model": _MODEL,
        "tokenizer": _OWN_TOKENIZER,
        "custom_tokenizer": _OWN_TOKENIZER,
        "dtype": _PRECISION,
        "load_format": _NOT_SAFE,
        "tokenizer_revision": "the tokenizer comes from the same commit as the model; use the field tensorrt.revision",
        **dict.fromkeys(("enable_lora", "lora_config"), _NO_ADAPTERS),
        **dict.fromkeys(
            (
                "context_parallel_size",
                "gpus_per_node",
                "moe_cluster_parallel_size",
                "moe_expert_parallel_size",
                "moe_tensor_parallel_size",
                "pipeline_parallel_size",
            ),
            _ONE_WAY,
        ),
        "tensor_parallel_size": _TENSOR,
        **dict.fromkeys(("batched_logits_processor", "checkpoint_loader"), _IS_AN_OBJECT),
        "post_processor_hook": _NO_CODE,
        "skip_tokenizer_init": _SET,
        "cache_transceiver_config": _NO_SERVERS,
    },
    generate={
        "max_tokens": _MAX_OUTPUT_TOKENS,
        "max_new_tokens": _MAX_OUTPUT_TOKENS,
        "min_tokens": _MIN_NEW_TOKENS,
        "stop": "use the field decoder.stop_strings",
        "seed": "use the field random_seed",
        **dict.fromkeys(("n", "num_return_sequences"), _ONE_SEQUENCE),
        **dict.fromkeys(("best_of", "num_beams", "use_beam_search"), _BEAMS),
        **dict.fromkeys(("embedding_bias", "guided_decoding", "logits_processor"), _IS_AN_OBJECT),
        **dict.fromkeys(
            (
                "apply_batched_logits_processor",
                "detokenize",
                "end_id",
                "include_stop_str_in_output",
                "logprobs",
                "pad_id",
                "prompt_logprobs",
                "return_context_logits",
                "return_generation_logits",
                "return_perf_metrics",
                "skip_special_tokens",
            ),
            _SET,
        ),
    },
    in_a_file=dict.fromkeys(("enable_build_cache", "workspace"), _NO_FILES),
    section={
        "attn_implementation": "use the field tensorrt.attn_backend",
        "batch_size": "TensorRT-LLM forms its batches itself; use the field tensorrt.max_batch_size",
        "enable_block_reuse": "use the field tensorrt.kv_cache_config.enable_block_reuse",
        "max_num_seqs": "use the field tensorrt.max_batch_size",
        "free_gpu_memory_fraction": "use the field tensorrt.kv_cache_config.free_gpu_memory_fraction",
        **dict.fromkeys(("device_map", "max_memory"), _TENSOR),
        **dict.fromkeys(("load_in_4bit", "load_in_8bit", "quantization"), "use the field tensorrt.quant_config"),
        "lora": _NO_ADAPTERS,
    },
)

INSTEAD: Mapping[str, Instead] = {"pytorch": _TRANSFORMERS, "vllm": _VLLM, "tensorrt": _TENSORRT}
"""By backend."""
