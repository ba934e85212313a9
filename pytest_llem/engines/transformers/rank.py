"""What runs in each rank: the first engine with its part of the model, driven over a line by the measuring process.

A command is the name of a method of :class:`Rank` and its arguments; the answer is what it returned, or the
:class:`pytest_llem.errors.LlemError` that it raised.
"""

from __future__ import annotations

import os
import queue
import socket
import threading
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.tensor import DTensor

from pytest_llem.descendants import end_with_parent
from pytest_llem.engines.transformers.engine import load_here
from pytest_llem.engines.transformers.parallel.group import ADDRESS, TOKEN, UNNAMED
from pytest_llem.errors import LlemError, LoadError, MeasurementError, one_line

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_llem.config import ExperimentConfig, LoadConfig
    from pytest_llem.engines.base import CallTiming, WatchedSequence
    from pytest_llem.engines.prompts import Prompts
    from pytest_llem.engines.transformers.engine import TransformersModel
    from pytest_llem.engines.transformers.workload import TransformersWorkload


class Rank:
    """One process of several that share a model."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._model: TransformersModel
        self._workloads: dict[int, TransformersWorkload] = {}

    def load(self, config: LoadConfig, device: str) -> dict[str, Any]:
        """Load this rank's part. Returns the UUID of its GPU (``None`` on the CPU), its share of the model's
        parameters, and what libraries warned of."""
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        self._model = load_here(config, device)
        return {
            "board": next(iter(self._model.gpu_uuids), None),
            "parameter_share": _share(self._model.model),
            "warnings": list(self._model.warnings),
        }

    def prepare(self, key: int, config: ExperimentConfig, folder: Path) -> tuple[Prompts, int, int | None]:
        """Prepare a workload, by which ``key`` it is known from then on. Returns its prompts, calls and expected
        output tokens."""
        workload = self._workloads[key] = self._model.prepare(config, folder)
        return workload.prompts, workload.calls, workload.expected_output_tokens

    def prefill(self, key: int, other: int) -> None:
        """The workload ``key``, stopped after the first tokens, is known as ``other`` from now on."""
        self._workloads[other] = self._workloads[key].prefill()

    def forget(self) -> None:
        """No workload is used any more."""
        self._workloads.clear()

    def run(self, key: int, index: int, told: bool) -> list[list[int]] | None:
        """Run a call; returns its new tokens, on the first rank or where all are to tell them."""
        workload = self._workloads[key]
        output = workload.run(index)
        workload.synchronize()
        return workload.output_tokens(index, output) if told or self._number == 0 else None

    def time_tokens(self, key: int, index: int) -> CallTiming:
        """See :meth:`pytest_llem.engines.base.Workload.time_tokens`."""
        return self._workloads[key].time_tokens(index)

    def watch_tokens(self, key: int, index: int) -> tuple[list[WatchedSequence] | None, str | None]:
        """See :meth:`pytest_llem.engines.base.Workload.watch_tokens`."""
        return self._workloads[key].watch_tokens(index)

    def reset_peak_memory(self, key: int) -> None:
        """See :meth:`pytest_llem.engines.base.Workload.reset_peak_memory`."""
        self._workloads[key].reset_peak_memory()

    def peak_memory_bytes(self, key: int) -> tuple[int | None, str | None]:
        """See :meth:`pytest_llem.engines.base.Workload.peak_memory_bytes`."""
        return self._workloads[key].peak_memory_bytes()


def main() -> None:
    """Answer commands until the measuring process closes the line, whatever this one is doing then."""
    # One that is stopped notices nothing, and would outlive a session that was killed.
    end_with_parent()
    commands: queue.Queue[tuple[str, tuple[Any, ...]]] = queue.Queue()
    number = int(os.environ["RANK"])
    line = _line()
    line.send((number, os.getpid()))
    threading.Thread(target=_listen, args=(line, commands), daemon=True).start()
    rank = Rank(number)
    while True:
        method, arguments = commands.get()
        answer: Any
        try:
            answer = getattr(rank, method)(*arguments)
        except LlemError as exc:
            answer = _sendable(exc)
        except Exception as exc:  # noqa: BLE001  (it is the other process' to report)
            answer = MeasurementError(f"failed in {method}: {one_line(exc)}")
        line.send(answer)


def _line() -> Connection:
    connecting = socket.socket(socket.AF_UNIX)
    address = os.environ[ADDRESS]
    connecting.connect("\0" + address[1:] if address.startswith(UNNAMED) else address)
    line = Connection(connecting.detach())
    line.send_bytes(os.environ[TOKEN].encode())
    return line


def _listen(line: Connection, commands: queue.Queue[tuple[str, tuple[Any, ...]]]) -> None:
    try:
        while True:
            commands.put(line.recv())
    except (EOFError, OSError):
        # The main thread may wait for ranks that are gone, for ever.
        os._exit(0)


def _sendable(error: LlemError) -> LlemError:
    """``error`` without the frames and causes that hold on to tensors."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


def _share(model: Any) -> float:
    """The part of a model's parameters that lies in this process.

    Raises:
        LoadError: all of it does.
    """
    parameters = list(model.parameters())
    here = sum((part.to_local() if isinstance(part, DTensor) else part).numel() for part in parameters)
    share: float = here / sum(part.numel() for part in parameters)
    if share == 1.0:
        name = type(model).__name__
        raise LoadError(f"transformers does not divide a {name} over processes", field="parallel.tensor")
    return share


if __name__ == "__main__":
    main()
