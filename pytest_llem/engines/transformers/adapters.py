"""LoRA adapters over a model's weights, through peft.

peft skips in silence what an adapter's file holds for layers that the model lacks, and the other way round. So the
adapter's tensors are compared with those that ended up in the model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pytest_llem.engines.transformers.checkpoints import no_pickles
from pytest_llem.engines.transformers.checks import DTYPES
from pytest_llem.engines.transformers.hub import hub_file
from pytest_llem.errors import LoadError, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

    from pytest_llem.config import LoraConfig

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_NAME = "default"


def find_adapter(path: str, hub_arguments: Mapping[str, Any]) -> Path:
    """The folder that holds the adapter ``path``, a local folder or a hub id.

    Raises:
        LoadError: there is none, it is no LoRA adapter, or its weights are pickled.
    """
    folder = Path(path)
    if not folder.is_absolute():
        files = [hub_file(path, name, hub_arguments) for name in (_CONFIG, _WEIGHTS)]
        folder = files[0].parent
    elif not folder.is_dir():
        raise LoadError("a file; name the folder that holds it" if folder.is_file() else "no such folder")
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise LoadError(f"its {_CONFIG} cannot be read: {one_line(exc)}") from exc
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise LoadError(f"an adapter of the kind {kind}; only LORA is applied")
    if config.get("megatron_config"):
        # peft would import a module that the adapter names.
        raise LoadError("is made for Megatron; only adapters of transformers' own layers are applied")
    if not (folder / _WEIGHTS).is_file():
        raise LoadError(f"has no {_WEIGHTS}; pickled weights are never loaded")
    return folder


def apply_lora(model: PreTrainedModel, lora: LoraConfig, folder: Path, precision: str) -> PreTrainedModel:
    """Put the adapter in ``folder`` over ``model``, which is changed in place.

    Args:
        precision: type of the adapter's weights, ``fp32``, ``fp16`` or ``bf16``.

    Returns:
        The model with adapter layers, or with changed weights and its former layers if ``lora.merge``.

    Raises:
        LoadError: the adapter does not fit the model, or would not take part in the forward pass.
    """
    from peft import PeftModel

    try:
        with no_pickles():
            wrapped: Any = PeftModel.from_pretrained(
                model, str(folder), adapter_name=_NAME, autocast_adapter_dtype=False
            )
    except (RuntimeError, ValueError, KeyError) as exc:
        raise LoadError(f"does not fit the model: {one_line(exc)}") from exc
    layers = adapter_layers(wrapped)
    if not layers:
        raise LoadError("fits no layer of the model")
    for layer in layers:
        _to_dtype(layer, DTYPES[precision])
    _check_tensors(wrapped, folder)
    if lora.merge:
        _merge(layers)
        merged: PreTrainedModel = wrapped.base_model.unload()
        return merged
    for layer in layers:
        if layer.disable_adapters or layer.merged or _NAME not in layer.active_adapters:
            raise LoadError("peft left the adapter inactive")
    base: PreTrainedModel = wrapped.get_base_model()
    base.train(False)
    return base


def adapter_layers(model: Any) -> list[Any]:
    """The layers of ``model`` that compute a LoRA adapter."""
    from peft.tuners.lora import LoraLayer

    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def _to_dtype(layer: Any, dtype: torch.dtype) -> None:
    for name, parameter in layer.named_parameters():
        if "lora_" in name and parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def _check_tensors(wrapped: Any, folder: Path) -> None:
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    # Embeddings belong to an adapter only where they were resized; to find that out, peft would ask the hub.
    loaded = get_peft_model_state_dict(wrapped, adapter_name=_NAME, save_embedding_layers=False)
    # Beside an embedding that it adapts, an adapter keeps the model's own.
    stored = {name: tensor for name, tensor in load_file(folder / _WEIGHTS).items() if ".base_layer." not in name}
    if odd := sorted(set(loaded) ^ set(stored)):
        where = "the model" if odd[0] in stored else "the adapter"
        raise LoadError(f"{len(odd)} tensors do not match, {odd[0]!r} is missing in {where}")
    for name, tensor in stored.items():
        applied = loaded[name].detach().cpu()
        if not torch.equal(applied, tensor.to(applied.dtype)):
            raise LoadError(f"{name!r} in the model is not what the adapter holds")


def _merge(layers: list[Any]) -> None:
    changed = False
    for layer in layers:
        before = layer.get_base_layer().weight.detach().clone()
        layer.merge(safe_merge=True)
        changed |= not torch.equal(before, layer.get_base_layer().weight)
    if not changed:
        raise LoadError("merging it changed no weight: it is zero, or too small for this precision")
