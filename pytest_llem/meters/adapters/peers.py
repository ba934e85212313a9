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

from pytest_llem.errors import LlemError, MeterUnavailableError, one_line
from pytest_llem.meters.nvidia.library import Nvml
from pytest_llem.meters.nvidia.visibility import select
from pytest_llem.meters.simple import SimpleMeter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_llem.meters.base import MeterRequest
    from pytest_llem.meters.nvidia.library import Board


class PeerMeter(SimpleMeter):
    """Reads windows with another tool.

    Attributes:
        module: the tool's module, typed as Any because it is not there in most environments.
        boards: the boards it sums: exactly the request's; without these, for work on a GPU, all that CUDA lets this
            process use. Empty where it reads the processor.
    """

    # The tools read a counter that stands still for up to 0.1 s at both edges without waiting: 1% after 4 s.
    auto_window_s = 4.0

    def __init__(self, request: MeterRequest, module: str) -> None:
        """Import the tool and choose the boards.

        Raises:
            MeterUnavailableError: the tool is not installed or cannot be imported, or there are no boards to read.
        """
        super().__init__(request)
        self.module = _import_peer(self.name, module)
        self.warnings = [f"{self.name} states no uncertainty"]
        self.boards: tuple[Board, ...] = ()
        if request.device == "cuda" or request.gpu_uuids is not None:
            with Nvml() as nvml:
                selection = select(nvml.boards(), request.gpu_uuids, os.environ)
            self.boards = selection.boards
            self.warnings += selection.warnings

    @contextlib.contextmanager
    def raised_as(self, kind: type[LlemError], text: str) -> Iterator[None]:
        """Raise whatever the tool raises as an error of this package: ``text`` and the reason."""
        try:
            yield
        except Exception as error:
            raise kind(f"{text}: {one_line(error)}", meter=self.name) from error


def _import_peer(meter: str, module: str) -> Any:
    try:
        # The tools look for boards of other makers, too, whose libraries print that they are not there.
        with contextlib.redirect_stdout(io.StringIO()):
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # The extra that installs the tool has the meter's name.
        raise MeterUnavailableError(
            f"the Python package {error.name} is missing; pip install 'pytest-llem[{meter}]'"
        ) from error
    except Exception as error:
        raise MeterUnavailableError(f"{module} cannot be imported: {one_line(error)}") from error
