"""The key-value cache that a call used, against the one asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers.cache_utils import DynamicCache, QuantizedCache, StaticCache

from pytest_llem.errors import MeasurementError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import GenerationConfig

CACHE_CLASSES: dict[str, type] = {
    "dynamic": DynamicCache,
    "offloaded": DynamicCache,
    "static": StaticCache,
    "offloaded_static": StaticCache,
    "quantized": QuantizedCache,
}

# The class of layer by which each backend of the quantised cache is known; looked up by name, because releases of
# transformers differ in which they have.
_QUANTIZED_LAYERS = {"quanto": "QuantoQuantizedLayer", "hqq": "HQQQuantizedLayer", "fp8": "Fp8QuantizedLayer"}


def check_cache(config: GenerationConfig, cache: object) -> None:
    """Compare the key-value cache of a finished call with the one that ``config`` asks for.

    Raises:
        MeasurementError: another cache, or none, was used.
    """
    if config.use_cache is False:
        if cache is not None:
            raise MeasurementError(f"use_cache false was asked for, but {type(cache).__name__} was used")
        return
    asked = config.cache_implementation
    if asked is None:
        return
    wanted = CACHE_CLASSES.get(asked)
    offloaded = bool(getattr(cache, "offloading", False))
    if wanted is None or type(cache) is not wanted or offloaded != asked.startswith("offloaded"):
        kind = f"{'offloaded ' if offloaded else ''}{type(cache).__name__}"
        raise MeasurementError(f"cache_implementation {asked!r} was asked for, but {kind} was used")
    if asked == "quantized":
        _check_quantized_layers(getattr(cache, "layers", ()), config.cache_config or {})


def _check_quantized_layers(layers: Any, asked: Mapping[str, Any]) -> None:
    backend = asked.get("backend") or "quanto"
    for layer in layers:
        if type(layer).__name__ != _QUANTIZED_LAYERS.get(backend):
            raise MeasurementError(
                f"cache_config backend {backend!r} was asked for, but {type(layer).__name__} was used"
            )
        for name, value in asked.items():
            if name != "backend" and value is not None and getattr(layer, name) != value:
                raise MeasurementError(
                    f"cache_config {name} {value!r} was asked for, but the cache shows {getattr(layer, name)!r}"
                )
