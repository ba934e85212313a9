"""What an experiment needs of this machine, found out before anything is downloaded, loaded or run."""

from __future__ import annotations

import difflib
import importlib.util
import re
import sys
from typing import TYPE_CHECKING, Any

import torch
import torch._dynamo

from pytest_llem.config.kv_cache import STATIC_CACHES
from pytest_llem.config.pytorch import gpu_number
from pytest_llem.errors import LoadError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_llem.config import PyTorchConfig

# The module that each kernel imports, and the package it comes from. Where the package is missing, transformers would
# look for a substitute on the hub.
_FLASH_MODULES: Mapping[str, tuple[str, str]] = {
    "flash_attention_2": ("flash_attn", "flash-attn"),
    "flash_attention_3": ("flash_attn_interface", "flash-attn-3"),
    "flash_attention_4": ("flash_attn.cute", "flash-attn-4"),
}

# What a quantised cache's backend imports, and the package it comes from; fp8 is torch's own.
_CACHE_MODULES: Mapping[str, tuple[str, str]] = {"quanto": ("optimum.quanto", "optimum-quanto"), "hqq": ("hqq", "hqq")}

# How transformers' code asks for a package. Those of torch are its build and devices; attention has a field of its own.
_ASKED_FOR = re.compile(r"is_(?!torch|flash_attn)(\w+)_available")

# The first GPUs with TF32 tensor cores (Ampere).
_TF32_CAPABILITY = (8, 0)


def check_load_requirements(options: PyTorchConfig, device: torch.device) -> None:
    """Find out whether this machine has what loading with ``options`` needs.

    Raises:
        UnavailableError: a package or a device is missing.
        LoadError: torch has no such backend for compiling.
    """
    if options.load_in_4bit or options.load_in_8bit:
        field = "pytorch.load_in_4bit" if options.load_in_4bit else "pytorch.load_in_8bit"
        _require("bitsandbytes", "'pytest-llem[bnb]'", field=field)
    if options.lora is not None:
        _require("peft", "'pytest-llem[lora]'", field="pytorch.lora")
    _check_gpus(options, device)
    _check_attention(options.attn_implementation, device)
    _check_compiler(options.torch_compile_backend)


def check_generate_requirements(
    options: Mapping[str, Any], *, allow_tf32: bool | None, cuda: bool, cuda_graphs: bool = False
) -> None:
    """Find out whether this machine has what ``generate()`` needs for its ``options``.

    Args:
        options: the options of the generation config that the experiment sets.
        allow_tf32: the experiment's field of that name.
        cuda: whether the model lies on a CUDA GPU.
        cuda_graphs: whether the forward pass is compiled to CUDA graphs.

    Raises:
        UnavailableError: a package or a device is missing, or would not do what an option says.
    """
    if allow_tf32:
        if not cuda:
            raise UnavailableError("needs a CUDA GPU", field="pytorch.allow_tf32")
        if torch.cuda.get_device_capability() < _TF32_CAPABILITY:
            message = f"needs a GPU with TF32; {torch.cuda.get_device_name()} has none"
            raise UnavailableError(message, field="pytorch.allow_tf32")
    if options.get("disable_compile") is False and not cuda:
        message = "needs a CUDA GPU: on the CPU generate() compiles nothing by itself"
        raise UnavailableError(message, field="pytorch.disable_compile", value=False)
    cache = options.get("cache_implementation") or ""
    if cuda_graphs and options.get("use_cache") is not False and cache not in STATIC_CACHES:
        # Keys and values are outputs of a graph, which its next call frees while the cache still holds them.
        raise UnavailableError(
            "uses CUDA graphs on a GPU, which do not keep a cache that grows: set cache_implementation: static, or a "
            "mode without them, such as max-autotune-no-cudagraphs",
            field="pytorch.torch_compile_mode",
        )
    if cache.startswith("offloaded") and not cuda:
        raise UnavailableError("needs a CUDA GPU", field="pytorch.cache_implementation", value=cache)
    if cache == "quantized":
        backend = (options.get("cache_config") or {}).get("backend") or "quanto"
        if backend in _CACHE_MODULES:
            module, package = _CACHE_MODULES[backend]
            _require(module, package, field="pytorch.cache_implementation", value=cache)


def missing_kernels(model: Any) -> list[str]:
    """What ``model`` may run slower for: packages that its code looks for, without which it takes a reference path,
    sometimes without a word."""
    code = getattr(sys.modules.get(type(model).__module__), "__dict__", {})
    names = [found[1] for name, there in code.items() if (found := _ASKED_FOR.fullmatch(name)) and not there()]
    return [f"transformers: {type(model).__name__} looks for {name}, which is not usable here" for name in names]


def is_hub_kernel(attention: str) -> bool:
    """Whether ``attention`` names a kernel of the hub, ``organisation/repository``."""
    return "/" in attention


def installed(module: str) -> bool:
    """Whether ``module`` could be imported, found out without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the parent package
        return False


def _require(module: str, package: str, **field: Any) -> None:
    if not installed(module):
        raise UnavailableError(f"needs the package {package.strip(chr(39))}: pip install {package}", **field)


def _check_gpus(options: PyTorchConfig, device: torch.device) -> None:
    on_gpu = device.type == "cuda"
    there = torch.cuda.device_count() if on_gpu else 0
    for field, places in (("device_map", options.places()), ("max_memory", options.max_memory or ())):
        for place in places:
            number = gpu_number(place)
            if number is not None and number >= there:
                reason = f"this process sees {there} of them" if on_gpu else "the experiment runs on the CPU"
                raise UnavailableError(f"names GPU {number}, and {reason}", field=f"pytorch.{field}")


def _check_attention(attention: str | None, device: torch.device) -> None:
    if attention is None:
        return
    field: dict[str, Any] = {"field": "pytorch.attn_implementation", "value": attention}
    if attention in _FLASH_MODULES:
        if device.type != "cuda":
            raise UnavailableError("needs a CUDA GPU", **field)
        module, package = _FLASH_MODULES[attention]
        _require(module, package, **field)
    elif is_hub_kernel(attention):
        _require("kernels", "kernels", **field)


def _check_compiler(backend: str | None) -> None:
    if backend is None or backend in (known := torch._dynamo.list_backends(exclude_tags=())):
        return
    near = difflib.get_close_matches(backend, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    usual = ", ".join(torch._dynamo.list_backends())
    raise LoadError(f"unknown backend; {hint}torch has {usual}", field="pytorch.torch_compile_backend", value=backend)
