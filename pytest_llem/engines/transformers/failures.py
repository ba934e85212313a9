"""What the libraries below raise, turned into one clear line, and freed of the tensors that it holds."""

from __future__ import annotations

import gc
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

# Texts of CUDA's errors after which every further call fails, until a process starts anew. There are others: see
# _device_works().
_DEVICE_LOST = (
    "device-side assert",
    "hardware stack error",
    "illegal instruction",
    "illegal memory access",
    "invalid program counter",
    "launch timed out",
    "misaligned address",
    "operation not supported on global/shared address space",
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
    "unspecified launch failure",
)


def is_out_of_memory(exc: BaseException) -> bool:
    """Whether ``exc`` says that a device or the host ran out of memory."""
    if isinstance(exc, torch.OutOfMemoryError | MemoryError):
        return True
    # The CPU's allocator has no exception type of its own; accelerate and bitsandbytes wrap CUDA's.
    text = str(exc)
    return isinstance(exc, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)


def is_device_lost(failure: BaseException) -> bool:
    """Whether ``failure``, or what it came from, leaves the CUDA context of this process unusable."""
    texts = [str(current) for current in _related(failure) if isinstance(current, RuntimeError)]
    return any(sign in text for text in texts for sign in _DEVICE_LOST) or (bool(texts) and not _device_works())


def _related(exc: BaseException) -> Iterator[BaseException]:
    """``exc``, what caused it, and where it is a group, its members with what caused them; each once."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [exc]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        pending += [current.__cause__, current.__context__]
        if isinstance(current, BaseExceptionGroup):
            pending += current.exceptions


def release(failure: BaseException) -> None:
    """Free the tensors that the frames of ``failure``, and of what caused it, keep alive.

    An exception that is kept (by ``sys.last_value``, by a test report) keeps every local variable on its way:
    the model, its activations, its cache. Frames that still run are left alone.
    """
    for current in _related(failure):
        traceback.clear_frames(current.__traceback__)
        for frame, _ in traceback.walk_tb(current.__traceback__):
            # Until Python 3.13 a frame keeps what was last shown of its variables; looking again brings it up to date.
            _ = frame.f_locals
    free_unused()


def free_unused() -> None:
    """Collect cycles, and give the memory that torch's CUDA allocator holds in reserve back to the device."""
    gc.collect()
    if not torch.cuda.is_available():
        return
    # A device that was lost has nothing to give back; the failure that lost it is reported where it happened.
    with suppress(RuntimeError):
        torch.cuda.empty_cache()


def _device_works() -> bool:
    """Whether CUDA still answers: a library may report something else before the failure that lost the device."""
    if not torch.cuda.is_available():
        return True
    try:
        torch.cuda.empty_cache()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True
