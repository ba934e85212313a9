"""What a checkpoint must be, so that what runs is what it says: safetensors only, and all of the model's weights.

transformers takes pickles by several ways, draws what a checkpoint lacks at random, leaves out what it does not know,
and unpacks a quantisation that it cannot run, all with no more than a line in the log.
"""

from __future__ import annotations

import json
import math
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import torch

from pytest_llem.engines.transformers.hub import hub_file_if_any, only_in_the_cache
from pytest_llem.errors import LoadError, one_line

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from transformers import PreTrainedModel

    from pytest_llem.config import LoadConfig
    from pytest_llem.engines.library_warnings import LibraryWarnings
    from pytest_llem.engines.transformers.sources import Source

_SUFFIX = ".safetensors"
_INDEX = ".safetensors.index.json"

# Tensors that a message names.
_SHOWN = 3

# safetensors' names of the types of unquantised weights, and of those that no quantisation packs weights into.
_PLAIN = ("F64", "F32", "F16", "BF16")
_NO_WEIGHTS = ("I64", "U64", "BOOL")

# Of what is stored packed, how much more may be held as plain numbers than is stored so: tables that a model computes.
_UNPACKED_SHARE = 0.05


def quantisation_of(config: Any) -> dict[str, Any]:
    """What the configuration of a checkpoint says of its quantisation; empty where it is not quantised."""
    own = getattr(config, "quantization_config", None)
    own = own or getattr(config.get_text_config(decoder=True), "quantization_config", None) or {}
    return own if isinstance(own, dict) else own.to_dict()


def check_checkpoint(source: Source, variant: str | None) -> list[str]:
    """Look at what ``source`` says of its weights, before they are read.

    Returns:
        The names of the files that hold them; none where that is for transformers to find out.

    Raises:
        LoadError: they are pickled or lie elsewhere, or the checkpoint asks for what would be left out.
    """
    if source.location is None:
        return []
    _check_known(source.config)
    middle = f".{variant}" if variant else ""
    index_name = f"model{_SUFFIX}.index{middle}.json"
    # A configuration may name the file, and then transformers takes a pickle among others.
    named = getattr(source.config, "transformers_weights", None)
    if named is None:
        whole = f"model{middle}{_SUFFIX}"
        if _find(source, whole) is not None:
            return [whole]  # it is preferred to an index
    elif str(named).endswith(_INDEX):
        index_name = str(named)
        _check_place("config.json", index_name)
    else:
        _check_name("config.json", str(named))
        return [str(named)]
    index = _find(source, index_name)
    if index is None:
        only = "" if Path(source.location).is_absolute() else only_in_the_cache(source.hub_arguments)
        raise LoadError(
            f"has no model{middle}{_SUFFIX}{only}: other weights, such as pickled ones, are never loaded, as they can "
            "run code; load them with transformers where you trust them, and save them with save_pretrained()"
        )
    return _files_of(index)


def check_complete(loaded: PreTrainedModel, info: Mapping[str, Any]) -> None:
    """Compare what was read with what ``loaded`` has. Tensors that are tied to others are not missing; further ones
    of parts that the architecture does not have are common, and change nothing.

    Args:
        info: the loading info of ``from_pretrained()``.

    Raises:
        LoadError: a part of its weights was drawn at random, or a layer runs without one of its tensors.
    """
    mismatched = [name for name, *_ in info["mismatched_keys"]]
    for names, fault in ((info["missing_keys"], "lacks"), (mismatched, "has in another shape")):
        if names:
            raise LoadError(
                f"its checkpoint {fault} {_listed(names)}, which would be random numbers: its files are not whole, or "
                "not those of its config.json"
            )
    layers = dict(loaded.named_modules())
    left = []
    for name in info["unexpected_keys"]:
        layer, _, tensor = name.rpartition(".")
        if layer not in layers or isinstance(getattr(layers[layer], tensor, None), torch.Tensor):
            continue  # where the layer has a tensor of that name all the same, it computes it
        # Masks that former releases saved with their attention, which has no weights of its own.
        mask = tensor in ("bias", "masked_bias") and next(layers[layer].parameters(recurse=False), None) is None
        if not mask:
            left.append(name)
    if left:
        raise LoadError(
            f"its checkpoint holds {_listed(left)}, and transformers runs these layers without: they "
            f"would be another model's; {type(loaded).__name__} or this release of transformers is not what it needs"
        )


