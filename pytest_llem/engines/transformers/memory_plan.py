"""How much memory an experiment will take, from its configuration alone, before anything is loaded.

Weights: the model is built without memory (on torch's meta device) and its parameters and buffers are added up; layers
that bitsandbytes quantises count at their quantised size. Key-value cache: two tensors a layer, each
``rows * heads * length * head_dim`` numbers. Neither includes activations or the CUDA context: the prediction is what
an experiment takes at least. Random weights are drawn before they are quantised: until they are loaded, both are held.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from pytest_llem.config import PyTorchConfig
from pytest_llem.engines.base import MemoryPlan
from pytest_llem.engines.transformers.architectures import generating_class
from pytest_llem.engines.transformers.assistant import assistant_load_config
from pytest_llem.engines.transformers.available_memory import available
from pytest_llem.engines.transformers.checkpoints import quantisation_of
from pytest_llem.engines.transformers.checks import DTYPES
from pytest_llem.engines.transformers.sources import load_architecture
from pytest_llem.errors import LlemError, UnavailableError, about, one_line
from pytest_llem.sizes import size

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PretrainedConfig, PreTrainedModel

    from pytest_llem.config import ExperimentConfig, LoadConfig

# bitsandbytes: a 4 bit scale covers this many weights; with double quantisation, scales have a scale for this many.
_WEIGHTS_A_SCALE = 64
_SCALES_A_SCALE = 256


@dataclass(frozen=True)
class _Weights:
    total_bytes: int | None
    architecture: PretrainedConfig | None
    reason: str | None = None
    loading_bytes: int = 0


def predict(config: ExperimentConfig, folder: Path) -> MemoryPlan:
    """What ``config`` takes at least. Costs about a second for a model of 8 billion parameters, once a load.

    Args:
        folder: folder of the experiment file; relative paths start there.
    """
    weights = predict_weights(config.load_config(folder))
    if weights.architecture is None:
        return MemoryPlan(None, None, weights.reason)
    batch_size = (config.pytorch.batch_size if config.pytorch else None) or 1
    # A file's prompts are not read for this; none is longer than the limit.
    longest = config.input_len or config.max_input_tokens
    if config.prompt_count is not None:
        batch_size = min(batch_size, config.prompt_count)
    cache_bytes = kv_cache_bytes(config, weights.architecture, batch_size, longest, config.max_output_tokens)
    reason = weights.reason
    if cache_bytes is None and reason is None:
        reason = "the size of this model's cache, or of this kind of cache, is not known beforehand"
    return MemoryPlan(weights.total_bytes, cache_bytes, reason, weights.loading_bytes)


def check_fits(needed_bytes: int, device: torch.device, what: str) -> None:
    """Compare ``needed_bytes`` with what is free on ``device`` now.

    Args:
        what: what needs them, for the message.

    Raises:
        UnavailableError: it does not fit.
    """
    found = available(device)
    if found is not None and needed_bytes > found.free_bytes:
        limited = f" ({found.limit})" if found.limit else ""
        has = f"{device} has {size(found.free_bytes)} available{limited}"
        raise UnavailableError(f"{what} would take {size(needed_bytes)}, but {has}")


@lru_cache(maxsize=64)
def predict_weights(load: LoadConfig) -> _Weights:
    """Bytes of the weights that ``load`` describes, its assistant's included."""
    try:
        with about(field="model", value=load.model):
            architecture = load_architecture(load)
        if quantisation_of(architecture):
            return _Weights(None, architecture, "not predicted for a checkpoint that is quantised already")
        model = _build_without_memory(architecture, load)
        total_bytes = _weights_bytes(model, load.pytorch)
        loading_bytes = total_bytes
        # With a device map they are drawn on the CPU.
        if load.random_seed is not None and load.pytorch.device_map is None and _quantises(load.pytorch):
            loading_bytes += _weights_bytes(model, PyTorchConfig())
    except LlemError as exc:
        return _Weights(None, None, str(exc))
    except Exception as exc:  # noqa: BLE001  (an estimate that cannot be made is no failure)
        return _Weights(None, None, f"the model's architecture cannot be built: {one_line(exc)}")
    assistant_load = assistant_load_config(load)
    if assistant_load is None:
        return _Weights(total_bytes, architecture, loading_bytes=loading_bytes)
    assistant = predict_weights(assistant_load)
    if assistant.total_bytes is None:
        return _Weights(None, architecture, f"pytorch.assistant_model: {assistant.reason}")
    total_bytes += assistant.total_bytes
    return _Weights(total_bytes, architecture, loading_bytes=max(loading_bytes, total_bytes))


