"""TensorFloat-32 in the matrix products of one experiment's calls."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

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
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
