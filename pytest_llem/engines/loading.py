"""From a source to a model on its device."""

from __future__ import annotations

import difflib
import importlib.util
import logging
import warnings
from typing import TYPE_CHECKING, Any

import torch

from pytest_llem.engines.checks import DTYPES
from pytest_llem.engines.sources import HUB_ARGUMENTS
from pytest_llem.errors import LoadError, UnavailableError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pytest_llem.config import LoadConfig, PyTorchConfig
    from pytest_llem.engines.sources import Source


def load_weights(load: LoadConfig, options: PyTorchConfig, source: Source, device: torch.device) -> PreTrainedModel:
    """Load or draw the weights of ``source`` and put them where ``options`` says, in evaluation mode.

    Random weights take the same way as read ones: they are drawn on ``device`` in the target precision, then
    handed to ``from_pretrained`` as its state dict. So quantisation, attention, device map and pass-through
    arguments mean the same for both. Tensors that stay as they are change hands without a copy; quantising
    needs, for a moment, both the drawn and the quantised weights.
    """
    from transformers import AutoModelForCausalLM

    arguments = _from_pretrained_arguments(load, options, device)
    with warnings.catch_warnings():
        # Importing the quantisation stack calls what torch has deprecated: not the user's doing.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        if source.location is None:
            drawn = _draw_random(load, options, source, device)
            model: PreTrainedModel = type(drawn).from_pretrained(
                None, config=drawn.config, state_dict=drawn.state_dict(), **arguments
            )
        else:
            model = AutoModelForCausalLM.from_pretrained(
                source.location, config=source.config, **arguments, **source.hub_arguments
            )
    model.train(False)
    return model


def check_requirements(options: PyTorchConfig, device: torch.device) -> None:
    """Find out before anything is downloaded whether this machine has what ``options`` needs.

    Raises:
        UnavailableError: a package or a device is missing.
        LoadError: torch has no such backend for compiling.
    """
    if (options.load_in_4bit or options.load_in_8bit) and importlib.util.find_spec("bitsandbytes") is None:
        field = "load_in_4bit" if options.load_in_4bit else "load_in_8bit"
        raise UnavailableError(f"{field} needs the package bitsandbytes: pip install 'pytest-llem[bnb]'")
    attention = options.attn_implementation or ""
    if attention.startswith("flash_attention") and device.type != "cuda":
        raise UnavailableError(f"attn_implementation {attention!r} needs a CUDA GPU")
    backend = options.torch_compile_backend
    if backend is not None and backend not in (known := torch._dynamo.list_backends(exclude_tags=())):
        near = difflib.get_close_matches(backend, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        usual = ", ".join(torch._dynamo.list_backends())
        raise LoadError(f"torch_compile_backend {backend!r}: {hint}torch has {usual}")


def compile_model(model: PreTrainedModel, options: PyTorchConfig) -> None:
    """Compile the forward pass of ``model`` in place, so that ``generate()`` runs it compiled.

    ``torch.compile(model)`` returns a wrapper whose ``generate()`` compiles nothing.
    """
    arguments = {"mode": options.torch_compile_mode, "backend": options.torch_compile_backend}
    model.compile(**{name: value for name, value in arguments.items() if value is not None})


def say_once(logger_name: str) -> None:
    """Let each message of a library's logger through once.

    bitsandbytes logs a cast in every layer of every step, which would be timed and paid for as inference.
    """
    logger = logging.getLogger(logger_name)
    if not any(isinstance(present, _OncePerMessage) for present in logger.filters):
        logger.addFilter(_OncePerMessage())


class _OncePerMessage(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if message in self._seen:
            return False
        self._seen.add(message)
        return True


def _draw_random(load: LoadConfig, options: PyTorchConfig, source: Source, device: torch.device) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    if load.random_seed is None:
        raise LoadError("random weights need a random_seed")
    if getattr(source.config, "quantization_config", None) is not None:
        raise LoadError(
            f"model {load.model!r}: its configuration is that of a quantised checkpoint, which random "
            "weights would not be: name the unquantised model"
        )
    arguments: dict[str, Any] = {"dtype": DTYPES[load.precision]}
    if options.attn_implementation is not None:
        arguments["attn_implementation"] = options.attn_implementation
    # With a device map the whole model may not fit one device.
    place = torch.device("cpu") if options.device_map is not None else device
    cuda_indices = [place.index or 0] if place.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda_indices), place:
        torch.manual_seed(load.random_seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            source.config,
            trust_remote_code=bool(options.trust_remote_code),
            **arguments,
        )
    return model


def _from_pretrained_arguments(load: LoadConfig, options: PyTorchConfig, device: torch.device) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "dtype": DTYPES[load.precision],
        # Always a map: without one, bitsandbytes moves the model to the GPU even in a run on the CPU.
        "device_map": options.device_map if options.device_map is not None else {"": device},
        # Never a pickle, which executes what it holds.
        "use_safetensors": True,
    }
    if options.max_memory is not None:
        arguments["max_memory"] = dict(options.max_memory)
    if options.attn_implementation is not None:
        arguments["attn_implementation"] = options.attn_implementation
    if options.load_in_4bit or options.load_in_8bit:
        arguments["quantization_config"] = _quantisation(options)
        say_once("bitsandbytes.autograd._functions")
    return arguments | {name: value for name, value in load.from_pretrained.items() if name not in HUB_ARGUMENTS}


def _quantisation(options: PyTorchConfig) -> Any:
    from transformers import BitsAndBytesConfig

    if options.load_in_8bit:
        return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    chosen = {
        "bnb_4bit_compute_dtype": options.bnb_4bit_compute_dtype,
        "bnb_4bit_quant_type": options.bnb_4bit_quant_type,
        "bnb_4bit_use_double_quant": options.bnb_4bit_use_double_quant,
    }
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, **{name: value for name, value in chosen.items() if value is not None}
    )
