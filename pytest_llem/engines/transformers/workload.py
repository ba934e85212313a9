"""One pass over an experiment's prompts, as calls of a transformers model's ``generate()``."""

from __future__ import annotations

import copy
import hashlib
import time
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessorList
from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList

from pytest_llem.engines.base import CallTiming, WatchedSequence, Workload
from pytest_llem.engines.prompts import text_of
from pytest_llem.engines.transformers.assistant import drafting, watched
from pytest_llem.engines.transformers.caches import check_cache
from pytest_llem.engines.transformers.compiling import compiled_graphs, forward_uncompiled, skipped_cuda_graphs
from pytest_llem.engines.transformers.failures import is_device_lost, is_out_of_memory, release
from pytest_llem.engines.transformers.generation import neutral_generation
from pytest_llem.engines.transformers.logits import FiniteLogits, LogitGaps
from pytest_llem.engines.transformers.memory import CudaPeakMemory, ResidentPeakMemory
from pytest_llem.engines.transformers.tf32 import tf32
from pytest_llem.engines.transformers.timing import TokenClock
from pytest_llem.errors import LlemError, MeasurementError, UnavailableError, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from pytest_llem.engines.prompts import Prompts
    from pytest_llem.engines.transformers.engine import TransformersModel
    from pytest_llem.engines.transformers.generation import Generation, SpecialTokens

# What transformers keeps on the model of the last static cache, so that the next one is never shorter: its
# length or, in the first releases of version 5, the cache itself.
_STATIC_CACHE_ATTRIBUTES = ("_previous_max_cache_length", "_cache")

# What transformers keeps on a model that generate() compiled by itself.
_COMPILED_CALL = "_compiled_call"


