"""From a source to a model on its device."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from pytest_llem.config.builtin_models import is_builtin
from pytest_llem.engines.library_warnings import library_warnings
from pytest_llem.engines.transformers.architectures import generating_class
from pytest_llem.engines.transformers.checkpoints import (
    check_as_stored,
    check_checkpoint,
    check_complete,
    no_pickles,
    quantisation_of,
)
from pytest_llem.engines.transformers.checks import DTYPES
from pytest_llem.engines.transformers.hub import HUB_ARGUMENTS
from pytest_llem.engines.transformers.ignored import refuse_ignored_by_from_pretrained
from pytest_llem.engines.transformers.progress import no_progress_bars
from pytest_llem.engines.transformers.requirements import is_hub_kernel
from pytest_llem.errors import LoadError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from transformers import PreTrainedModel

    from pytest_llem.config import LoadConfig, PyTorchConfig
    from pytest_llem.engines.transformers.sources import Source

# How the names of those fields begin that are arguments of BitsAndBytesConfig.
_OF_BITSANDBYTES = ("load_in_", "bnb_4bit_")


def load_weights(load: LoadConfig, options: PyTorchConfig, source: Source, device: torch.device) -> PreTrainedModel:
    """Load or draw the weights of ``source`` and put them where ``options`` says, in evaluation mode.

    Random weights take the same way as read ones: they are drawn on ``device`` in the target precision, then
    handed to ``from_pretrained`` as its state dict. So quantisation, attention, device map and pass-through
    arguments mean the same for both. Tensors that stay as they are change hands without a copy; quantising
    needs, for a moment, both the drawn and the quantised weights.
    """
    refuse_ignored_by_from_pretrained(load.from_pretrained, builtin=is_builtin(load.model))
    files = check_checkpoint(source, load.from_pretrained.get("variant"))
    arguments = _from_pretrained_arguments(load, options, device)
    model: PreTrainedModel
    info: Mapping[str, Any]
    with library_warnings() as heard, no_progress_bars(), no_pickles():
        if source.location is None:
            drawn = draw_random(load, options, source, device)
            with _no_allocation_ahead():
                # With output_loading_info a pair, which its annotations do not say.
                model, info = type(drawn).from_pretrained(  # type: ignore[misc]
                    None, config=drawn.config, state_dict=drawn.state_dict(), **arguments
                )
        else:
            model, info = generating_class(source.config).from_pretrained(
                source.location, config=source.config, **arguments, **source.hub_arguments
            )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise LoadError(
            "holds an adapter, which transformers put over weights that are perhaps another model's; name the base as "
            "model and the adapter as pytorch.lora"
        )
    check_as_stored(load, model, source, files, info["unexpected_keys"], heard)
    check_complete(model, info)
    model.train(False)
    return model


def draw_random(load: LoadConfig, options: PyTorchConfig, source: Source, device: torch.device) -> PreTrainedModel:
    """The architecture of ``source`` with random weights, in the precision of ``load``.

    Raises:
        LoadError: there is no seed, or the architecture is that of a quantised checkpoint.
    """
    if load.random_seed is None:
        raise LoadError("is needed for random weights", field="random_seed")
    if quantisation_of(source.config):
        raise LoadError(
            "its configuration is that of a quantised checkpoint, which random weights would not be: name the "
            "unquantised model"
        )
    arguments: dict[str, Any] = {"dtype": DTYPES[load.precision]}
    # A kernel of the hub is none of the drawing's business.
    if options.attn_implementation is not None and not is_hub_kernel(options.attn_implementation):
        arguments["attn_implementation"] = options.attn_implementation
    # With a device map the whole model may not fit one device.
    place = torch.device("cpu") if options.device_map is not None else device
    cuda_indices = [place.index or 0] if place.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda_indices), place:
        torch.manual_seed(load.random_seed)
        model: PreTrainedModel = generating_class(source.config).from_config(
            source.config,
            trust_remote_code=bool(options.trust_remote_code),
            **arguments,
        )
    return model


def save_random(load: LoadConfig, source: Source, device: torch.device, location: Path) -> str:
    """Draw random weights on ``device`` and save them with the tokenizer, for processes that could not draw the same.
    Returns where."""
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


@contextmanager
def _no_allocation_ahead() -> Iterator[None]:
    """Within the block transformers does not allocate the model's size on the GPU for tensors still to come."""
    from transformers import modeling_utils

    warm_up = modeling_utils.caching_allocator_warmup
    modeling_utils.caching_allocator_warmup = lambda *_, **__: None
    try:
        yield
    finally:
        modeling_utils.caching_allocator_warmup = warm_up


def _from_pretrained_arguments(load: LoadConfig, options: PyTorchConfig, device: torch.device) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "dtype": DTYPES[load.precision],
        # Never a pickle, which executes what it holds.
        "use_safetensors": True,
        "output_loading_info": True,
        # Told by check_complete(), which names them.
        "ignore_mismatched_sizes": True,
    }
    if load.tensor > 1:
        arguments["distributed_config"] = _division(load.tensor)
    else:
        # Always a map: without one, bitsandbytes moves the model to the GPU even in a run on the CPU.
        arguments["device_map"] = options.device_map if options.device_map is not None else {"": device}
    if options.max_memory is not None:
        arguments["max_memory"] = dict(options.max_memory)
    if options.attn_implementation is not None:
        arguments["attn_implementation"] = options.attn_implementation
        if is_hub_kernel(options.attn_implementation) and options.trust_remote_code:
            # Else transformers takes kernels of its own organisation only.
            arguments["allow_all_kernels"] = True
    if options.load_in_4bit or options.load_in_8bit:
        arguments["quantization_config"] = _quantisation(options)
    return arguments | {name: value for name, value in load.from_pretrained.items() if name not in HUB_ARGUMENTS}


def _division(ranks: int) -> Any:
    """How transformers is to divide a model."""
    try:
        from transformers.distributed.configuration_utils import DistributedConfig

        return DistributedConfig(tp_size=ranks)
    except (ImportError, TypeError) as exc:
        raise UnavailableError(
            "the transformers of this environment does not divide models this way; install a newer one",
            field="parallel.tensor",
        ) from exc


def _quantisation(options: PyTorchConfig) -> Any:
    from transformers import BitsAndBytesConfig

    chosen = {name: value for name, value in options.given("load").items() if name.startswith(_OF_BITSANDBYTES)}
    return BitsAndBytesConfig(**chosen)  # type: ignore[no-untyped-call]