def kv_cache_bytes(
    config: ExperimentConfig, architecture: PretrainedConfig, prompts: int, longest_prompt: int, new_tokens: int
) -> int | None:
    """Bytes of keys and values at the end of one call, on the model's device; ``None`` where they cannot be told.

    Args:
        prompts: prompts of the call.
        longest_prompt: tokens of the longest of them.
        new_tokens: of a sequence.
    """
    options = config.pytorch
    if options is not None and options.use_cache is False:
        return 0
    kind = options.cache_implementation if options is not None else None
    if kind == "quantized":
        return None
    # Each sequence's last token is never fed back.
    length = longest_prompt + new_tokens - 1
    rows = prompts
    if options is not None:
        rows *= max(options.num_beams or 1, options.num_return_sequences or 1)
    try:
        text_config = architecture.get_text_config(decoder=True)
        layers = _layer_bytes_a_row(text_config, length, DTYPES[config.precision].itemsize)
    except Exception:  # noqa: BLE001  (a model without attention has no heads, another has other names for them)
        return None
    if layers is None:
        return None
    if kind is not None and kind.startswith("offloaded"):
        # The layer that is computed and the one that is fetched for it to be followed by.
        return rows * sum(sorted(layers)[-2:])
    return rows * sum(layers)


def _layer_bytes_a_row(config: Any, length: int, number_bytes: int) -> list[int] | None:
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

    # Latent attention, and models without any: what is kept differs from model to model.
    if getattr(config, "kv_lora_rank", None) is not None or not hasattr(config, "num_attention_heads"):
        return None
    layers = DynamicCache(config=config).layers
    own = getattr(config, "per_layer_config", None) or [config] * len(layers)
    sizes = []
    for layer, layer_config in zip(layers, own, strict=True):
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            return None
        heads = getattr(layer_config, "num_key_value_heads", None) or _unnamed_heads(layer_config)
        head_dim = (
            getattr(layer_config, "head_dim", None) or layer_config.hidden_size // layer_config.num_attention_heads
        )
        kept = min(length, getattr(layer, "sliding_window", length))
        sizes.append(2 * heads * head_dim * kept * number_bytes)
    return sizes


def _unnamed_heads(config: Any) -> int:
    """Heads of keys and values where the configuration has no number of its own for them."""
    shared = getattr(config, "multi_query", False) and not getattr(config, "new_decoder_architecture", False)
    return 1 if shared else int(config.num_attention_heads)


def _build_without_memory(architecture: PretrainedConfig, load: LoadConfig) -> PreTrainedModel:
    with torch.device("meta"):
        model: PreTrainedModel = generating_class(architecture).from_config(
            architecture, dtype=DTYPES[load.precision], trust_remote_code=bool(load.pytorch.trust_remote_code)
        )
    return model


def _weights_bytes(model: PreTrainedModel, options: PyTorchConfig) -> int:
    total_bytes = int(model.get_memory_footprint())  # type: ignore[no-untyped-call]
    if not _quantises(options):
        return total_bytes
    from transformers.quantizers.base import get_keys_to_not_convert
    from transformers.quantizers.quantizers_utils import should_convert_module

    kept = [*get_keys_to_not_convert(model), *(model._keep_in_fp32_modules or ())]
    for name, module in model.named_modules():
        if type(module) is torch.nn.Linear and should_convert_module(name, kept):
            total_bytes += _quantised_bytes(module, options) - module.weight.nbytes
    return total_bytes


def _quantises(options: PyTorchConfig) -> bool:
    return bool(options.load_in_4bit or options.load_in_8bit)


def _quantised_bytes(layer: torch.nn.Linear, options: PyTorchConfig) -> int:
    numbers = layer.weight.numel()
    if options.load_in_8bit:
        # A byte each, and an fp32 scale for each row.
        return numbers + 4 * layer.out_features
    scales = -(-numbers // _WEIGHTS_A_SCALE)
    if not options.bnb_4bit_use_double_quant:
        return numbers // 2 + 4 * scales
    return numbers // 2 + scales + 4 * -(-scales // _SCALES_A_SCALE)
