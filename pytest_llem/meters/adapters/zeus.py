"""Joules as Zeus reports them (https://ml.energy/zeus), to compare with.

On a GPU: ``gpu_energy`` of the boards that the model lies on. On the CPU: ``cpu_energy`` and ``dram_energy`` of
every RAPL zone that Zeus finds; where the processor has a ``psys`` zone, Zeus counts it as one more processor.

Zeus is imported only when the meter is opened.
"""

from __future__ import annotations

import os
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_llem.errors import MeasurementError, MeterUnavailableError
from pytest_llem.meters.adapters.peers import import_peer, in_words, select_boards
from pytest_llem.meters.base import Clock, Disturbance, Synchronize, UnwatchedMeter, Window, no_synchronize
from pytest_llem.meters.nvidia.visibility import describe

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_llem.meters.nvidia.library import Board

_KEY = "pytest-llem"
_NO_UNCERTAINTY = "zeus states no uncertainty"


class ZeusMeter(UnwatchedMeter):
    """Reads windows with a ``ZeusMonitor``, one at a time.

    Attributes:
        boards: the boards it sums; empty where it reads the processor.
    """

    name = "zeus"
    estimated = False
    reports_energy = True
    # Zeus reads a counter that stands still for up to 0.1 s at both edges without waiting: 1% after 4 s.
    auto_window_s = 4.0

    def __init__(self, clock: Clock, *, device: str = "cpu", gpu_uuids: Sequence[str] | None = None) -> None:
        """Start a monitor.

        Args:
            clock: where time is read.
            device: ``cuda``: without ``gpu_uuids``, all boards that CUDA lets this process use. ``cpu``: the
                processor.
            gpu_uuids: exactly these boards.

        Raises:
            MeterUnavailableError: Zeus is not installed, or it finds no sensor.
        """
        self._clock = clock
        self._monitor_module = import_peer("zeus", "zeus.monitor")
        self._warnings = [_NO_UNCERTAINTY]
        self.boards: tuple[Board, ...] = ()
        if device == "cuda" or gpu_uuids is not None:
            selection = select_boards("zeus", gpu_uuids)
            self.boards = selection.boards
            self._warnings += selection.warnings
        # Zeus's number of each board, in the order of ``boards``.
        self._indices = self._zeus_indices()
        self._monitor = self._start_monitor(self._indices, cpu_indices=[] if self.boards else None)
        if not self.boards and not self._monitor.cpu_indices:
            raise MeterUnavailableError(
                "Zeus finds no RAPL counter that it may read under /sys/class/powercap/intel-rapl; "
                "where they are there, make them readable (as root: chmod -R a+r /sys/class/powercap/intel-rapl/)",
                meter="zeus",
            )
        self._try_out()

    @contextmanager
    def window(self, synchronize: Synchronize = no_synchronize) -> Iterator[Window]:
        """Measure the body of the ``with`` block; see :class:`pytest_llem.meters.base.Meter`.

        Raises:
            MeasurementError: Zeus could not read a sensor.
        """
        window = Window(warnings=list(self._warnings))
        synchronize()
        self._begin()
        start_s = self._clock.now_s()
        yield window
        synchronize()
        window.seconds = self._clock.now_s() - start_s
        self._fill(window, self._end())

    def __enter__(self) -> ZeusMeter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

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
                meter="zeus",
            )
        gpus = self._start_monitor([], cpu_indices=[]).gpus
        place = {gpu.gpu_index: number for number, gpu in enumerate(gpus.gpus)}
        missing = [board for board in self.boards if board.index not in place]
        if missing:
            reason = f"Zeus does not see {describe(missing)}; see CUDA_VISIBLE_DEVICES"
            raise MeterUnavailableError(reason, meter="zeus")
        indices = [place[board.index] for board in self.boards]
        for board, index in zip(self.boards, indices, strict=True):
            try:
                counts = gpus.supports_get_total_energy_consumption(index)
            except Exception as error:
                reason = f"Zeus cannot use {describe([board])}: {in_words(error)}"
                raise MeterUnavailableError(reason, meter="zeus") from error
            if not counts:
                raise MeterUnavailableError(
                    f"{describe([board])} has no energy counter, which came with Volta; Zeus would poll "
                    "its power from a process of its own, and the meter nvml does without one",
                    meter="zeus",
                )
        return indices

    def _start_monitor(self, gpu_indices: list[int], cpu_indices: list[int] | None) -> Any:
        try:
            return self._monitor_module.ZeusMonitor(gpu_indices=gpu_indices, cpu_indices=cpu_indices)
        except Exception as error:
            raise MeterUnavailableError(f"Zeus cannot start: {in_words(error)}", meter="zeus") from error

    def _try_out(self) -> None:
        """Read every sensor once: one that cannot be read is found now, and what Zeus starts late is running."""
        try:
            self._begin()
            self._monitor.end_window(_KEY, sync_execution=False, cancel=True)
        except MeasurementError as error:
            raise MeterUnavailableError(error.message, meter=error.meter) from error

    def _begin(self) -> None:
        try:
            # A window whose body raised is still open in Zeus, so each begins anew.
            self._monitor.begin_window(_KEY, sync_execution=False, restart=True)
        except Exception as error:
            raise MeasurementError(f"Zeus cannot read its sensors: {in_words(error)}", meter="zeus") from error

    def _end(self) -> Any:
        try:
            with warnings.catch_warnings():
                # Zero joules: said as the window's reason.
                warnings.filterwarnings("ignore", message="The energy consumption of one or more GPUs")
                return self._monitor.end_window(_KEY, sync_execution=False)
        except Exception as error:
            raise MeasurementError(f"Zeus cannot read its sensors: {in_words(error)}", meter="zeus") from error

    def _fill(self, window: Window, measurement: Any) -> None:
        if self.boards:
            joules = {
                board.uuid: float(measurement.gpu_energy[index])
                for board, index in zip(self.boards, self._indices, strict=True)
            }
            unchanged = [name for name, board_j in joules.items() if board_j == 0]
        else:
            joules = {f"cpu-{index}": float(one) for index, one in (measurement.cpu_energy or {}).items()}
            joules |= {f"cpu-{index}/dram": float(one) for index, one in (measurement.dram_energy or {}).items()}
            # A zone of an idle processor may stand still; all of them together do not.
            unchanged = [] if any(joules.values()) else list(joules) or ["the processor"]
        backwards = [name for name, one_j in joules.items() if one_j < 0]
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
