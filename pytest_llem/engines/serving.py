"""What engines share that serve many sequences at a time: the models, prompts and random weights of the first engine,
and the times of tokens that an engine notes itself.
"""

from __future__ import annotations

import gc
import hashlib
import os
import statistics
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from pytest_llem.engines.base import CallTiming
from pytest_llem.engines.prompts import load_prompts
from pytest_llem.engines.transformers.generation import ids_left_out, special_tokens
from pytest_llem.engines.transformers.hub import hub_file_if_any
from pytest_llem.engines.transformers.loading import draw_random
from pytest_llem.engines.transformers.progress import no_progress_bars
from pytest_llem.errors import LlemError, LoadError, MeasurementError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_llem.config import ExperimentConfig, LoadConfig
    from pytest_llem.engines.prompts import Prompts
    from pytest_llem.engines.transformers.generation import SpecialTokens
    from pytest_llem.engines.transformers.sources import Source

# What a section names as the first engine's does, which looks for the model.
_OF_THE_SOURCE = ("revision", "trust_remote_code")

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")

# Between the clocks of two processes, which are the same one, and between the steps of one call.
_CLOCK_TOLERANCE_S = 1e-3


@dataclass(frozen=True)
class NotedTimes:
    """When a sequence was begun and its first and last token appeared, on the monotonic clock, in seconds.

    Attributes:
        tokens: how many new ones it has.
    """

    scheduled_s: float
    first_token_s: float
    last_token_s: float
    tokens: int


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Within the block, a library finds these environment variables; what it sets itself is undone."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def for_the_source(load: LoadConfig) -> LoadConfig:
    """``load``, with what says where its model is found under the first engine's names."""
    options = {name: load.backend_options.get(name) for name in _OF_THE_SOURCE}
    return replace(load, pytorch=load.pytorch.model_copy(update=options))


@contextmanager
def named_by(section: str) -> Iterator[None]:
    """The field at fault is of this section, by whatever engine the fault is found."""
    try:
        yield
    except LlemError as error:
        error.message = error.message.replace("pytorch.", f"{section}.")
        if error.field is not None:
            error.field = error.field.replace("pytorch.", f"{section}.")
        raise


def check_safetensors(source: Source) -> None:
    """That the weights of ``source`` are there as safetensors, which engines prefer.

    The first engine's own checks would refuse quantisations that transformers does not know.

    Raises:
        LoadError: they are not, so that an engine could read pickles only, which execute what they hold.
    """
    if source.location is None:
        return
    for name in _WEIGHTS:
        if not Path(source.location).is_absolute():
            found = hub_file_if_any(source.location, name, source.hub_arguments)
        else:
            found = Path(source.location, name)
        if found is not None and found.is_file():
            return
    raise LoadError(f"has no {_WEIGHTS[0]}: other weights, such as pickled ones, are never loaded")


def save_random(load: LoadConfig, source: Source, device: torch.device, folder: Path) -> str:
    """Draw the weights as the first engine does, from the same seed on the same kind of device, and save them with the
    tokenizer: an engine itself would draw others. Returns where."""
    location = folder / "model"
    drawn = draw_random(load, load.pytorch, source, device)
    with no_progress_bars():
        drawn.save_pretrained(location)
    if source.tokenizer is not None:
        source.tokenizer.save_pretrained(location)
    del drawn
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return str(location)


def prompts_and_tokens(config: ExperimentConfig, folder: Path, source: Source) -> tuple[Prompts, SpecialTokens]:
    """The prompts of ``config``, which are the same for every engine, and the model's special tokens.

    Raises:
        PromptError: the prompts cannot be read, or do not fit the limits.
    """
    architecture = source.config
    # All that is read of a model.
    named: Any = SimpleNamespace(config=architecture, generation_config=_own_generation_config(source))
    special = special_tokens(named, source.tokenizer)
    prompts = load_prompts(
        config,
        folder,
        vocabulary_size=architecture.get_text_config().vocab_size,
        special_ids=ids_left_out(architecture, special, source.tokenizer),
        tokenizer=source.tokenizer,
    )
    return prompts, special


def seed_of(random_seed: int, index: int) -> int:
    """A seed for the prompt of this index, so that every pass draws the same tokens, whatever is batched with what."""
    digest = hashlib.sha256(f"{random_seed}:{index}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def timing(start_s: float, noted: Sequence[NotedTimes], end_s: float, engine: str) -> CallTiming:
    """Of a call, in the mean over its sequences, each from the call to its first token: with what it waited for its
    turn.

    Args:
        start_s, end_s: of the call, on the monotonic clock of this process.
        noted: by the engine itself, for each sequence.
        engine: its name, for messages.

    Raises:
        MeasurementError: the times do not lie within the call.
    """
    further_s = []
    for times in noted:
        order = (start_s, times.scheduled_s, times.first_token_s, times.last_token_s, end_s)
        if any(later < earlier - _CLOCK_TOLERANCE_S for earlier, later in pairwise(order)):
            raise MeasurementError(
                f"the times that {engine} notes of its tokens do not lie within the call, by the clock of this process"
            )
        if times.tokens > 1:
            further_s.append((times.last_token_s - times.first_token_s) / (times.tokens - 1))
    return CallTiming(
        statistics.fmean(times.first_token_s - start_s for times in noted),
        statistics.fmean(further_s) if further_s else None,
        # Sequences reach the engine one by one, so which of them share its first step differs from pass to pass.
        at_once=len(noted) == 1,
    )


def text_of(tokenizer: Any, tokens: list[int]) -> str | None:
    """What tokens spell; ``None`` without a tokenizer, or where it does not know them."""
    if tokenizer is None:
        return None
    try:
        return str(tokenizer.decode(tokens))
    except (IndexError, KeyError, OverflowError, TypeError, ValueError):
        # A model may embed more tokens than its tokenizer has.
        return None


def _own_generation_config(source: Source) -> Any:
    """The generation config that comes with the model, which names its special tokens; else one of its architecture."""
    from transformers import GenerationConfig

    if source.location is not None:
        with suppress(OSError):
            return GenerationConfig.from_pretrained(source.location, **source.hub_arguments)
    return GenerationConfig.from_model_config(source.config)
