"""The first engine's models, prompts and random weights, for engines that read a model by themselves."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pytest_llem.engines.prompts import load_prompts
from pytest_llem.engines.transformers.generation import ids_left_out, special_tokens
from pytest_llem.engines.transformers.hub import hub_file_if_any
from pytest_llem.errors import LlemError, LoadError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_llem.config import ExperimentConfig, LoadConfig
    from pytest_llem.engines.prompts import Prompts
    from pytest_llem.engines.transformers.generation import SpecialTokens
    from pytest_llem.engines.transformers.sources import Source

# What a section names as the first engine's does, which looks for the model.
_OF_THE_SOURCE = ("revision", "trust_remote_code")

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


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


def _own_generation_config(source: Source) -> Any:
    """The generation config that comes with the model, which names its special tokens; else one of its architecture."""
    from transformers import GenerationConfig

    if source.location is not None:
        with suppress(OSError):
            return GenerationConfig.from_pretrained(source.location, **source.hub_arguments)
    return GenerationConfig.from_model_config(source.config)
