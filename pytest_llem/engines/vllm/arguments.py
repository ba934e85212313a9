"""From a load configuration to the arguments of vLLM's ``LLM``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_llem.config import LoadConfig
    from pytest_llem.engines.transformers.sources import Source

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}

WORKER_EXTENSION = "pytest_llem.engines.vllm.worker.WorkerExtension"

# Of what is not the experiment's to say, by the arguments' names.
_OURS = {
    # The defaults of the model's own files never apply.
    "generation_config": "vllm",
    # Never a pickle, which executes what it holds.
    "load_format": "safetensors",
    # When tokens appear is among the statistics.
    "disable_log_stats": False,
    # What the choice is made between: after penalties and suppressed tokens.
    "logprobs_mode": "processed_logprobs",
    "worker_extension_cls": WORKER_EXTENSION,
}


def llm_arguments(load: LoadConfig, source: Source, location: str) -> dict[str, Any]:
    """The arguments with which ``LLM`` is made.

    Args:
        source: the model as it was found.
        location: hub id or folder of the weights that are read.
    """
    options = dict(load.backend_options)
    cudagraph_mode = options.pop("cudagraph_mode", None)
    if cudagraph_mode is not None:
        options["compilation_config"] = {"cudagraph_mode": cudagraph_mode}
    # A branch may move on between the configuration, which was read, and the weights: the commit does not.
    options.pop("revision", None)
    if location == source.location and "revision" in source.hub_arguments:
        options["revision"] = options["tokenizer_revision"] = source.hub_arguments["revision"]
    arguments = {
        "model": location,
        "dtype": DTYPES[load.precision],
        # vLLM's default is on: from the second pass on every prompt would be known.
        "enable_prefix_caching": False,
        "skip_tokenizer_init": source.tokenizer is None,
        "tensor_parallel_size": load.tensor,
        **options,
    }
    return arguments | _OURS
