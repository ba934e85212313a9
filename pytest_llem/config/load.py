"""What decides the loaded model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

if TYPE_CHECKING:
    from pytest_llem.config.pytorch import PyTorchConfig


@dataclass(frozen=True, eq=False)
class LoadConfig:
    """Everything that decides the loaded model, and nothing else: equal values can share one load.

    Obtain one from :meth:`pytest_llem.config.ExperimentConfig.load_config`.

    Attributes:
        model: hub id, absolute local folder, or ``builtin:NAME``.
        weights: ``pretrained`` or ``random``.
        backend: name of the engine that loads it.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        random_seed: seed of random weights; ``None`` where the weights are not random.
        pytorch: options of the transformers backend, only those that decide the load.
        from_pretrained: further arguments of ``from_pretrained()``.
        backend_options: the section of a backend other than pytorch, without what is unset, sections in it as
            mappings.
        tensor: processes that the model is divided over.
    """

    model: str
    weights: str
    backend: str
    precision: str
    random_seed: int | None
    pytorch: PyTorchConfig
    from_pretrained: Mapping[str, Any]
    backend_options: Mapping[str, Any]
    tensor: int = 1
    # Compared and hashed once per item and scope by pytest, so it is made once.
    _key: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # As text, 1 differs from true and 1.0, which Python calls equal but an argument may not.
        key = [_canonical(getattr(self, field.name)) for field in fields(self) if field.init]
        object.__setattr__(self, "_key", json.dumps(key, default=repr))

    def __eq__(self, other: object) -> bool:
        return self._key == other._key if isinstance(other, LoadConfig) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key)


def _canonical(value: Any) -> Any:
    """Mappings as sorted lists of pairs: order means nothing in them, and keys may be of several types."""
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_none=True)
    if isinstance(value, Mapping):
        return sorted(([str(key), _canonical(item)] for key, item in value.items()), key=lambda pair: pair[0])
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return value
