"""The key-value cache: its kinds, and the options of the quantised one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import model_validator

from pytest_llem.config.base import Conflict, Section, option, refusal, refuse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

CacheImplementation = Literal["static", "offloaded_static", "dynamic", "offloaded", "quantized"]

STATIC_CACHES = ("static", "offloaded_static")
OFFLOADED_CACHES = ("offloaded", "offloaded_static")

# Names that transformers accepts and then runs as something else, so a result would carry the wrong label.
MISLEADING_CACHES: Mapping[str, str] = {
    "sliding_window": "sliding_window is an old name of the static cache; use static",
    "hybrid": "hybrid would silently run as the dynamic cache; use dynamic or static",
    "hybrid_chunked": "hybrid_chunked is an old name of the static cache; use static",
    "offloaded_hybrid": "offloaded_hybrid is an old name of the offloaded static cache; use offloaded_static",
    "offloaded_hybrid_chunked": (
        "offloaded_hybrid_chunked is an old name of the offloaded static cache; use offloaded_static"
    ),
    "paged": "paged belongs to continuous batching and would silently run as the dynamic cache; use dynamic",
}


def known_cache(value: Any) -> Any:
    """Refuse a name under which another cache would run."""
    if isinstance(value, str) and value in MISLEADING_CACHES:
        raise refusal(MISLEADING_CACHES[value])
    return value


# What each package takes, as checked by transformers when the cache is made.
QUANTIZED_CACHE_TAKES: Mapping[str, Mapping[str, Sequence[int]]] = {
    "quanto": {"nbits": (2, 4), "axis_key": (0, -1), "axis_value": (0, -1)},
    "hqq": {"nbits": (1, 2, 3, 4, 8), "axis_key": (0, 1), "axis_value": (0, 1)},
    "fp8": {"nbits": (), "axis_key": (), "axis_value": (), "q_group_size": (), "residual_length": ()},
}


class QuantizedCacheConfig(Section, stage="call"):
    """What ``cache_config:`` may hold: the arguments of transformers' quantised cache."""

    backend: Literal["quanto", "hqq", "fp8"] | None = option("Package that quantises. Unset: quanto.")
    nbits: int | None = option("Bits of a stored number. Unset: 4.", unit="bit", ge=1, le=8)
    axis_key: int | None = option(
        "Axis along which keys are grouped: 0 or -1 with quanto, 0 or 1 with hqq.", ge=-1, le=1
    )
    axis_value: int | None = option("Axis along which values are grouped, as axis_key.", ge=-1, le=1)
    q_group_size: int | None = option("Numbers that share a scale. Unset: 64.", ge=1)
    residual_length: int | None = option("Latest tokens that stay unquantised. Unset: 128.", unit="tokens", ge=1)

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        refuse(self, self._contradictions())
        return self

    def _contradictions(self) -> Iterator[Conflict]:
        backend = self.backend or "quanto"
        for field, takes in QUANTIZED_CACHE_TAKES[backend].items():
            value = getattr(self, field)
            if value is None or value in takes:
                continue
            if takes:
                yield Conflict(field, f"{value} does not work with {backend}; use {_either(takes)}")
            else:
                yield Conflict(
                    field, f"does not work with {backend}, which has one scale for a whole tensor; remove it"
                )


def _either(values: Sequence[int]) -> str:
    *first, last = map(str, values)
    return f"{', '.join(first)} or {last}"


def cache_arguments(value: dict[str, Any]) -> dict[str, Any]:
    """Check ``cache_config:``, which stays the mapping that transformers takes."""
    QuantizedCacheConfig.model_validate(value)
    return value
