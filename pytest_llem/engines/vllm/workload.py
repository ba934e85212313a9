"""A pass by vLLM."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pytest_llem.engines.base import Rank, WatchedSequence, together
from pytest_llem.engines.serving.times import NotedTimes
from pytest_llem.engines.serving.workload import ServedWorkload
from pytest_llem.engines.vllm.sampling import fixed_new_tokens, sampling_parameters
from pytest_llem.errors import MeasurementError

if TYPE_CHECKING:
    from pytest_llem.engines.base import Peak
    from pytest_llem.engines.vllm.model import VllmModel


class VllmWorkload(ServedWorkload):
    """See :class:`pytest_llem.engines.base.Workload`."""

    engine = "vLLM"
    _loaded: VllmModel

    def watch_tokens(self, index: int) -> tuple[list[WatchedSequence] | None, str | None]:  # noqa: ARG002
        """Run the pass once more and watch the two best logits of each step; or ``None`` and the reason.

        Raises:
            MeasurementError: the call failed, or did not run as the experiment says.
        """
        if self._options.get("temperature") != 0.0:
            return None, "it samples: no token is the one of the best logit"
        if self._loaded.drafts:
            return None, "tokens are drafted, and several of them chosen in one step"
        outputs = self._generate(self._with(logprobs=2))
        return [
            WatchedSequence(list(output.outputs[0].token_ids), _gaps(output.outputs[0])) for output in outputs
        ], None

    def reset_peak_memory(self) -> None:
        self._loaded.on_workers("llem_reset_peak_memory")

    def peak_memory_bytes(self) -> tuple[int | None, str | None]:
        """Of all workers together."""
        self._peaks: list[Peak] = self._loaded.on_workers("llem_peak_memory")
        return together(self._peaks)

    def ranks(self) -> list[Rank]:
        return [
            Rank(board=worker["gpu_uuid"], parameter_share=None, peak_memory_bytes=peak)
            for worker, (peak, _) in zip(self._loaded.workers, self._peaks, strict=True)
            if self._loaded.processes > 1
        ]

    def _fixed_new_tokens(self) -> int | None:
        return fixed_new_tokens(self._options)

    def _sampling_parameters(self, options: dict[str, Any]) -> Any:
        return sampling_parameters(options, self._random_seed, len(self._inputs), self._output_tokens)

    def _checked_call(self) -> list[Any]:
        self._loaded.on_workers("llem_watch_logits")
        finite = True
        try:
            outputs = self._generate(self._parameters)
        finally:
            # Watched calls are slow ones, and other experiments share the model.
            if self._loaded.model is not None:
                finite = all(self._loaded.on_workers("llem_logits_were_finite"))
        if not finite:
            raise MeasurementError("the model's logits are not finite: its weights or its precision are at fault")
        for output in outputs:
            self._check_stop(output.outputs[0])
        return outputs

    def _check_stop(self, sequence: Any) -> None:
        """That the text which ended a sequence is part of it. Where a prompt ends within a character, the detokenizer
        gives out what precedes that with the first new token, and finds it there.
        """
        found = sequence.stop_reason
        # Tokenizers leave out a space before the first token.
        if isinstance(found, str) and found.strip() not in (self.text(list(sequence.token_ids)) or ""):
            raise MeasurementError(
                f"vLLM ended a sequence at {found!r}, which is no part of its text: it reads the end of a prompt that "
                "is no whole text into it; use prompts that are, or remove it",
                field="decoder.stop_strings",
            )

    def _noted(self, output: Any) -> NotedTimes:
        metrics = output.metrics
        if metrics is None:
            raise MeasurementError("vLLM says nothing of when tokens appeared")
        tokens = len(output.outputs[0].token_ids)
        return NotedTimes(metrics.scheduled_ts, metrics.first_token_ts, metrics.last_token_ts, tokens)

    def _check_output(self, output: Any) -> None:
        super()._check_output(output)
        if output.num_cached_tokens and not self._loaded.caches_prefixes:
            raise MeasurementError(f"{output.num_cached_tokens} tokens of a prompt came from a cache of prefixes")


def _gaps(sequence: Any) -> list[float | None]:
    """By how much the best logit of each step was above the second best: log probabilities differ by as much."""
    gaps: list[float | None] = []
    for entries in sequence.logprobs:
        best = sorted((entry.logprob for entry in entries.values()), reverse=True)[:2]
        gap = best[0] - best[1] if len(best) == 2 else math.inf
        gaps.append(gap if math.isfinite(gap) else None)
    return gaps