class TransformersWorkload(Workload):
    """See :class:`pytest_llem.engines.base.Workload`.

    Sampling starts each call from a seed of its own, made of the experiment's seed and the call's index, so
    that every pass generates the same tokens, does the same work, and does not depend on what ran before.
    Setting it costs microseconds and is part of the call.
    """

    def __init__(
        self,
        loaded: TransformersModel,
        generation: Generation,
        prompts: Prompts,
        special: SpecialTokens,
        *,
        batch_size: int,
        random_seed: int,
    ) -> None:
        self._loaded = loaded
        self._generation = generation
        self.prompts = prompts
        batches = [
            prompts.token_ids[start : start + batch_size] for start in range(0, len(prompts.token_ids), batch_size)
        ]
        self.calls = len(batches)
        self._rows = [len(batch) * generation.rows_per_prompt for batch in batches]
        self._inputs = [_left_padded(batch, special.pad, loaded.device) for batch in batches]
        self._seeds = [_call_seed(random_seed, index) for index in range(len(batches))]
        self._ends = None if prompts.output_tokens is None else self._own_ends(prompts.output_tokens, batch_size)
        self._static_cache: dict[str, Any] = {}
        self._checked = False
        cuda_devices = loaded.cuda_devices
        self._memory = CudaPeakMemory(cuda_devices) if cuda_devices else ResidentPeakMemory()

    @property
    def expected_output_tokens(self) -> int | None:
        if self._ends is not None and self.prompts.output_tokens is not None:
            return sum(self.prompts.output_tokens) * self._generation.rows_per_prompt
        length = self._generation.fixed_new_tokens
        return None if length is None else length * sum(self._rows)

    def run(self, index: int) -> torch.Tensor:
        """Run call ``index`` of the pass; returns prompts and new tokens, a row for each sequence.

        Raises:
            MeasurementError: the call failed, or did not run as the experiment says.
            UnavailableError: the call needs a package that is missing.
        """
        return self._generate(index, self._generation.config)

    def output_tokens(self, index: int, output: torch.Tensor) -> list[list[int]]:
        """The real new tokens of each sequence in what call ``index`` returned.

        A sequence ends with its first end-of-sequence token, which belongs to it, or where it has as many tokens as it
        is to have. What follows is padding, whatever its id: models often pad with the end-of-sequence token or an
        ordinary one.
        """
        ends = frozenset(self._generation.eos_token_ids)
        start = self._prompt_length(index)
        sequences: list[list[int]] = output[:, start:].tolist()
        if self._ends is not None:
            lengths = (self._ends[index] - start).tolist()
            sequences = [sequence[:length] for sequence, length in zip(sequences, lengths, strict=True)]
        return [_until_end(sequence, ends) for sequence in sequences]

    def time_tokens(self, index: int) -> CallTiming:
        """Run call ``index`` once more and say when its tokens appeared.

        With beams, whose tokens are known only at the end, a run of one token is taken off the whole run.

        Raises:
            MeasurementError: the call failed, or did not run as the experiment says.
        """
        self.synchronize()
        if self._generation.beams == 1:
            clock = TokenClock()
            clock.start()
            self._generate(index, self._generation.config, streamer=clock)
            return clock.timing()
        return self._time_beams(index)

    def watch_tokens(self, index: int) -> tuple[list[WatchedSequence] | None, str | None]:
        """Run call ``index`` once more and watch the two best logits of each step; or ``None`` and the reason.

        Raises:
            MeasurementError: the call failed, or did not run as the experiment says.
        """
        if self._generation.samples:
            return None, "it samples: no token is the one of the best logit"
        if self._generation.beams > 1:
            return None, "beams choose whole sequences, not the token of the best logit"
        if self._drafts:
            return None, "tokens are drafted, and several of them chosen in one step"
        watching = LogitGaps()
        output = self._generate(index, self._generation.config, logits_processor=LogitsProcessorList([watching]))
        sequences = zip(self.output_tokens(index, output), watching.of_sequences(), strict=True)
        return [WatchedSequence(tokens, gaps[: len(tokens)]) for tokens, gaps in sequences], None

    def text(self, tokens: list[int]) -> str | None:
        return text_of(self._loaded.tokenizer, tokens)

    def prefill(self) -> TransformersWorkload:
        """The same calls, each stopped after the first token of its sequences.

        They keep the limit of the whole calls, where they can: a static cache is as long as that, and is attended to
        as a whole. Where tokens are drafted, the first step gives several, and only a limit of one gives one.
        """
        other = copy.copy(self)
        other._ends = None
        other._static_cache = {}
        if self._generation.beams > 1 or self._drafts:
            other._generation = replace(self._generation, config=self._one_token())
        else:
            stop = {"stopping_criteria": StoppingCriteriaList([_AfterFirstToken()])}
            other._generation = replace(self._generation, arguments={**self._generation.arguments, **stop})
        return other

    def synchronize(self) -> None:
        """Wait until the device has finished all queued work.

        Raises:
            MeasurementError: some of it failed; what runs on a GPU fails only when it is waited for.
        """
        try:
            for device in self._loaded.cuda_devices:
                torch.cuda.synchronize(device)
        except RuntimeError as exc:
            release(exc)
            raise self._explain(exc) from exc

    def reset_peak_memory(self) -> None:
        self._memory.reset()

    def peak_memory_bytes(self) -> tuple[int | None, str | None]:
        return self._memory.peak_bytes()

    def _own_ends(self, output_tokens: Sequence[int], batch_size: int) -> list[torch.Tensor]:
        """For each call, the length at which each of its sequences ends, prompt and padding included."""
        ends = []
        for index in range(self.calls):
            lengths = output_tokens[index * batch_size : (index + 1) * batch_size]
            rows = torch.tensor(lengths, device=self._loaded.device).repeat_interleave(self._generation.rows_per_prompt)
            ends.append(rows + self._prompt_length(index))
        return ends

    @property
    def _drafts(self) -> bool:
        return self._loaded.assistant is not None or self._generation.config.prompt_lookup_num_tokens is not None

    def _prompt_length(self, index: int) -> int:
        return int(self._inputs[index]["input_ids"].shape[1])

    def _time_beams(self, index: int) -> CallTiming:
        times_s = []
        steps = 0
        for config in (self._one_token(), self._generation.config):
            start_s = time.perf_counter()
            output = self._generate(index, config)
            self.synchronize()
            times_s.append(time.perf_counter() - start_s)
            steps = output.shape[1] - self._prompt_length(index)
        first_s, all_s = times_s
        return CallTiming(first_s, (all_s - first_s) / (steps - 1) if steps > 1 else None)

    def _one_token(self) -> Any:
        shortest = copy.deepcopy(self._generation.config)
        shortest.max_new_tokens = 1
        shortest.min_new_tokens = None
        return shortest

    def _generate(self, index: int, config: Any, **arguments: Any) -> torch.Tensor:
        model = self._loaded.model
        if model is None:
            raise MeasurementError("the model was closed")
        try:
            with (
                neutral_generation(model),
                self._own_static_cache(model),
                self._prefill_uncompiled(model),
                tf32(self._generation.allow_tf32),
            ):
                output = (
                    self._call(index, config, arguments)
                    if self._checked
                    else self._checked_call(index, config, arguments)
                )
            if self._generation.cuda_graphs and skipped_cuda_graphs() > 0:
                raise MeasurementError(
                    "needs CUDA graphs, but torch skipped some of them; TORCH_LOGS=cudagraphs says why",
                    field="pytorch.torch_compile_mode",
                )
            sequences: torch.Tensor = output.sequences
        except LlemError as exc:
            del model  # the exception keeps this frame, and the frame would keep the model
            release(exc)
            raise
        except Exception as exc:
            del model
            release(exc)
            raise self._explain(exc) from exc
        return sequences

    def _call(self, index: int, config: Any, arguments: dict[str, Any]) -> Any:
        assistant = self._loaded.assistant
        if assistant is not None:
            arguments = {**arguments, "assistant_model": assistant}
        if self._ends is not None:
            arguments = {**arguments, "stopping_criteria": StoppingCriteriaList([_AtOwnEnd(self._ends[index])])}
        if self._generation.samples:
            self._seed(self._seeds[index])
        with drafting(assistant, self._generation.drafting):
            return self._loaded.model.generate(
                **self._inputs[index], generation_config=config, **self._generation.arguments, **arguments
            )

    def _checked_call(self, index: int, config: Any, arguments: dict[str, Any]) -> Any:
        """The first call, which warms up: what it used is compared with the experiment."""
        state = vars(self._loaded.model)
        if config.disable_compile:
            state.pop(_COMPILED_CALL, None)  # of another experiment
        processors = LogitsProcessorList([FiniteLogits(), *arguments.get("logits_processor", ())])
        # For a single token there is nothing to draft.
        with watched(self._loaded.assistant if config.max_new_tokens > 1 else None):
            output = self._call(index, config, arguments | {"logits_processor": processors})
        # Releases differ in its name, and the attribute of the former one warns.
        check_cache(self._generation.config, output["cache"] if "cache" in output else output.get("past_key_values"))
        self._check_compiled()
        if config.disable_compile and _COMPILED_CALL in state:
            raise MeasurementError("generate() compiled the model", field="pytorch.disable_compile", value=True)
        self._checked = True
        return output

    def _check_compiled(self) -> None:
        field = self._generation.compiled_by
        if field is not None and compiled_graphs() == 0:
            reason = ""
            if not self._generation.config.disable_compile:
                reason = (
                    "; with a static cache it compiles the steps after the first token, without beams, and neither a "
                    "model of bitsandbytes nor one that is offloaded"
                )
            raise MeasurementError(f"generate() compiled no graph{reason}", field=field)

    def _seed(self, seed: int) -> None:
        # Not torch.manual_seed: it prepares every kind of device for its seed, which takes a hundred times
        # longer.
        torch.default_generator.manual_seed(seed)
        for device in self._loaded.cuda_devices:
            torch.cuda.default_generators[device.index].manual_seed(seed)

    def _prefill_uncompiled(self, model: Any) -> AbstractContextManager[None]:
        # generate() compiles the steps after it by itself.
        return forward_uncompiled(model) if self._generation.config.compile_config is not None else nullcontext()

    @contextmanager
    def _own_static_cache(self, model: Any) -> Iterator[None]:
        # A longer cache left by another experiment on this model would be attended to, and paid for, in this
        # one.
        state = vars(model)
        for name in _STATIC_CACHE_ATTRIBUTES:
            state.pop(name, None)
        state.update(self._static_cache)
        try:
            yield
        finally:
            self._static_cache = {name: state.pop(name) for name in _STATIC_CACHE_ATTRIBUTES if name in state}

    def _explain(self, exc: Exception) -> LlemError:
        place = self._loaded.device
        if is_device_lost(exc):
            return MeasurementError(
                f"the GPU ({place}) failed, and this process cannot use it any more: {one_line(exc)}"
            )
        if is_out_of_memory(exc):
            return MeasurementError(f"out of memory on {place} in generate(): lower batch_size or the token limits")
        if isinstance(exc, ImportError):
            return UnavailableError(f"generate() needs a package that is missing: {one_line(exc)}")
        return MeasurementError(f"generate() failed: {one_line(exc)}")