def check_as_stored(
    load: LoadConfig,
    model: PreTrainedModel,
    source: Source,
    files: Iterable[str],
    unused: Collection[str],
    heard: LibraryWarnings,
) -> None:
    """Compare how ``model`` holds its weights with how its checkpoint stores them: what is stored quantised must run
    so. Numbers are counted, not names, which differ from one quantisation to the next.

    Args:
        files: the names of the checkpoint's files.
        unused: the names of the tensors in them that no layer has.
        heard: what transformers warned of while loading.

    Raises:
        LoadError: transformers took quantised weights apart.
    """
    from safetensors import safe_open

    plain = packed = 0
    for path in filter(None, (_find(source, name) for name in files)):
        with safe_open(path, framework="pt") as tensors:
            for name in set(tensors.keys()).difference(unused):
                tensor = tensors.get_slice(name)
                plain += math.prod(tensor.get_shape()) * (tensor.get_dtype() in _PLAIN)
                packed += math.prod(tensor.get_shape()) * (tensor.get_dtype() not in (*_PLAIN, *_NO_WEIGHTS))
    held = sum(
        parameter.numel()
        for parameter in model.parameters()
        # Some quantised weights are tensors of classes of their own, which give the type that they stand for.
        if parameter.is_floating_point() and parameter.itemsize > 1 and type(parameter.data) is torch.Tensor
    )
    unpacked = packed > 0 and held - plain > _UNPACKED_SHARE * packed
    method = quantisation_of(source.config).get("quant_method")
    if method is None and unpacked:
        raise LoadError(
            f"its weights are stored quantised, of which its config.json says nothing, so they "
            f"would run as {load.precision}, and without their scales: add its quantization_config, or save it anew"
        )
    config = quantisation_of(model.config)
    if method is not None and (unpacked or not getattr(model, "is_quantized", False) or config.get("dequantize")):
        reasons = "; ".join(heard.by("transformers.quantizers")) or "it does not say why"
        raise LoadError(
            f"its checkpoint is quantised with {str(method)!r}, but transformers unpacked it to "
            f"{load.precision} ({reasons}): run it on a device and with the packages that this quantisation needs, or "
            "name an unquantised copy of the model"
        )


@contextmanager
def no_pickles() -> Iterator[None]:
    """Within the block torch unpickles nothing, whichever library calls it."""
    load = torch.load

    def refuse(*_: object, **__: object) -> None:
        raise LoadError("pickled weights are never loaded; convert them to safetensors")

    torch.load = refuse
    try:
        yield
    finally:
        torch.load = load


def _check_known(config: Any) -> None:
    from transformers.quantizers.auto import AutoHfQuantizer

    text_config = config.get_text_config(decoder=True)
    window = getattr(text_config, "sliding_window", None)
    # Any entry of config.json becomes an attribute; code that came with the model may read it.
    own = type(text_config).__module__.startswith("transformers.")
    if window is not None and own and not hasattr(type(text_config)(), "sliding_window"):
        raise LoadError(
            f"its config.json sets a sliding window of {window}, which transformers does not have for "
            f"{config.model_type!r}: remove it from there if its layers attend to all tokens"
        )
    quantisation = quantisation_of(config)
    # One that does not name its method is refused by transformers.
    if not (method := quantisation.get("quant_method")):
        return
    if not AutoHfQuantizer.supports_quant_method(quantisation):  # type: ignore[no-untyped-call]
        raise LoadError(
            f"is quantised with {method!r}, which this release of transformers does not know and would leave out"
        )
    if cache := [name for name, value in quantisation.items() if name.startswith("kv_cache") and value]:
        raise LoadError(
            f"its checkpoint quantises the key-value cache ({', '.join(cache)}), which transformers would keep in full "
            "precision; name a model without that"
        )


def _find(source: Source, name: str) -> Path | None:
    location = str(source.location)
    if not Path(location).is_absolute():
        return hub_file_if_any(location, name, source.hub_arguments)
    path = Path(location, source.hub_arguments.get("subfolder") or "", name)
    return path if path.is_file() else None


def _files_of(index: Path) -> list[str]:
    try:
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as exc:
        raise LoadError(f"its {index.name} cannot be read: {one_line(exc)}") from exc
    for file in files:
        _check_name(index.name, str(file))
    return sorted(map(str, files))


def _check_name(source: str, file: str) -> None:
    if PurePosixPath(file).suffix != _SUFFIX:
        raise LoadError(f"its {source} names {file!r} as weights; only safetensors are read, pickled weights never")
    _check_place(source, file)


def _check_place(source: str, file: str) -> None:
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts:
        raise LoadError(f"its {source} names {file!r} as weights, which lie outside the model's folder")


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return f"{', '.join(ordered[:_SHOWN])}{more}"
