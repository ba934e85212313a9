"""One pass over an experiment's prompts as one call: the engine gets all of them at once, and batches them itself."""

from __future__ import annotations

import copy
import time
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pytest_llem.engines.base import Workload
from pytest_llem.engines.prompts import text_of
from pytest_llem.engines.serving.times import timing
from pytest_llem.errors import MeasurementError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_llem.engines.base import CallTiming
    from pytest_llem.engines.prompts import Prompts
    from pytest_llem.engines.serving.model import ServedModel
    from pytest_llem.engines.serving.times import NotedTimes

_ENDINGS = ("length", "stop")


class ServedWorkload(Workload):
    """See :class:`pytest_llem.engines.base.Workload`.

    Attributes:
        engine: its name, for messages.
        noting: what makes it note when tokens appear, among the sampling options.
    """

    engine: ClassVar[str]
    noting: ClassVar[Mapping[str, Any]] = {}
    calls = 1
    _loaded: ServedModel

    def __init__(
        self, loaded: ServedModel, options: dict[str, Any], prompts: Prompts, inputs: Sequence[Any], *, random_seed: int
    ) -> None:
        """A pass over ``inputs``, the prompts as the engine takes them, with its sampling ``options``."""
        self._loaded = loaded
        self._options = options
        self._random_seed = random_seed
        self.prompts = prompts
        self._inputs = inputs
        self._output_tokens = prompts.output_tokens
        self._parameters = self._with()
        self._checked = False

    @property
    def expected_output_tokens(self) -> int | None:
        if self._output_tokens is not None:
            return sum(self._output_tokens)
        length = self._fixed_new_tokens()
        return None if length is None else length * len(self.prompts)

    def run(self, index: int) -> list[list[int]]:  # noqa: ARG002
        """Run the pass; returns the new tokens of each prompt.

        Raises:
            MeasurementError: the call failed, or did not run as the experiment says.
        """
        if self._checked:
            outputs = self._generate(self._parameters)
        else:
            # The first call warms up, and shows whether the model computes numbers at all.
            outputs = self._checked_call()
            self._checked = True
        return [self._tokens(output.outputs[0]) for output in outputs]

    def output_tokens(self, index: int, output: list[list[int]]) -> list[list[int]]:  # noqa: ARG002
        """The new tokens of each prompt; what ends a sequence belongs to it."""
        return output

    def time_tokens(self, index: int) -> CallTiming:  # noqa: ARG002
        """Run the pass once more and say when its tokens appeared, by what the engine notes for each request on the
        monotonic clock, which is that of this process too; see :func:`pytest_llem.engines.serving.times.timing`.

        Raises:
            MeasurementError: the call failed, or its times are not within those of the call.
        """
        parameters = self._with(**self.noting)
        start_s = time.monotonic()
        outputs = self._generate(parameters)
        end_s = time.monotonic()
        return timing(start_s, [self._noted(output) for output in outputs], end_s, self.engine)

    def text(self, tokens: list[int]) -> str | None:
        return text_of(self._loaded.tokenizer, tokens)

    def prefill(self) -> Self:
        """The same call, stopped after the first token of its sequences."""
        other = copy.copy(self)
        other._options = {**self._options, "max_tokens": 1}
        if self._options.get("min_tokens") or self._output_tokens is not None:
            other._options["min_tokens"] = 1
        other._output_tokens = None
        other._parameters = other._with()
        return other

    def synchronize(self) -> None:
        """Nothing is queued once ``generate()`` has returned: the tokens have come from the device."""

    @abstractmethod
    def _fixed_new_tokens(self) -> int | None:
        """New tokens of each sequence where the options fix them, else ``None``."""

    @abstractmethod
    def _sampling_parameters(self, options: dict[str, Any]) -> Any:
        """The engine's own object, or a list with one for each prompt."""

    @abstractmethod
    def _checked_call(self) -> list[Any]:
        """A call that shows whether the logits are numbers. Raises: MeasurementError: they are not."""

    @abstractmethod
    def _noted(self, output: Any) -> NotedTimes:
        """What the engine notes of a sequence. Raises: MeasurementError: nothing, or that its prompt was known."""

    def _check_output(self, output: Any) -> None:
        """Raises: MeasurementError: it did not run as the experiment says."""
        reason = output.outputs[0].finish_reason
        if reason not in _ENDINGS:
            raise MeasurementError(
                f"{self.engine} ended a sequence for another reason than its length or its end: {reason}"
            )

    def _tokens(self, sequence: Any) -> list[int]:
        return list(sequence.token_ids)

    def _with(self, **further: Any) -> Any:
        return self._sampling_parameters({**self._options, **further})

    def _generate(self, parameters: Any) -> list[Any]:
        outputs = self._loaded.generate(self._inputs, parameters)
        if len(outputs) != len(self._inputs):
            raise MeasurementError(f"{self.engine} returned {len(outputs)} of {len(self._inputs)} sequences")
        for output in outputs:
            self._check_output(output)
        return outputs
