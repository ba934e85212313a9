"""What of ``generate()`` torch compiles, and whether it did.

``torch_compile`` compiles every forward pass, or, with a static cache, those after the prefill. The prefill makes that
cache: where it is compiled to CUDA graphs, they own what it puts into the cache, and the next call frees it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch._dynamo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import CompileConfig, PreTrainedModel

    from pytest_llem.config import PyTorchConfig

# Where torch keeps a module's compiled forward pass.
_COMPILED_FORWARD = "_compiled_call_impl"


def compile_model(model: PreTrainedModel, options: PyTorchConfig) -> None:
    """Compile the forward pass of ``model`` in place, so that ``generate()`` runs it compiled.

    ``torch.compile(model)`` returns a wrapper whose ``generate()`` compiles nothing.
    """
    arguments = {"mode": options.torch_compile_mode, "backend": options.torch_compile_backend}
    model.compile(**{name: value for name, value in arguments.items() if value is not None})


def compile_config(options: PyTorchConfig) -> CompileConfig:
    """The configuration with which ``generate()`` is to compile the steps after the prefill by itself."""
    from transformers import CompileConfig

    backend = {} if options.torch_compile_backend is None else {"backend": options.torch_compile_backend}
    # Without a mode of its own it would take another one than torch.compile does.
    config = CompileConfig(mode=options.torch_compile_mode, **backend)  # type: ignore[arg-type]
    # Else it compiles on accelerators only.
    config._compile_all_devices = True  # type: ignore[assignment]
    return config


@contextmanager
def forward_uncompiled(model: PreTrainedModel) -> Iterator[None]:
    """Within the block, the forward pass of ``model`` is not the one that :func:`compile_model` made."""
    state = vars(model)
    compiled = state.pop(_COMPILED_FORWARD, None)
    try:
        yield
    finally:
        if compiled is not None:
            state[_COMPILED_FORWARD] = compiled


def uses_cuda_graphs(options: PyTorchConfig) -> bool:
    """Whether the compiler that ``options`` names records CUDA graphs on a CUDA GPU."""
    mode = options.torch_compile_mode
    if mode is None or options.torch_compile_backend not in (None, "inductor"):
        return False
    from torch._inductor import list_mode_options

    return bool(list_mode_options(mode).get("triton.cudagraphs"))


def compiled_graphs() -> int:
    """Graphs that torch has compiled since :func:`forget_graphs`."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def skipped_cuda_graphs() -> int:
    """Graphs, since :func:`forget_graphs`, that were to be CUDA graphs and run without."""
    return int(torch._dynamo.utils.counters["inductor"]["cudagraph_skips"])


def forget_graphs() -> None:
    """Start anew: torch compiles a function at most eight times, whichever model's it is, then runs it uncompiled."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def refuse_giving_up(refuse: bool) -> None:
    """Whether going on uncompiled beyond the limit of recompilations is an error, not one line in the log."""
    torch._dynamo.config.fail_on_recompile_limit_hit = refuse
