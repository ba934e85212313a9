"""A pass by TensorRT-LLM."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_llem.engines.serving.times import NotedTimes
from pytest_llem.engines.serving.workload import ServedWorkload
from pytest_llem.engines.tensorrt.sampling import fixed_new_tokens, sampling_parameters
from pytest_llem.errors import MeasurementError

if TYPE_CHECKING:
    from pytest_llem.engines.tensorrt.model import TensorRTModel


class TensorRTWorkload(ServedWorkload):
    """See :class:`pytest_llem.engines.base.Workload`."""

    engine = "TensorRT-LLM"
    noting: ClassVar = {"return_perf_metrics": True}
    _loaded: TensorRTModel

    def reset_peak_memory(self) -> None:
        """There is nothing to reset: the peak is not known."""

    def peak_memory_bytes(self) -> tuple[int | None, str | None]:
        """Not known."""
        return None, "TensorRT-LLM allocates beside torch, and says nothing of its peak"

    def _fixed_new_tokens(self) -> int | None:
        return fixed_new_tokens(self._options)

    def _sampling_parameters(self, options: dict[str, Any]) -> Any:
        return sampling_parameters(options, self._random_seed, len(self._inputs), self._output_tokens)

    def _checked_call(self) -> list[Any]:
        if self._loaded.built:
            return self._generate(self._parameters)
        outputs = self._generate(self._with(logprobs=1))
        for output in outputs:
            for entries in output.outputs[0].logprobs or ():
                if not all(math.isfinite(_logprob(entry)) for entry in _entries(entries)):
                    raise MeasurementError(
                        "the model's logits are not finite: its weights or its precision are at fault"
                    )
        return outputs

    def _noted(self, output: Any) -> NotedTimes:
        metrics = output.outputs[0].request_perf_metrics
        if metrics is None:
            raise MeasurementError("TensorRT-LLM says nothing of when tokens appeared")
        reused = metrics.kv_cache_metrics.num_reused_blocks
        if reused and not self._loaded.reuses_blocks:
            raise MeasurementError(f"{reused} blocks of a prompt came from the cache of an earlier one")
        times = metrics.timing_metrics
        return NotedTimes(
            times.first_scheduled_time.total_seconds(),
            times.first_token_time.total_seconds(),
            times.last_token_time.total_seconds(),
            len(output.outputs[0].token_ids),
        )

    def _tokens(self, sequence: Any) -> list[int]:
        """With the token that ended it, which versions of TensorRT-LLM leave out or not."""
        tokens, end = super()._tokens(sequence), self._options["end_id"]
        ended = sequence.finish_reason == "stop" and sequence.stop_reason is None
        return [*tokens, end] if ended and tokens[-1:] != [end] else tokens


def _entries(entries: Any) -> list[Any]:
    """Of one step: those of its tokens, or the one number that some versions give."""
    return list(entries.values()) if isinstance(entries, dict) else [entries]


def _logprob(entry: Any) -> float:
    return float(getattr(entry, "logprob", entry))
