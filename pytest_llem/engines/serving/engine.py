"""An engine that serves: it gets all prompts of a pass at once and batches them itself."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch

from pytest_llem.engines.base import Engine
from pytest_llem.engines.serving.sources import for_the_source, named_by
from pytest_llem.engines.transformers.sources import find_source
from pytest_llem.errors import LlemError, LoadError, UnavailableError, about, one_line

if TYPE_CHECKING:
    from pytest_llem.config import LoadConfig
    from pytest_llem.engines.serving.model import ServedModel
    from pytest_llem.engines.transformers.sources import Source


class ServingEngine(Engine):
    """See :class:`pytest_llem.engines.base.Engine`.

    Attributes:
        section: that of the engine in a file.
    """

    section: ClassVar[str]

    def load(self, config: LoadConfig, device: str) -> ServedModel:
        """Start an engine with what ``config`` describes on ``device`` (``cpu`` or ``cuda``).

        Raises:
            UnavailableError: valid, but it cannot run on this machine.
            LoadError: it could not be loaded, or differs from ``config``.
        """
        self._require(device)
        with about(field="model", value=config.model):
            try:
                config = for_the_source(config)
                with named_by(self.section):
                    source = find_source(config)
                return self._start(config, source, torch.device(device))
            except LlemError:
                raise
            except ImportError as exc:
                raise UnavailableError(f"needs a package that cannot be imported: {one_line(exc)}") from exc
            except Exception as exc:
                raise LoadError(f"could not be loaded: {one_line(exc)}") from exc

    @abstractmethod
    def _require(self, device: str) -> None:
        """Raises: UnavailableError: the engine is missing, or runs on another device."""

    @abstractmethod
    def _start(self, load: LoadConfig, source: Source, device: torch.device) -> ServedModel: ...
