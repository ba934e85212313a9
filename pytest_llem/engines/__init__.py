"""What loads and runs a model: one engine for each backend.

* :mod:`~pytest_llem.engines.base`: the protocols that the rest of the package relies on.
* :mod:`~pytest_llem.engines.transformers.engine`: backend ``pytorch``, on top of the transformers library.
* :mod:`~pytest_llem.engines.transformers.builtin`: models that need no download.

Importing this package imports neither torch nor transformers; :func:`get_engine` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llem.errors import UnavailableError

if TYPE_CHECKING:
    from pytest_llem.engines.base import Engine

__all__ = ["BACKENDS", "get_engine"]

BACKENDS = ("pytorch",)
"""Backends that have an engine."""


def get_engine(backend: str) -> Engine:
    """The engine that runs experiments of ``backend``.

    Raises:
        UnavailableError: there is no engine for ``backend`` yet.
    """
    if backend == "pytorch":
        from pytest_llem.engines.transformers.engine import TransformersEngine

        return TransformersEngine()
    raise UnavailableError(f"backend {backend} has no engine yet; use {', '.join(BACKENDS)}")
