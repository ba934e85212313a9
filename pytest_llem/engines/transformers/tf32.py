"""TensorFloat-32 in the matrix products of one experiment's calls."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def tf32(allowed: bool | None) -> Iterator[None]:
    """Within the block, fp32 matrix products on a GPU may round their factors to TF32, or may not.

    The switch is the process's, and the model is shared: it is put back for the experiments that follow.

    Args:
        allowed: ``None`` leaves it as it is.
    """
    if allowed is None:
        yield
        return
    legacy, own = _legacy_precision(), _own_precisions()
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    try:
        yield
    finally:
        if legacy is not None:
            torch.set_float32_matmul_precision(legacy)
        for library, precision in own:
            # What the switch for all of them has put back already is left, as is what it stands for.
            if library.fp32_precision != precision:
                library.fp32_precision = precision


def _legacy_precision() -> str | None:
    """The switch for all libraries; ``None`` where those of single ones have been set since."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def _own_precisions() -> list[tuple[Any, str]]:
    """The switches of the single libraries, which torch has since release 2.9, and what they are set to."""
    libraries: list[Any] = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    return [(library, library.fp32_precision) for library in libraries if hasattr(library, "fp32_precision")]
