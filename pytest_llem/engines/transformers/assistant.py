"""The smaller model of speculative decoding: loaded beside the main one, drafting tokens for it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from transformers import GenerationConfig

from pytest_llem.config import PyTorchConfig
from pytest_llem.engines.transformers.checks import check_loaded
from pytest_llem.engines.transformers.hub import hub_access
from pytest_llem.engines.transformers.loading import load_weights
from pytest_llem.engines.transformers.sources import find_source
from pytest_llem.errors import LoadError, MeasurementError, about

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch
    from transformers import PreTrainedModel

    from pytest_llem.config import LoadConfig
    from pytest_llem.engines.transformers.sources import Source

# generate() reads these from the assistant's own defaults; where an experiment sets them, they would be ignored.
ASSISTANT_OPTIONS = ("assistant_confidence_threshold", "num_assistant_tokens", "num_assistant_tokens_schedule")


@dataclass(frozen=True)
class Assistant:
    """A loaded assistant.

    Attributes:
        model: the assistant.
        commit: its commit or fingerprint, as of the main model.
    """

    model: PreTrainedModel
    commit: str | None


def assistant_load_config(load: LoadConfig) -> LoadConfig | None:
    """What decides the assistant of ``load``; ``None`` where it has none.

    It has the main model's precision, attention and kind of weights; quantisation, adapters, compilation and further
    arguments are the main model's alone.
    """
    options = load.pytorch
    if options.assistant_model is None:
        return None
    shared = PyTorchConfig(
        attn_implementation=options.attn_implementation, trust_remote_code=options.trust_remote_code or None
    )
    return replace(load, model=options.assistant_model, pytorch=shared, from_pretrained=hub_access(load))


def load_assistant(load: LoadConfig, main: Source, device: torch.device) -> Assistant:
    """Load the model of ``load``, as :func:`assistant_load_config` made it, onto ``device``.

    Args:
        main: the main model, whose tokens the assistant drafts.

    Raises:
        LoadError: it could not be loaded, or its tokens are not the main model's.
    """
    with about(field="pytorch.assistant_model", value=load.model):
        source = find_source(load)
        _check_same_tokens(source, main)
        model = load_weights(load, load.pytorch, source, device)
        check_loaded(model, load, load.pytorch, device)
    return Assistant(model, source.commit)


@contextmanager
def drafting(assistant: PreTrainedModel | None, options: Mapping[str, Any]) -> Iterator[None]:
    """Within the block, ``assistant`` drafts as ``options`` say and has no further defaults of its own.

    The assistant's defaults are also where ``generate()`` notes, with a schedule, how many tokens to draft in the next
    call; a fresh config keeps each call the same.
    """
    if assistant is None:
        yield
        return
    own = assistant.generation_config
    assistant.generation_config = GenerationConfig(**options)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        assistant.generation_config = own


@contextmanager
def watched(assistant: PreTrainedModel | None) -> Iterator[None]:
    """Check that ``assistant`` ran within the block.

    Raises:
        MeasurementError: it never did.
    """
    if assistant is None:
        yield
        return
    runs: list[bool] = []
    hook = assistant.register_forward_pre_hook(lambda *_: runs.append(True))
    try:
        yield
    finally:
        hook.remove()
    if not runs:
        raise MeasurementError("generate() never ran it", field="pytorch.assistant_model")


def _check_same_tokens(source: Source, main: Source) -> None:
    ours, theirs = (model.config.get_text_config().vocab_size for model in (source, main))
    if ours != theirs:
        raise LoadError(
            f"has a vocabulary of {ours} tokens, the model one of {theirs}: its drafts would mean something else; "
            "choose one of the same family"
        )
    if source.tokenizer is None or main.tokenizer is None:
        return
    vocabulary, expected = source.tokenizer.get_vocab(), main.tokenizer.get_vocab()
    if vocabulary != expected:
        differing = len(set(vocabulary.items()) ^ set(expected.items()))
        raise LoadError(
            f"its tokenizer differs from the model's in {differing} entries: its drafts would mean something else; "
            "choose one of the same family"
        )
