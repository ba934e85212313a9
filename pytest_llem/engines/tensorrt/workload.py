"""One pass over an experiment's prompts as one call: TensorRT-LLM gets all of them at once, and batches them itself."""

from __future__ import annotations

import copy
import math
import time
from typing import TYPE_CHECKING, Any

from pytest_llem.engines.base import Workload
from pytest_llem.engines.serving import NotedTimes, text_of, timing
from pytest_llem.engines.tensorrt.sampling import fixed_new_tokens, sampling_parameters
from pytest_llem.errors import MeasurementError

if TYPE_CHECKING:
    from pytest_llem.engines.base import CallTiming
    from pytest_llem.engines.prompts import Prompts
    from pytest_llem.engines.tensorrt.model import TensorRTModel

_ENDINGS = ("length", "stop")


class TensorRTWorkload(Workload):
    """See :class:`pytest_llem.engines.base.Workload`."""

    calls = 1

    def __init__(self, loaded: TensorRTModel, options: dict[str, Any], prompts: Prompts, *, random_seed: int) -> None:
        self._loaded = loaded
        self._options = options
        self._random_seed = random_seed
        self.prompts = prompts
        self._inputs = [list(ids) for ids in prompts.token_ids]
        self._parameters = self._with()
        self._checked = loaded.built

    @property
    def expected_output_tokens(self) -> int | None:
        length = fixed_new_tokens(self._options)
        return None if length is None else length * len(self.prompts)

    def run(self, index: int) -> list[list[int]]:  # noqa: ARG002
        """Run the pass; returns the new tokens of each prompt.

        Raises:
            MeasurementError: the call failed, or did not run as the experiment says.
        """
        if self._checked:
            return self._tokens(self._generate(self._parameters))
        # The first call warms up, and shows whether the model computes numbers at all.
        outputs = self._generate(self._with(logprobs=1))
        for output in outputs:
            for entries in output.outputs[0].logprobs or ():
                if not all(math.isfinite(_logprob(entry)) for entry in _entries(entries)):
                    raise MeasurementError(
                        "the model's logits are not finite: its weights or its precision are at fault"
                    )
        self._checked = True
        return self._tokens(outputs)

    def output_tokens(self, index: int, output: list[list[int]]) -> list[list[int]]:  # noqa: ARG002
        """The new tokens of each prompt; what ends a sequence belongs to it."""
        return output

    def time_tokens(self, index: int) -> CallTiming:  # noqa: ARG002
        """Run the pass once more and say when its tokens appeared, by what TensorRT-LLM notes for each request on the
        clock of this process; see :func:`pytest_llem.engines.serving.timing`.

        Raises:
            MeasurementError: the call failed, its times are not within those of the call, or prompts were known.
        """
        parameters = self._with(return_perf_metrics=True)
        start_s = time.monotonic()
        outputs = self._generate(parameters)
        end_s = time.monotonic()
        noted = []
        for output in outputs:
            metrics = output.outputs[0].request_perf_metrics
            if metrics is None:
                raise MeasurementError("TensorRT-LLM says nothing of when tokens appeared")
            reused = metrics.kv_cache_metrics.num_reused_blocks
            if reused and not self._loaded.reuses_blocks:
                raise MeasurementError(f"{reused} blocks of a prompt came from the cache of an earlier one")
            times = metrics.timing_metrics
            noted.append(
                NotedTimes(
                    times.first_scheduled_time.total_seconds(),
                    times.first_token_time.total_seconds(),
                    times.last_token_time.total_seconds(),
                    len(output.outputs[0].token_ids),
                )
            )
        return timing(start_s, noted, end_s, "TensorRT-LLM")

    def text(self, tokens: list[int]) -> str | None:
        return text_of(self._loaded.tokenizer, tokens)

    def prefill(self) -> TensorRTWorkload:
        """The same call, stopped after the first token of its sequences."""
        other = copy.copy(self)
        other._options = {**self._options, "max_tokens": 1}
        if "min_tokens" in self._options:
            other._options["min_tokens"] = 1
        other._parameters = other._with()
        return other

    def synchronize(self) -> None:
        """Nothing is queued once ``generate()`` has returned: the tokens have come from the device."""

    def reset_peak_memory(self) -> None:
        """There is nothing to reset: the peak is not known."""

    def peak_memory_bytes(self) -> tuple[int | None, str | None]:
        """Not known."""
        return None, "TensorRT-LLM allocates beside torch, and says nothing of its peak"

    def _with(self, **further: Any) -> Any:
        return sampling_parameters({**self._options, **further}, self._random_seed, len(self._inputs))

    def _generate(self, parameters: Any) -> list[Any]:
        outputs = self._loaded.generate(self._inputs, parameters)
        if len(outputs) != len(self._inputs):
            raise MeasurementError(f"TensorRT-LLM returned {len(outputs)} of {len(self._inputs)} sequences")
        for output in outputs:
            reason = output.outputs[0].finish_reason
            if reason not in _ENDINGS:
                raise MeasurementError(
                    f"TensorRT-LLM ended a sequence for another reason than its length or its end: {reason}"
                )
        return outputs

    def _tokens(self, outputs: list[Any]) -> list[list[int]]:
        return [self._whole(output.outputs[0]) for output in outputs]

    def _whole(self, sequence: Any) -> list[int]:
        """With the token that ended it, which versions of TensorRT-LLM leave out or not."""
        tokens, end = list(sequence.token_ids), self._options["end_id"]
        ended = sequence.finish_reason == "stop" and sequence.stop_reason is None
        return [*tokens, end] if ended and tokens[-1:] != [end] else tokens


def _entries(entries: Any) -> list[Any]:
    """Of one step: those of its tokens, or the one number that some versions give."""
    return list(entries.values()) if isinstance(entries, dict) else [entries]


def _logprob(entry: Any) -> float:
    return float(getattr(entry, "logprob", entry))
