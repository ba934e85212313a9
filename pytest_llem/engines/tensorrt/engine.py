"""Backend ``tensorrt``: models in the ``LLM`` of TensorRT-LLM, on a CUDA GPU.

It follows TensorRT-LLM's documented interface and is tested against a stand-in with that interface: it has not run with
TensorRT-LLM itself.

TensorRT-LLM is imported when a model is loaded: that starts threads, and a process that is to be forked has none.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from pytest_llem.engines.base import MemoryPlan
from pytest_llem.engines.serving.engine import ServingEngine
from pytest_llem.engines.serving.sources import for_the_source
from pytest_llem.engines.tensorrt.model import TensorRTModel
from pytest_llem.engines.transformers.memory_plan import predict_weights
from pytest_llem.errors import UnavailableError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from pytest_llem.config import ExperimentConfig, LoadConfig
    from pytest_llem.engines.transformers.sources import Source


class TensorRTEngine(ServingEngine):
    """See :class:`pytest_llem.engines.base.Engine`."""

    section = "tensorrt"

    def predict_memory(self, config: ExperimentConfig, folder: Path) -> MemoryPlan:
        """The weights of ``config``: TensorRT-LLM's key-value cache takes a share of what they leave."""
        load = config.load_config(folder)
        if "quant_config" in load.backend_options:
            return MemoryPlan(None, None, "not predicted with tensorrt.quant_config")
        weights = predict_weights(for_the_source(load))
        left = "TensorRT-LLM reserves tensorrt.kv_cache_config.free_gpu_memory_fraction of what its weights leave"
        return MemoryPlan(weights.total_bytes, None, weights.reason or left, weights.loading_bytes)

    def _require(self, device: str) -> None:
        if importlib.util.find_spec("tensorrt_llm") is None:
            raise UnavailableError("needs tensorrt_llm: pip install tensorrt-llm")
        if device != "cuda":
            raise UnavailableError("TensorRT-LLM needs a GPU: run it where --llem-doctor shows a board")

    def _start(self, load: LoadConfig, source: Source, device: torch.device) -> TensorRTModel:
        return TensorRTModel(load, source, device)
