"""A started engine, compared with its experiment: vLLM adjusts many requests in silence, or with a line of its log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_llem.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Where the resolved configuration says what became of an argument of ``LLM``.
RESOLVED: Mapping[str, str] = {
    "attention_backend": "attention_config.backend",
    "block_size": "cache_config.block_size",
    "cpu_offload_gb": "offload_config.uva.cpu_offload_gb",
    "dtype": "model_config.dtype",
    "enable_chunked_prefill": "scheduler_config.enable_chunked_prefill",
    "enable_prefix_caching": "cache_config.enable_prefix_caching",
    "enforce_eager": "model_config.enforce_eager",
    "gpu_memory_utilization": "cache_config.gpu_memory_utilization",
    "kv_cache_dtype": "cache_config.cache_dtype",
    "max_model_len": "model_config.max_model_len",
    "max_num_batched_tokens": "scheduler_config.max_num_batched_tokens",
    "max_num_seqs": "scheduler_config.max_num_seqs",
    "quantization": "model_config.quantization",
    "tensor_parallel_size": "parallel_config.tensor_parallel_size",
}

# Arguments that have another name in a file.
_FIELDS: Mapping[str, str] = {"dtype": "precision", "tensor_parallel_size": "parallel.tensor"}

# Formats for which vLLM has several kernels: it names the one that it takes.
_KERNELS_OF: Mapping[str, tuple[str, ...]] = {
    "awq": ("awq_marlin", "auto_awq"),
    "gptq": ("gptq_marlin", "gptq_marlin_24", "auto_gptq"),
}


def check_resolved(arguments: Mapping[str, Any], resolved: Any) -> None:
    """Compare the arguments of ``LLM`` with its resolved configuration, ``llm.llm_engine.vllm_config``.

    Raises:
        LoadError: something was asked and did not happen.
    """
    for name, wanted in arguments.items():
        if wanted is None or (name not in RESOLVED and name != "speculative_config"):
            continue
        if name == "speculative_config":
            _check_speculative(wanted, resolved.speculative_config)
            continue
        found = _plain(_at(resolved, RESOLVED[name]))
        if not _same(name, _plain(wanted), found):
            raise LoadError(f"vLLM runs with {found!r} instead", field=_FIELDS.get(name, f"vllm.{name}"), value=wanted)


def _check_speculative(wanted: Mapping[str, Any], found: Any) -> None:
    if found is None:
        raise LoadError("vLLM drafts no tokens", field="vllm.speculative_config")
    for name, value in wanted.items():
        if hasattr(found, name) and _plain(getattr(found, name)) != value:
            raise LoadError(
                f"vLLM runs with {_plain(getattr(found, name))!r} instead",
                field=f"vllm.speculative_config.{name}",
                value=value,
            )


def _same(name: str, wanted: Any, found: Any) -> bool:
    if name == "quantization":
        return found == wanted or found in _KERNELS_OF.get(wanted, ())
    if name == "attention_backend":
        return str(found).upper() == str(wanted).upper()
    return bool(found == wanted)


def _at(resolved: Any, path: str) -> Any:
    for name in path.split("."):
        resolved = getattr(resolved, name)
    return resolved


def _plain(value: Any) -> Any:
    """Enumerations by their name, torch's types as vLLM's arguments spell them."""
    if hasattr(value, "name") and hasattr(value, "value"):
        return value.name
    text = str(value)
    return text.removeprefix("torch.") if text.startswith("torch.") else value
