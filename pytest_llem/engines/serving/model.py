"""A model in an engine that serves, which is started anew where it has ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_llem.engines.serving.sources import prompts_and_tokens
from pytest_llem.errors import LlemError, MeasurementError, about, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch

    from pytest_llem.config import ExperimentConfig, LoadConfig
    from pytest_llem.engines.prompts import Prompts
    from pytest_llem.engines.serving.workload import ServedWorkload
    from pytest_llem.engines.transformers.generation import SpecialTokens
    from pytest_llem.engines.transformers.sources import Source


class ServedModel(ABC):
    """A loaded model. See :class:`pytest_llem.engines.base.LoadedModel`.

    Attributes:
        room_field: the field that says how long a sequence may be.
        model: the engine's ``LLM``; ``None`` once it is closed, or its engine has ended.
    """

    room_field: ClassVar[str]
    libraries: frozenset[str]
    load_s: float
    gpu_uuids: Sequence[str]
    warnings: Sequence[str]

    def __init__(self, load: LoadConfig, source: Source, device: torch.device) -> None:
        """Start an engine for it.

        Raises:
            UnavailableError: this version of the engine cannot run it.
            LoadError: it could not be loaded, or differs from ``load``.
        """
        self._load = load
        self._source = source
        self.device = device
        self.tokenizer = source.tokenizer
        self.commit = source.commit
        self.processes = load.tensor
        self.model: Any = None
        self._closed = False
        self._start()

    def prepare(self, config: ExperimentConfig, folder: Path) -> ServedWorkload:
        """Build the workload of ``config``. Relative dataset paths start at ``folder``.

        Where the engine has ended in an earlier experiment, the model is loaded anew.

        Raises:
            PromptError: the prompts cannot be read, or do not fit the limits.
            MeasurementError: a sequence would not fit the engine, or the engine refuses the options.
            LoadError: it could not be loaded anew.
        """
        if self._closed:
            raise MeasurementError("the model was closed")
        if self.model is None:
            with about(field="model", value=self._load.model):
                self._start()
        try:
            prompts, special = prompts_and_tokens(config, folder, self._source)
            self._check_room(*prompts.longest_call(config.max_output_tokens))
            prompts = replace(prompts, notes=(*prompts.notes, *self._notes()))
            return self._workload(config, special, prompts)
        except LlemError:
            raise
        except Exception as exc:
            raise MeasurementError(f"the experiment could not be prepared: {one_line(exc)}") from exc

    def close(self) -> None:
        """End the engine and its processes. Closing twice is harmless."""
        self._closed = True
        self._stop()

    @abstractmethod
    def generate(self, prompts: Sequence[Any], parameters: Any) -> list[Any]:
        """The engine's ``generate()``; returns its ``RequestOutput`` of each prompt.

        Raises:
            MeasurementError: it failed.
        """

    @abstractmethod
    def _start(self) -> None:
        """Start the engine: what this class declares without a value is known then."""

    @abstractmethod
    def _stop(self) -> None:
        """End the engine, if it runs."""

    @abstractmethod
    def _room(self) -> int | None:
        """How many tokens a sequence of the running engine may have; ``None`` where it does not say."""

    @abstractmethod
    def _notes(self) -> list[str]:
        """What to know of each result."""

    @abstractmethod
    def _workload(self, config: ExperimentConfig, special: SpecialTokens, prompts: Prompts) -> ServedWorkload: ...

    def _running(self) -> Any:
        """The ``LLM``. Raises: MeasurementError: there is none any more."""
        if self.model is None:
            raise MeasurementError("the model was closed")
        return self.model

    def _check_room(self, longest: int, new_tokens: int) -> None:
        room = self._room()
        if room is not None and longest + new_tokens > room:
            raise MeasurementError(
                f"a prompt of {longest} tokens and {new_tokens} new ones are more than the engine's {room}: raise it, "
                "or lower max_input_tokens or max_output_tokens",
                field=self.room_field,
            )
