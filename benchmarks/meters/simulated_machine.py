"""A simulated machine with an NVIDIA board, on which pytest-llem's meters, Zeus and CodeCarbon all run unchanged.

The simulation lies beneath the binding of NVML, so that each tool reads the board through its own code.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from unittest import mock

from tests.simulators import SimulatedBoard, install

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_llem.meters.base import Clock
    from tests.simulators import SimulatedNvml

PEERS = ("zeus", "codecarbon")
_VERSIONS_OF = ("pytest-llem", "zeus", "codecarbon", "nvidia-ml-py", "torch", "transformers")


@contextmanager
def private_folder() -> Iterator[None]:
    """A home, a cache and a working directory of their own, and the command by which CodeCarbon looks for a driver."""
    with TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        command = folder / "bin" / "nvidia-smi"
        command.parent.mkdir()
        command.write_text("#!/bin/sh\n")
        command.chmod(0o755)
        path = f"{command.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        stack.enter_context(mock.patch.dict(os.environ, HOME=name, XDG_CACHE_HOME=name, PATH=path))
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        stack.callback(os.chdir, Path.cwd())
        os.chdir(folder)
        yield


@contextmanager
def machine(board: SimulatedBoard, clock: Clock | None = None, peer: str | None = None) -> Iterator[SimulatedNvml]:
    """Put a machine with this board beneath NVML.

    Args:
        board: the only board.
        clock: the time that it lives in; default: real time.
        peer: the tool that will read it, if any; its memory of an earlier machine is cleared.
    """
    with install([board], clock) as library, ExitStack() as stack:
        if peer == "zeus":
            importlib.import_module("zeus.device.gpu.nvidia").nvml_is_available.cache_clear()
            stack.enter_context(mock.patch("zeus.device.gpu._gpus", None))
        elif peer == "codecarbon":
            importlib.import_module("codecarbon.core.gpu_nvidia").clear_nvidia_system_cache()
            stack.enter_context(mock.patch("codecarbon.core.hardware_cache._plans", {}))
        yield library


def missing_peers() -> list[str]:
    """Import the peers; those that cannot be imported, each with the reason. Call it in a :func:`private_folder`."""
    reasons = []
    # CodeCarbon looks for a driver when it is imported, and never again.
    with install([SimulatedBoard()]):
        for name in PEERS:
            try:
                importlib.import_module("zeus.monitor" if name == "zeus" else name)
            except ImportError as error:
                reasons.append(f"{name} is left out: {error}")
    return reasons


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    found = {"python": platform.python_version()}
    for name in _VERSIONS_OF:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def markdown_row(cells: list[Any]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def markdown_table(header: list[Any], rows: list[list[Any]]) -> str:
    """A Markdown table whose first column is text and whose others are numbers."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(markdown_row(row) for row in [header, rule, *rows])


def progress(text: str) -> None:
    """Say on standard error what is being measured."""
    print(text, file=sys.stderr, flush=True)
