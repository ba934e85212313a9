"""Joules from the energy counters of NVIDIA boards.

Volta and newer boards count millijoules since the driver was loaded
(``nvmlDeviceGetTotalEnergyConsumption``). The counter stands still between updates, some tens of milliseconds
apart, so each edge of a window is late by an unknown part of that period. The stated uncertainty covers this
and the counter's step; it does not cover the gain error of the board's sensor (up to several per cent, arXiv
2312.02741), which is the same for every window on one board and so cancels where a board is compared with
itself, but not between boards.
"""

from __future__ import annotations

import math
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_llem.errors import MeasurementError, MeterUnavailableError
from pytest_llem.meters.base import Clock, Synchronize, Window, no_synchronize
from pytest_llem.meters.boards import Nvml
from pytest_llem.meters.visibility import MIG_REFUSAL, Selection, describe, select_by_uuid, select_visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_llem.meters.boards import Board

ASSUMED_UPDATE_PERIOD_S = 0.1
"""Longest update period that users of the counter report, in seconds; the board's own is not known here."""

COUNTER_STEP_J = 1e-3
"""The counter's unit, in joules."""

COVERAGE_FACTOR_95 = 1.96
"""Standard uncertainties in the half-width of a 95% interval."""


@dataclass(frozen=True)
class _Edge:
    """Counters read at one edge of a window.

    Attributes:
        before_s, after_s: the clock before the first and after the last counter was read, in seconds.
        energy_mj: counters in millijoules, in the order of the meter's boards.
    """

    before_s: float
    after_s: float
    energy_mj: tuple[int, ...]


class NvmlMeter:
    """Sums the energy counters of a fixed set of boards."""

    name = "nvml"
    estimated = False
    reports_energy = True
    # Edges late by up to 0.1 s each leave a standard uncertainty of 1% after 4 s.
    auto_window_s = 4.0

    def __init__(self, nvml: Nvml, selection: Selection, clock: Clock) -> None:
        """Take over ``nvml``: closing the meter closes it.

        Raises:
            MeterUnavailableError: no board was selected, one is divided into MIG slices, or one has no
                counter.
        """
        self._nvml = nvml
        self._clock = clock
        self._warnings = selection.warnings
        self.boards: tuple[Board, ...] = selection.boards
        if not self.boards:
            raise MeterUnavailableError(
                "nvml meter: no GPU is visible to this process; see nvidia-smi -L and CUDA_VISIBLE_DEVICES"
            )
        self._handles = tuple(self._open_counter(board) for board in self.boards)

    def _open_counter(self, board: Board) -> Any:
        if board.mig_enabled:
            raise MeterUnavailableError(f"nvml meter: {describe([board])} is divided by MIG: {MIG_REFUSAL}")
        binding = self._nvml.binding
        try:
            handle = self._nvml.handle(board.uuid)
            binding.nvmlDeviceGetTotalEnergyConsumption(handle)
        except (binding.NVMLError_NotSupported, binding.NVMLError_FunctionNotFound) as error:
            raise MeterUnavailableError(
                f"nvml meter: {describe([board])} has no energy counter; it needs a Volta or newer board, "
                "not a virtual one, and a current driver; the meter none measures time alone"
            ) from error
        except binding.NVMLError as error:
            raise MeterUnavailableError(
                f"nvml meter: {describe([board])}: reading the energy counter failed: {error}; try nvidia-smi"
            ) from error
        return handle

    @contextmanager
    def window(self, synchronize: Synchronize = no_synchronize) -> Iterator[Window]:
        """Measure the body of the ``with`` block; see :class:`pytest_llem.meters.base.Meter`.

        Raises:
            MeasurementError: a board stopped answering.
        """
        window = Window(warnings=list(self._warnings))
        synchronize()
        start = self._read_edge()
        yield window
        synchronize()
        end = self._read_edge()
        # The clock is read on the inner side of the counters: the time is that of the work and nothing else.
        # What is left is that the joules also hold the reading of the counters, which belongs to the
        # uncertainty below.
        window.seconds = end.before_s - start.after_s
        self._fill_energy(window, start, end)
        self._fill_state(window)

    def close(self) -> None:
        """Release NVML. Closing twice is harmless."""
        self._nvml.close()

    def __enter__(self) -> NvmlMeter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _read_edge(self) -> _Edge:
        read = self._nvml.binding.nvmlDeviceGetTotalEnergyConsumption
        energy_mj: list[int] = []
        before_s = self._clock.now_s()
        try:
            # A loop, not a comprehension: its length tells which board failed.
            for handle in self._handles:
                energy_mj.append(read(handle))
        except self._nvml.binding.NVMLError as error:
            board = self.boards[len(energy_mj)]
            raise MeasurementError(
                f"{describe([board])} stopped answering while it was measured: {error}; the kernel log names "
                "the cause (dmesg | grep -i xid)"
            ) from error
        return _Edge(before_s, self._clock.now_s(), tuple(energy_mj))

    def _fill_energy(self, window: Window, start: _Edge, end: _Edge) -> None:
        reading_s = (start.after_s - start.before_s) + (end.after_s - end.before_s)
        variance_j2 = 0.0
        below_resolution: list[Board] = []
        reset: list[Board] = []
        for board, start_mj, end_mj in zip(self.boards, start.energy_mj, end.energy_mj, strict=True):
            if end_mj < start_mj:
                reset.append(board)
            elif end_mj == start_mj:
                below_resolution.append(board)
            else:
                joules = (end_mj - start_mj) / 1e3
                window.boards_j[board.uuid] = joules
                variance_j2 += _variance_j2(joules, window.seconds, reading_s)
        if reset:
            window.valid = False
            window.reason = f"the energy counter of {describe(reset)} was reset in the window"
            window.warnings.append(window.reason)
        elif below_resolution:
            window.reason = (
                f"below the counter's resolution: the energy counter of {describe(below_resolution)} did not "
                f"change in {window.seconds:.3g} s; measure a longer window"
            )
        else:
            window.joules = sum(window.boards_j.values())
            window.uncertainty_j = COVERAGE_FACTOR_95 * math.sqrt(variance_j2)

    def _fill_state(self, window: Window) -> None:
        binding = self._nvml.binding
        for board, handle in zip(self.boards, self._handles, strict=True):
            clock_mhz = self._nvml.optional("nvmlDeviceGetClockInfo", handle, binding.NVML_CLOCK_SM)
            if clock_mhz is not None:
                window.sm_clock_hz[board.uuid] = clock_mhz * 1e6
            limit_mw = self._nvml.optional("nvmlDeviceGetEnforcedPowerLimit", handle)
            if limit_mw is not None:
                window.power_limit_w[board.uuid] = limit_mw / 1e3


