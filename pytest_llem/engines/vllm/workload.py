"""One pass over an experiment's prompts as one call: vLLM gets all of them at once, and batches them itself."""

from __future__ import annotations

import copy
import math
import time
from typing import TYPE_CHECKING, Any

from pytest_llem.engines.base import CallTiming, WatchedSequence
from pytest_llem.engines.serving import NotedTimes, text_of, timing
from pytest_llem.engines.vllm.sampling import fixed_new_tokens, sampling_parameters
from pytest_llem.errors import MeasurementError

if TYPE_CHECKING:
    from pytest_llem.engines.prompts import Prompts
    from pytest_llem.engines.vllm.model import VllmModel

_ENDINGS = ("length", "stop")


class VllmWorkload:
    """See :class:`pytest_llem.engines.base.Workload`."""

    calls = 1

    def __init__(self, loaded: VllmModel, options: dict[str, Any], prompts: Prompts, *, random_seed: int) -> None:
        self._loaded = loaded
        self._options = options
        self._random_seed = random_seed
        self.prompts = prompts
        self._inputs = [{"prompt_token_ids": list(ids)} for ids in prompts.token_ids]
        self._parameters = self._with()
        self._checked = False

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
            return _tokens(self._generate(self._parameters))
        # The first call warms up, and shows whether the model computes numbers at all.
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
        self._checked = True
        return _tokens(outputs)

    def output_tokens(self, index: int, output: list[list[int]]) -> list[list[int]]:  # noqa: ARG002
        """The new tokens of each prompt; what ends a sequence belongs to it."""
        return output

    def time_tokens(self, index: int) -> CallTiming:  # noqa: ARG002
        """Run the pass once more and say when its tokens appeared: in the mean over its sequences, each from the call
        to its first token, so with what it waited for its turn.

        The times are those that vLLM's engine notes for each request, on the same monotonic clock as this process.

        Raises:
            MeasurementError: the call failed, or its times are not within those of the call.
        """
        start_s = time.monotonic()
        outputs = self._generate(self._parameters)
        end_s = time.monotonic()
        noted = []
        for output in outputs:
            metrics = output.metrics
            if metrics is None:
                raise MeasurementError("vLLM says nothing of when tokens appeared")
            tokens = len(output.outputs[0].token_ids)
            noted.append(NotedTimes(metrics.scheduled_ts, metrics.first_token_ts, metrics.last_token_ts, tokens))
        return timing(start_s, noted, end_s, "vLLM")

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

    def text(self, tokens: list[int]) -> str | None:
        return text_of(self._loaded.tokenizer, tokens)

    def prefill(self) -> VllmWorkload:
        """The same call, stopped after the first token of its sequences."""
        other = copy.copy(self)
        other._options = {**self._options, "max_tokens": 1, "min_tokens": min(self._options.get("min_tokens", 0), 1)}
        other._parameters = other._with()
        return other

    def synchronize(self) -> None:
        """Nothing is queued once ``generate()`` has returned: the tokens have come from the device."""

    def reset_peak_memory(self) -> None:
        self._loaded.on_workers("llem_reset_peak_memory")

    def peak_memory_bytes(self) -> tuple[int | None, str | None]:
        """Of all workers together. Their peaks need not fall together, so the sum is an upper bound."""
        peaks = self._loaded.on_workers("llem_peak_memory")
        reason = next((reason for peak, reason in peaks if peak is None), None)
        return (sum(peak for peak, _ in peaks), None) if reason is None else (None, reason)

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

    def _with(self, **further: Any) -> Any:
        return sampling_parameters({**self._options, **further}, self._random_seed, len(self._inputs))

    def _generate(self, parameters: Any) -> list[Any]:
        outputs = self._loaded.generate(self._inputs, parameters)
        if len(outputs) != len(self._inputs):
            raise MeasurementError(f"vLLM returned {len(outputs)} of {len(self._inputs)} sequences")
        for output in outputs:
            reason = output.outputs[0].finish_reason
            if reason not in _ENDINGS:
                raise MeasurementError(f"vLLM ended a sequence for another reason than its length or its end: {reason}")
            if output.num_cached_tokens and not self._loaded.caches_prefixes:
                raise MeasurementError(f"{output.num_cached_tokens} tokens of a prompt came from a cache of prefixes")
        return outputs


def _tokens(outputs: list[Any]) -> list[list[int]]:
    return [list(sequence.token_ids) for output in outputs for sequence in output.outputs]


def _gaps(sequence: Any) -> list[float | None]:
    """By how much the best logit of each step was above the second best: log probabilities differ by as much."""
    gaps: list[float | None] = []
    for entries in sequence.logprobs:
        best = sorted((entry.logprob for entry in entries.values()), reverse=True)[:2]
        gap = best[0] - best[1] if len(best) == 2 else math.inf
        gaps.append(gap if math.isfinite(gap) else None)
    return gaps