class _AfterFirstToken(StoppingCriteria):
    """Every sequence is finished as soon as it has a token."""

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:  # noqa: ARG002
        return torch.ones(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


class _AtOwnEnd(StoppingCriteria):
    """Each sequence is finished as soon as it has its own length, shape ``(rows,)``; the others go on."""

    # generate() fills the finished ones up with padding only where a criterion has this, also of a model that has none.
    eos_token_id = None

    def __init__(self, lengths: torch.Tensor) -> None:
        self._lengths = lengths

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:  # noqa: ARG002
        return self._lengths <= input_ids.shape[1]


def _left_padded(batch: Sequence[Sequence[int]], pad_token_id: int, device: torch.device) -> dict[str, torch.Tensor]:
    # On the left: a decoder-only model continues from the last position, which must be a real token.
    length = max(map(len, batch))
    ids = [[pad_token_id] * (length - len(prompt)) + list(prompt) for prompt in batch]
    mask = [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in batch]
    return {
        "input_ids": torch.tensor(ids, dtype=torch.long, device=device),
        "attention_mask": torch.tensor(mask, dtype=torch.long, device=device),
    }


def _call_seed(random_seed: int, index: int) -> int:
    # Hashed, because the CPU's generator uses the lower 32 bits: seed 1, call 2 must not be seed 2, call 1.
    digest = hashlib.sha256(f"{random_seed}:{index}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def _until_end(sequence: list[int], ends: frozenset[int]) -> list[int]:
    for position, token_id in enumerate(sequence):
        if token_id in ends:
            return sequence[: position + 1]
    return sequence
