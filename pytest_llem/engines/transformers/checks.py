"""A loaded model, compared with its experiment.

transformers accepts many requests that it then does not carry out. A measurement of something else under this
name is worse than none, so each difference is a :class:`~pytest_llem.errors.LoadError`.
"""

from __future__ import annotations

import copy
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch

from pytest_llem.errors import LoadError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from transformers import PreTrainedModel

    from pytest_llem.config import LoadConfig, PyTorchConfig

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# What is left legitimately, such as the routers of experts, is far less.
_LARGEST_UNQUANTISED_SHARE = 0.1

# block_n of bitsandbytes.functional._convert_weight_packed_for_cpu
_CPU_BLOCK = 32


def check_loaded(model: PreTrainedModel, load: LoadConfig, options: PyTorchConfig, device: torch.device) -> None:
    """Compare ``model`` with ``load``.

    Raises:
        LoadError: they differ.
        UnavailableError: the model could not be run on this machine.
    """
    _check_attention(model, options)
    _check_quantisation(model, options)
    _check_dtypes(model, load, options)
    _check_placement(model, load, options, device)


def placement(model: PreTrainedModel) -> set[str]:
    """The devices on which the weights of ``model`` lie: ``cpu``, ``disk``, ``cuda:0`` ..."""
    # Weights that accelerate offloaded are left as empty tensors on the meta device; only the map knows.
    device_map = getattr(model, "hf_device_map", None)
    if device_map:
        return {_place(place) for place in device_map.values()}
    return {str(tensor.device) for tensor in chain(model.parameters(), model.buffers())}


def _place(entry: int | str | torch.device) -> str:
    if isinstance(entry, int):
        return f"cuda:{entry}"
    return f"cuda:{torch.cuda.current_device()}" if str(entry) == "cuda" else str(entry)


def _check_attention(model: PreTrainedModel, options: PyTorchConfig) -> None:
    expected = options.attn_implementation
    loaded = model.config._attn_implementation
    if expected is not None and loaded != expected:
        raise LoadError(f"the model uses {loaded!r} instead", field="pytorch.attn_implementation", value=expected)


def _check_quantisation(model: PreTrainedModel, options: PyTorchConfig) -> None:
    if not (options.load_in_4bit or options.load_in_8bit):
        return
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt
    from transformers.quantizers.quantizers_utils import should_convert_module

    field = "pytorch.load_in_4bit" if options.load_in_4bit else "pytorch.load_in_8bit"
    wanted = Linear4bit if options.load_in_4bit else Linear8bitLt
    layers = {name: module for name, module in model.named_modules() if isinstance(module, wanted)}
    if not layers:
        raise LoadError("no layer of the model is quantised that way", field=field)
    quantizer: Any = model.hf_quantizer
    left = [
        name
        for name, module in model.named_modules()
        if type(module) is torch.nn.Linear and should_convert_module(name, quantizer.modules_to_not_convert)
    ]
    if left:
        raise LoadError(f"{len(left)} layers are not quantised, {left[0]!r} among them", field=field)
    # Experts, for instance, may be stacked in one parameter that is no layer.
    stacks = {
        f"{name}.{part}": parameter.nbytes
        for name, module in model.named_modules()
        if not isinstance(module, torch.nn.Embedding)
        for part, parameter in module.named_parameters(recurse=False)
        if parameter.is_floating_point()
        and parameter.squeeze().ndim > 1
        and should_convert_module(f"{name}.{part}", quantizer.modules_to_not_convert)
    }
    share = sum(stacks.values()) / sum(parameter.nbytes for parameter in model.parameters())
    if share > _LARGEST_UNQUANTISED_SHARE:
        raise LoadError(
            f"{share:.0%} of the bytes are weights that bitsandbytes does not quantise, "
            f"{max(stacks, key=lambda name: stacks[name])!r} among them; remove it",
            field=field,
        )
    if options.load_in_4bit:
        _check_4bit_options(layers.values(), options)
        _check_4bit_sizes(layers)


def _check_4bit_sizes(layers: Mapping[str, Any]) -> None:
    """What Linear4bit does to its weight on the first call, on a CPU that has AVX512-BF16, fails for other sizes."""
    for name, layer in layers.items():
        if not getattr(layer, "support_avx512bf16_for_cpu", False) or layer.weight.device.type != "cpu":
            continue
        (outputs, inputs), block = layer.weight.quant_state.shape, layer.weight.quant_state.blocksize
        if outputs % _CPU_BLOCK or inputs % block:
            raise UnavailableError(
                f"on this CPU bitsandbytes needs layers whose outputs divide by {_CPU_BLOCK} and inputs by {block}; "
                f"{name!r} has {outputs} and {inputs}; use load_in_8bit, or a GPU",
                field="pytorch.load_in_4bit",
            )


