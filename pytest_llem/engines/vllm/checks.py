"""A started engine, compared with its experiment: vLLM adjusts many requests in silence, or with a line of its log."""

from __future__ import annotations

import os
from enum import Enum
from typing import TYPE_CHECKING, Any

from pytest_llem.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Where the resolved configuration says what became of an argument of ``LLM``.
RESOLVED: Mapping[str, str] = {
    "async_scheduling": "scheduler_config.async_scheduling",
    "attention_backend": "attention_config.backend",
    "block_size": "cache_config.block_size",
    "compilation_config.cudagraph_mode": "compilation_config.cudagraph_mode",
    "cpu_offload_gb": "offload_config.uva.cpu_offload_gb",
    "dtype": "model_config.dtype",
    "enable_chunked_prefill": "scheduler_config.enable_chunked_prefill",
    "enable_prefix_caching": "cache_config.enable_prefix_caching",
    "enforce_eager": "model_config.enforce_eager",
    "gpu_memory_utilization": "cache_config.gpu_memory_utilization",
    "kv_cache_memory_bytes": "cache_config.kv_cache_memory_bytes",
    "kv_cache_dtype": "cache_config.cache_dtype",
    "max_model_len": "model_config.max_model_len",
    "max_num_batched_tokens": "scheduler_config.max_num_batched_tokens",
    "max_num_seqs": "scheduler_config.max_num_seqs",
    "optimization_level": "optimization_level",
    "quantization": "model_config.quantization",
    "tensor_parallel_size": "parallel_config.tensor_parallel_size",
    "revision": "model_config.revision",
    "trust_remote_code": "model_config.trust_remote_code",
}

# Arguments that have another name in a file.
_FIELDS: Mapping[str, str] = {
    "dtype": "precision",
    "tensor_parallel_size": "parallel.tensor",
    "compilation_config.cudagraph_mode": "vllm.cudagraph_mode",
}

# Formats for which vLLM has several kernels: it names the one that it takes.
_KERNELS_OF: Mapping[str, tuple[str, ...]] = {
    "awq": ("awq_marlin", "auto_awq"),
    "gptq": ("gptq_marlin", "gptq_marlin_24", "auto_gptq"),
}


def check_resolved(arguments: Mapping[str, Any], passed: Mapping[str, Any], resolved: Any) -> list[str]:
    """Compare the arguments of ``LLM`` with its resolved configuration, ``llm.llm_engine.vllm_config``.

    Args:
        arguments: those that this package knows.
        passed: those that an experiment passes through.

    Returns:
        What could not be compared, a sentence each.

    Raises:
        LoadError: something was asked and did not happen.
    """
    flat = dict(arguments)
    drafting, compilation = flat.pop("speculative_config", None), flat.pop("compilation_config", {})
    flat |= {f"compilation_config.{name}": value for name, value in compilation.items()}
    for name, path in RESOLVED.items():
        if flat.get(name) is not None:
            _compare(_FIELDS.get(name, f"vllm.{name}"), name, flat[name], _at(resolved, path))
    if drafting is not None:
        _check_drafting(drafting, resolved.speculative_config)
    return [*_unknown(passed, resolved)]


def _check_drafting(wanted: Mapping[str, Any], found: Any) -> None:
    if found is None:
        raise LoadError("vLLM drafts no tokens", field="vllm.speculative_config")
    for name, value in wanted.items():
        if hasattr(found, name):
            _compare(f"vllm.speculative_config.{name}", name, value, getattr(found, name))


def _unknown(passed: Mapping[str, Any], resolved: Any) -> Iterator[str]:
    """Compares what is passed through with whatever part of the configuration has something of that name."""
    parts = [part for part in vars(resolved).values() if hasattr(part, "__dict__")]
    for name, wanted in passed.items():
        field = f"passthrough.from_pretrained.{name}"
        found = [getattr(part, name) for part in (resolved, *parts) if hasattr(part, name)]
        if not found or isinstance(wanted, dict):
            yield f"{field}: vLLM's configuration does not say whether it was carried out"
        else:
            _compare(field, name, wanted, found[0])


def _compare(field: str, name: str, wanted: Any, found: Any) -> None:
    if not _same(name, wanted, found):
        # On the CPU, this variable of vLLM's wins.
        set_outside = name == "kv_cache_memory_bytes" and os.environ.get("VLLM_CPU_KVCACHE_SPACE")
        hint = "; unset VLLM_CPU_KVCACHE_SPACE" if set_outside else ""
        raise LoadError(f"vLLM runs with {_plain(found)!r} instead{hint}", field=field, value=wanted)


def _same(name: str, wanted: Any, found: Any) -> bool:
    if name == "kv_cache_dtype" and wanted == "auto":
        return True
    if name == "quantization" and found in _KERNELS_OF.get(wanted, ()):
        return True
    # An enumeration is named in a file by its name, or by its number.
    return bool(wanted in (found, _plain(found), getattr(found, "value", found)))


def _at(resolved: Any, path: str) -> Any:
    for name in path.split("."):
        resolved = getattr(resolved, name)
    return resolved


def _plain(value: Any) -> Any:
    """Enumerations by their name, torch's types as vLLM's arguments spell them."""
    if isinstance(value, Enum):
        return value.name
    text = str(value)
    return text.removeprefix("torch.") if text.startswith("torch.") else value