def open_nvml_meter(device: str, gpu_uuids: Sequence[str] | None, clock: Clock) -> NvmlMeter:
    """Open the counters of the boards that a model uses.

    Args:
        device: ``cuda``: without ``gpu_uuids``, all boards that CUDA lets this process use. ``cpu``: the one
            board that NVML shows after ``CUDA_VISIBLE_DEVICES``.
        gpu_uuids: exactly these boards, whatever else is visible.
        clock: where time is read.

    Raises:
        MeterUnavailableError: NVML, the boards or their counters are missing; the text says how to mend it.
    """
    nvml = Nvml()
    try:
        boards = nvml.boards()
        if gpu_uuids is not None:
            selection = select_by_uuid(boards, gpu_uuids)
        else:
            selection = select_visible(boards, os.environ)
            if device != "cuda" and len(selection.boards) > 1:
                raise MeterUnavailableError(
                    "nvml meter: the model runs on the CPU, so which board to read is not known: NVML shows "
                    f"{describe(selection.boards)}; name one in CUDA_VISIBLE_DEVICES"
                )
        return NvmlMeter(nvml, selection, clock)
    except BaseException:
        nvml.close()
        raise


def _variance_j2(joules: float, seconds: float, reading_s: float) -> float:
    """Variance in joules squared of one board's energy between two plain reads.

    Each edge is late by up to a period T, uniformly: the difference of the two has a standard deviation of T
    / sqrt 6. It is charged at the mean power of the shortest time that the joules can belong to (the window
    less T, but at least half the window), because the power itself is known no better.
    """
    power_w = joules / max(seconds - ASSUMED_UPDATE_PERIOD_S, seconds / 2)
    late_j = power_w * ASSUMED_UPDATE_PERIOD_S / math.sqrt(6)
    step_j = COUNTER_STEP_J / math.sqrt(6)
    reading_j = power_w * reading_s / math.sqrt(3)
    return late_j**2 + step_j**2 + reading_j**2
