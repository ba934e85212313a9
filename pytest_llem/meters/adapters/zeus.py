"""Joules as Zeus reports them (https://ml.energy/zeus), to compare with.

On a GPU: ``gpu_energy`` of the boards that the model lies on. On the CPU: ``cpu_energy`` and ``dram_energy`` of
every RAPL zone that Zeus finds; where the processor has a ``psys`` zone, Zeus counts it as one more processor.

Zeus is imported only when the meter is opened.
"""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

from pytest_llem.errors import MeasurementError, MeterUnavailableError
from pytest_llem.meters.adapters.peers import PeerMeter
from pytest_llem.meters.base import Disturbance, MeterRequest, Window
from pytest_llem.meters.nvidia.visibility import describe

if TYPE_CHECKING:
    from collections.abc import Iterator

_KEY = "pytest-llem"
_UNREADABLE = "Zeus cannot read its sensors"


class ZeusMeter(PeerMeter):
    """Reads windows with a ``ZeusMonitor``, one at a time."""

    name = "zeus"

    def __init__(self, request: MeterRequest) -> None:
        """Start a monitor.

        Raises:
            MeterUnavailableError: Zeus is not installed, or it finds no sensor.
        """
        super().__init__(request, "zeus.monitor")
        # Zeus's number of each board, in the order of ``boards``.
        self._indices = self._zeus_indices()
        self._monitor = self._start_monitor(self._indices, cpu_indices=[] if self.boards else None)
        if not self.boards and not self._monitor.cpu_indices:
            raise MeterUnavailableError(
                "Zeus finds no RAPL counter that it may read under /sys/class/powercap/intel-rapl; "
                "where they are there, make them readable (as root: chmod -R a+r /sys/class/powercap/intel-rapl/)",
            )
        # Read every sensor once: one that cannot be read is found now, and what Zeus starts late is running.
        with self.raised_as(MeterUnavailableError, _UNREADABLE):
            self._monitor.begin_window(_KEY, sync_execution=False)
            self._monitor.end_window(_KEY, sync_execution=False, cancel=True)

    def start(self) -> None:
        """Begin a window of Zeus."""
        with self.raised_as(MeasurementError, _UNREADABLE):
            # A window whose body raised is still open in Zeus, so each may restart it.
            self._monitor.begin_window(_KEY, sync_execution=False, restart=True)

    def fill(self, window: Window, started: None) -> None:  # noqa: ARG002
        """End Zeus's window and take its joules."""
        with self.raised_as(MeasurementError, _UNREADABLE), warnings.catch_warnings():
            # Zero joules: said as the window's reason.
            warnings.filterwarnings("ignore", message="The energy consumption of one or more GPUs")
            measurement = self._monitor.end_window(_KEY, sync_execution=False)
        joules = dict(self._joules(measurement))
        unchanged = [name for name, part_j in joules.items() if part_j == 0]
        if not self.boards:
            # A zone of an idle processor may stand still; all of them together do not.
            unchanged = [] if any(joules.values()) else unchanged or ["the processor"]
        backwards = [name for name, part_j in joules.items() if part_j < 0]
        if backwards:
            window.reason = f"zeus: the energy counter of {', '.join(backwards)} went backwards in the window"
            window.disturb(Disturbance("reset", window.reason))
        elif unchanged:
            window.reason = (
                f"below the counter's resolution: zeus reports 0 J for {', '.join(unchanged)} in "
                f"{window.seconds:.3g} s; measure a longer window"
            )
        else:
            window.boards_j = joules
            window.joules = sum(joules.values())

    def _joules(self, measurement: Any) -> Iterator[tuple[str, float]]:
        """The joules of each board, or of each zone of the processor, by name."""
        if self.boards:
            for board, index in zip(self.boards, self._indices, strict=True):
                yield board.uuid, float(measurement.gpu_energy[index])
            return
        for part, found in (("", measurement.cpu_energy), ("/dram", measurement.dram_energy)):
            yield from ((f"cpu-{index}{part}", float(part_j)) for index, part_j in (found or {}).items())

    def _zeus_indices(self) -> list[int]:
        """Zeus numbers the boards that ``CUDA_VISIBLE_DEVICES`` lists, in its order and by NVML's indices."""
        if not self.boards:
            return []
        listed = os.environ.get("CUDA_VISIBLE_DEVICES")
        if listed is not None and not all(entry.strip().isdecimal() for entry in listed.split(",")):
            numbers = ",".join(str(board.index) for board in self.boards)
            raise MeterUnavailableError(
                f"Zeus reads CUDA_VISIBLE_DEVICES as numbers only, and it is {listed}; for the same "
                f"boards: CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES={numbers}",
            )
        gpus = self._start_monitor([], cpu_indices=[]).gpus
        place = {gpu.gpu_index: number for number, gpu in enumerate(gpus.gpus)}
        missing = [board for board in self.boards if board.index not in place]
        if missing:
            reason = f"Zeus does not see {describe(missing)}; see CUDA_VISIBLE_DEVICES"
            raise MeterUnavailableError(reason)
        indices = [place[board.index] for board in self.boards]
        for board, index in zip(self.boards, indices, strict=True):
            with self.raised_as(MeterUnavailableError, f"Zeus cannot use {describe([board])}"):
                counts = gpus.supports_get_total_energy_consumption(index)
            if not counts:
                raise MeterUnavailableError(
                    f"{describe([board])} has no energy counter, which came with Volta; Zeus would poll "
                    "its power from a process of its own, and the meter nvml does without one",
                )
        return indices

    def _start_monitor(self, gpu_indices: list[int], cpu_indices: list[int] | None) -> Any:
        with self.raised_as(MeterUnavailableError, "Zeus cannot start"):
            return self.module.ZeusMonitor(gpu_indices=gpu_indices, cpu_indices=cpu_indices)
