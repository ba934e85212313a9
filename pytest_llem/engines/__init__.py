"""What loads and runs a model: one engine for each backend, behind the protocols of :mod:`pytest_llem.engines.base`.

Other packages add engines by the entry point group ``pytest_llem.engines``. Importing this package imports no engine;
:func:`get_engine` does.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

from pytest_llem.config.backends import ENGINES, registered
from pytest_llem.errors import UnavailableError

if TYPE_CHECKING:
    from pytest_llem.engines.base import Engine

__all__ = ["BUILT_IN", "engine_module", "get_engine", "no_engine"]

BUILT_IN = {
    "pytorch": "pytest_llem.engines.transformers.engine:TransformersEngine",
    "vllm": "pytest_llem.engines.vllm.engine:VllmEngine",
    "tensorrt": "pytest_llem.engines.tensorrt.engine:TensorRTEngine",
}
"""Engines of this package by backend, as ``module:class``; no other package replaces one."""


def no_engine(backend: str) -> str | None:
    """Why no engine runs experiments of ``backend``; ``None`` where there is one. Imports none."""
    if backend in BUILT_IN or backend in registered().names:
        return None
    return f"{backend} has no engine yet; use {', '.join(sorted(registered().names | BUILT_IN.keys()))}"


def get_engine(backend: str) -> Engine:
    """The engine that runs experiments of ``backend``.

    Raises:
        UnavailableError: there is none, or it cannot be imported, or several packages offer one.
    """
    entry = _entry(backend)
    try:
        engine: Engine = entry.load()()
    except Exception as error:  # another package's code may raise anything
        cause = f"{type(error).__name__}: {error}"
        raise UnavailableError(f"backend {backend}: {entry.value} cannot be imported: {cause}") from error
    return engine


def engine_module(backend: str) -> str:
    """The module that :func:`get_engine` imports.

    Raises:
        UnavailableError: there is none, or several packages offer one.
    """
    return _entry(backend).module


def _entry(backend: str) -> EntryPoint:
    reason = no_engine(backend)
    if reason is not None:
        raise UnavailableError(f"backend {reason}")
    built_in = BUILT_IN.get(backend)
    entry, *others = [EntryPoint(backend, built_in, ENGINES)] if built_in else registered().select(name=backend)
    if others:
        offers = ", ".join(offer.value for offer in (entry, *others))
        raise UnavailableError(f"backend {backend} is offered by several packages ({offers}); uninstall all but one")
    return entry