def _check_4bit_options(layers: Iterable[Any], options: PyTorchConfig) -> None:
    for layer in layers:
        shown = {
            "bnb_4bit_quant_type": layer.weight.quant_type,
            "bnb_4bit_compute_dtype": str(layer.compute_dtype).removeprefix("torch."),
            "bnb_4bit_use_double_quant": layer.weight.quant_state.nested,
        }
        for field, value in shown.items():
            expected = getattr(options, field)
            if expected is not None and value != expected:
                raise LoadError(f"the model's layers show {value!r} instead", field=f"pytorch.{field}", value=expected)


def _check_dtypes(model: PreTrainedModel, load: LoadConfig, options: PyTorchConfig) -> None:
    wanted = _dtype_rule(model, DTYPES[load.precision])
    # A checkpoint that is quantised already brings scales of its own types; its ordinary layers still obey.
    quantised_by_us = options.load_in_4bit or options.load_in_8bit
    foreign = getattr(model, "hf_quantizer", None) is not None and not quantised_by_us
    ordinary = (torch.nn.Linear, torch.nn.Embedding)
    odd = {
        name: parameter.dtype
        for module_name, module in model.named_modules()
        if not foreign or type(module) in ordinary
        for name, parameter in module.named_parameters(module_name, recurse=False)
        if parameter.is_floating_point() and parameter.dtype != wanted(name)
    }
    if not odd:
        return
    # A class may give a parameter a type of its own, whatever the precision.
    with torch.device("meta"):
        built = type(model)._from_config(  # type: ignore[no-untyped-call]
            copy.deepcopy(model.config), dtype=DTYPES[load.precision]
        )
    own = {name: parameter.dtype for name, parameter in built.named_parameters()}
    for name, dtype in odd.items():
        if own.get(name) != dtype:
            stored = next((precision for precision, known in DTYPES.items() if foreign and known == dtype), None)
            hint = "" if stored is None else f", as the checkpoint stores it; set precision: {stored}"
            raise LoadError(f"{name} is {dtype}{hint}", field="precision", value=load.precision)


def _dtype_rule(model: PreTrainedModel, precision: torch.dtype) -> Callable[[str], torch.dtype]:
    """The rule by which transformers itself chooses the type of a parameter while loading: some architectures keep a
    few (of a router, a norm) in fp32, by patterns."""
    from transformers.core_model_loading import build_glob_alternation

    # In the first releases of version 5 an attribute.
    plan: Any = model._get_dtype_plan(precision) if hasattr(model, "_get_dtype_plan") else model.dtype_plan
    if not plan:
        return lambda _: precision
    pattern, entries, _ = build_glob_alternation(list(plan))

    def wanted(name: str) -> torch.dtype:
        found = pattern.search(name)
        dtype: torch.dtype = precision if found is None else plan[entries[str(found.lastgroup)]]
        return dtype

    return wanted


def _check_placement(model: PreTrainedModel, load: LoadConfig, options: PyTorchConfig, device: torch.device) -> None:
    allowed = {device.type}
    if isinstance(options.device_map, dict):
        allowed |= {place for place in map(str, options.device_map.values()) if place in {"cpu", "disk"}}
    if options.max_memory is not None and "cpu" in options.max_memory:
        allowed.add("cpu")
    if "offload_folder" in load.from_pretrained:
        allowed.add("disk")
    ways_out = {
        "cpu": "name the modules in device_map, or give max_memory an entry for cpu, if that is wanted",
        "disk": "name the modules in device_map, if that is wanted",
    }
    places = sorted(placement(model))
    if not any(place.startswith(device.type) for place in places):
        message = f"the experiment runs on {device.type}, but the model lies on {', '.join(places)}"
        raise LoadError(message, field="pytorch.device_map")
    for place in places:
        kind = place.partition(":")[0]
        if kind not in allowed:
            message = f"part of the model lies on {place}, which it does not name; {ways_out.get(kind, 'remove it')}"
            raise LoadError(message, field="pytorch.device_map")
