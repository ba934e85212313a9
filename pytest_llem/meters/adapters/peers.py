"""What the adapters to other energy tools share: which boards they read, and what they do not say.

An adapter reads the same experiment with another tool, to compare: its joules are what that tool reports, and
the time is that of our own clock around the same work.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
from typing import TYPE_CHECKING, Any

from pytest_llem.errors import MeterUnavailableError
from pytest_llem.meters.nvidia.library import Nvml
from pytest_llem.meters.nvidia.visibility import MIG_REFUSAL, Selection, describe, select_by_uuid, select_visible

if TYPE_CHECKING:
    from collections.abc import Sequence


def import_peer(meter: str, module: str) -> Any:
    """A tool's module, typed as Any because it is not there in most environments.

    Args:
        meter: the meter's name, which is also the name of the extra that installs the tool.
        module: what to import.

    Raises:
        MeterUnavailableError: it is not installed, or it cannot be imported.
    """
    try:
        # The tools look for boards of other makers, too, whose libraries print that they are not there.
        with contextlib.redirect_stdout(io.StringIO()):
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MeterUnavailableError(
            f"the Python package {error.name} is missing; pip install 'pytest-llem[{meter}]'", meter=meter
        ) from error
    except Exception as error:
        raise MeterUnavailableError(f"{module} cannot be imported: {in_words(error)}", meter=meter) from error


def select_boards(meter: str, gpu_uuids: Sequence[str] | None) -> Selection:
    """The boards to read: exactly those asked for, else those that CUDA lets this process use.

    Raises:
        MeterUnavailableError: there is none, NVML cannot work here, or one is divided by MIG.
    """
    try:
        with Nvml() as nvml:
            boards = nvml.boards()
        selection = select_visible(boards, os.environ) if gpu_uuids is None else select_by_uuid(boards, gpu_uuids)
    except MeterUnavailableError as error:
        # NVML's own reasons name the meter that it mostly serves.
        raise MeterUnavailableError(error.message, meter=meter) from error
    if not selection.boards:
        raise MeterUnavailableError(
            "no GPU is visible to this process; see nvidia-smi -L and CUDA_VISIBLE_DEVICES", meter=meter
        )
    divided = [board for board in selection.boards if board.mig_enabled]
    if divided:
        raise MeterUnavailableError(f"{describe(divided)} is divided by MIG: {MIG_REFUSAL}", meter=meter)
    return selection


def in_words(error: BaseException) -> str:
    """Someone else's exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
