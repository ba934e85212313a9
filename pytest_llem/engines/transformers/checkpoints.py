"""What a checkpoint must be, so that what runs is what it says: safetensors only, and all of the model's weights.

transformers takes pickles by several ways, draws what a checkpoint lacks at random, and leaves out a quantisation that
it does not know, all with no more than a line in the log.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import torch

from pytest_llem.engines.transformers.failures import one_line
from pytest_llem.engines.transformers.hub import hub_file_if_any, only_in_the_cache
from pytest_llem.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pytest_llem.engines.transformers.sources import Source

_SUFFIX = ".safetensors"
_INDEX = ".safetensors.index.json"

# Tensors that a message names.
_SHOWN = 3


def check_checkpoint(source: Source, variant: str | None) -> None:
    """Look at what ``source`` says of its weights, before they are read.

    Raises:
        LoadError: they are pickled or lie elsewhere, or are quantised in a way that would be left out.
    """
    if source.location is None:
        return
    _check_quantisation(source.config)
    middle = f".{variant}" if variant else ""
    index_name = f"model{_SUFFIX}.index{middle}.json"
    # A configuration may name the file, and then transformers takes a pickle among others.
    named = getattr(source.config, "transformers_weights", None)
    if named is None:
        if _find(source.location, f"model{middle}{_SUFFIX}", source.hub_arguments) is not None:
            return  # it is preferred to an index
    elif str(named).endswith(_INDEX):
        index_name = str(named)
        _check_place("config.json", index_name)
    else:
        _check_name("config.json", str(named))
        return
    index = _find(source.location, index_name, source.hub_arguments)
    if index is None:
        only = "" if Path(source.location).is_absolute() else only_in_the_cache(source.hub_arguments)
        raise LoadError(
            f"has no model{middle}{_SUFFIX}{only}: other weights, such as pickled ones, are never loaded, as they can "
            "run code; load them with transformers where you trust them, and save them with save_pretrained()"
        )
    _check_index(index)


def check_complete(info: Mapping[str, Any]) -> None:
    """Compare what was read with what the model has. Tensors that are tied to others are not missing; further ones
    that no layer of the model uses are common, and change nothing.

    Args:
        info: the loading info of ``from_pretrained()``.

    Raises:
        LoadError: a part of its weights was drawn at random.
    """
    mismatched = [name for name, *_ in info["mismatched_keys"]]
    for names, fault in ((info["missing_keys"], "lacks"), (mismatched, "has in another shape")):
        if names:
            raise LoadError(
                f"its checkpoint {fault} {_listed(names)}, which would be random numbers: its files are not whole, or "
                "not those of its config.json"
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


def _check_quantisation(config: Any) -> None:
    from transformers.quantizers.auto import AutoHfQuantizer

    quantisation = getattr(config, "quantization_config", None)
    quantisation = quantisation or getattr(config.get_text_config(decoder=True), "quantization_config", None)
    # One that does not name its method is refused by transformers.
    if not isinstance(quantisation, dict) or not quantisation.get("quant_method"):
        return
    if not AutoHfQuantizer.supports_quant_method(quantisation):  # type: ignore[no-untyped-call]
        raise LoadError(
            f"is quantised with {quantisation['quant_method']!r}, which this release of transformers does not know and "
            "would leave out"
        )


def _find(location: str, name: str, hub_arguments: Mapping[str, Any]) -> Path | None:
    if not Path(location).is_absolute():
        return hub_file_if_any(location, name, hub_arguments)
    path = Path(location, hub_arguments.get("subfolder") or "", name)
    return path if path.is_file() else None


def _check_index(index: Path) -> None:
    try:
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as exc:
        raise LoadError(f"its {index.name} cannot be read: {one_line(exc)}") from exc
    for file in files:
        _check_name(index.name, str(file))


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
