"""The key-value cache that a call used, compared with the experiment's."""

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
    """Compare the key-value cache of a finished call with that of ``config``.

    Raises:
        MeasurementError: another cache, or none, was used.
    """
    if config.use_cache is False:
        if cache is not None:
            message = f"generate() used {type(cache).__name__} instead"
            raise MeasurementError(message, field="pytorch.use_cache", value=False)
        return
    expected = config.cache_implementation
    if expected is None:
        return
    wanted = CACHE_CLASSES.get(expected)
    offloaded = bool(getattr(cache, "offloading", False))
    if wanted is None or type(cache) is not wanted or offloaded != expected.startswith("offloaded"):
        kind = "no cache" if cache is None else f"{'offloaded ' if offloaded else ''}{type(cache).__name__}"
        message = f"generate() used {kind} instead"
        raise MeasurementError(message, field="pytorch.cache_implementation", value=expected)
    if expected == "quantized":
        _check_quantized_layers(getattr(cache, "layers", ()), config.cache_config or {})


def _check_quantized_layers(layers: Any, expected: Mapping[str, Any]) -> None:
    backend = expected.get("backend") or "quanto"
    for layer in layers:
        if type(layer).__name__ != _QUANTIZED_LAYERS.get(backend):
            message = f"generate() used {type(layer).__name__} instead"
            raise MeasurementError(message, field="pytorch.cache_config.backend", value=backend)
        for name, value in expected.items():
            if name != "backend" and value is not None and getattr(layer, name) != value:
                message = f"the cache shows {getattr(layer, name)!r} instead"
                raise MeasurementError(message, field=f"pytorch.cache_config.{name}", value=value)
