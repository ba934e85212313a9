"""From a load configuration to the arguments of TensorRT-LLM's ``LLM``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_llem.config import LoadConfig
    from pytest_llem.engines.transformers.sources import Source

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def plain_arguments(load: LoadConfig, source: Source, location: str) -> dict[str, Any]:
    """The arguments with which ``LLM`` is made, its configuration objects as mappings.

    Args:
        source: the model as it was found.
        location: hub id or folder of the weights that are read.
    """
    options = dict(load.backend_options)
    # Which class is made; the class knows it.
    options.pop("backend", None)
    # A branch may move on between the configuration, which was read, and the weights: the commit does not.
    options.pop("revision", None)
    if location == source.location and "revision" in source.hub_arguments:
        options["revision"] = options["tokenizer_revision"] = source.hub_arguments["revision"]
    return {
        "model": location,
        "dtype": DTYPES[load.precision],
        # Prompts are token ids, and what ends a sequence is said with each.
        "skip_tokenizer_init": True,
        "tensor_parallel_size": load.tensor,
        **options,
        # TensorRT-LLM's default is on: from the second pass on every prompt would be known.
        "kv_cache_config": {"enable_block_reuse": False, **options.get("kv_cache_config", {})},
    }


def with_objects(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """``arguments`` with TensorRT-LLM's own configuration objects in the place of mappings."""
    from tensorrt_llm import llmapi

    made = dict(arguments)
    for name, of in (
        ("kv_cache_config", "KvCacheConfig"),
        ("cuda_graph_config", "CudaGraphConfig"),
        ("build_config", "BuildConfig"),
    ):
        if name in made:
            made[name] = getattr(llmapi, of)(**made[name])
    if "quant_config" in made:
        kinds = ("quant_algo", "kv_cache_quant_algo")
        made["quant_config"] = llmapi.QuantConfig(
            **{
                name: llmapi.QuantAlgo[value] if name in kinds else value
                for name, value in made["quant_config"].items()
            }
        )
    return made
