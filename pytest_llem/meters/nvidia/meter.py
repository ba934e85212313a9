"""Joules of NVIDIA boards.

Volta and newer boards count millijoules since the driver was loaded (``nvmlDeviceGetTotalEnergyConsumption``). The
counter stands still between updates, some tens of milliseconds apart, so a window is measured from an update before the
work to one after it, with the idle power of either side: what the board drew above idle because of the work, until it
has settled, and idle power over the window's time. All waiting lies outside the window, and nothing is read inside it
but the driver's samples, by ``between_calls``.
Boards without a counter are read by samples of their power.

The stated uncertainty covers when and in which steps a sensor is updated. It does not cover the gain error of
the board's sensor (up to several per cent, arXiv 2312.02741), which is the same for every window on one board
and so cancels where a board is compared with itself, but not between boards.
"""

from __future__ import annotations

import math
import os
import random
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pytest_llem.errors import MeasurementError, MeterUnavailableError, SeveralBoardsError
from pytest_llem.meters.base import (
    COOL_DOWN_LIMIT_S,
    COVERAGE_FACTOR_95,
    IDLE_LIMIT_S,
    Disturbance,
    IdlePower,
    MeterRequest,
    Synchronize,
    Window,
    no_synchronize,
)
from pytest_llem.meters.host import Host, open_host
from pytest_llem.meters.idle import settled_power
from pytest_llem.meters.joined import JoinedWindows
from pytest_llem.meters.nvidia import readiness
from pytest_llem.meters.nvidia.counter.calibration_store import CalibrationStore
from pytest_llem.meters.nvidia.counter.counter import CounterResetError
from pytest_llem.meters.nvidia.counter.pursuit import wait_for_edges
from pytest_llem.meters.nvidia.counter.sensor import CounterSensor
from pytest_llem.meters.nvidia.disturbances import BoardWatch
from pytest_llem.meters.nvidia.idle_blocks import BoardBlocks
from pytest_llem.meters.nvidia.joined import Stretch
from pytest_llem.meters.nvidia.library import Nvml, lost_board
from pytest_llem.meters.nvidia.lock import BoardLocks, say_on_stderr
from pytest_llem.meters.nvidia.power_sensor import open_power_sensor
from pytest_llem.meters.nvidia.quiet import QuietBoards
from pytest_llem.meters.nvidia.reading import fill_energy
from pytest_llem.meters.nvidia.samples import open_samples
from pytest_llem.meters.nvidia.visibility import Selection, describe, select

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_llem.meters.nvidia.counter.calibration import Calibration
    from pytest_llem.meters.nvidia.library import Board
    from pytest_llem.meters.nvidia.power_sensor import PowerSensor
    from pytest_llem.meters.nvidia.reading import Reading

_RIGHT_AFTER_S = 1.0  # a window that follows so soon begins in the state that the last one ended in
_JUST_READ_S, _SAMPLES_AWAITED = 0.02, 1.5
_USELESS_WINDOW_S = 1.0  # for counters that stand still: no length would help


class NvmlMeter:
    """Sums the energy of a fixed set of boards.

    Its methods raise a ``MeasurementError`` when a board stopped answering.

    Attributes:
        boards: these boards.
        clock: where time is read.
    """

    name = "nvml"
    estimated = False
    reports_energy = True
    reads_boards = True
    environment: Mapping[str, object] = MappingProxyType({})

    def __init__(
        self, nvml: Nvml, selection: Selection, request: MeterRequest, locks: BoardLocks | None, host: Host
    ) -> None:
        """Own ``nvml``, ``locks`` and ``host`` from now on: closing the meter closes and releases them.

        Args:
            nvml: an initialised library.
            selection: the boards to sum.
            request: how they are read.
            locks: of the boards, where they are locked.
            host: what is read of the host in the same windows.

        Raises:
            MeterUnavailableError: a board reports neither energy nor power.
        """
        self._nvml = nvml
        self._locks = locks
        self._host = host
        self.clock = clock = request.clock
        self._warnings = selection.warnings
        self._ended_s: float | None = None
        self._read_s = -math.inf
        self._relative_uncertainty = request.relative_uncertainty
        self.boards: tuple[Board, ...] = selection.boards
        # Of its own: the user's seeds are not to be used up.
        self._random = random.Random()  # noqa: S311
        store = CalibrationStore()
        self._counters: list[CounterSensor] = []
        self._power_sensors: list[PowerSensor] = []
        for board in self.boards:
            if self._has_counter(board):
                read = partial(self._read_counter_j, board, nvml.handle(board.uuid))
                samples = open_samples(nvml, board, clock)
                self._counters.append(CounterSensor(board, read, clock, store, request.aligned, samples))
                continue
            power = open_power_sensor(nvml, board, clock)
            if power is None:
                raise MeterUnavailableError(
                    f"{describe([board])} has no energy counter; it needs a Volta or newer board, "
                    "not a virtual one, and a current driver; it reports no power either; leave the board out of "
                    "CUDA_VISIBLE_DEVICES, or measure time alone with the meter none",
                )
            self._power_sensors.append(power)
        self._watches = [BoardWatch(nvml, board) for board in self.boards]
        self._quiet = QuietBoards(self._watches, self._counters, clock)

    @property
    def auto_window_s(self) -> float:
        """Least seconds of a window whose 95% interval is as narrow as the request wants it.

        The first use may take a few seconds, to learn how the counters behave; see
        :mod:`pytest_llem.meters.nvidia.counter.sizing` for the formula.
        """
        self._prepare()
        found = [sensor.least_window_s(self._relative_uncertainty) for sensor in self._sensors]
        return max((seconds for seconds in found if seconds is not None), default=_USELESS_WINDOW_S)

    @property
    def calibrations(self) -> dict[str, Calibration | None]:
        """How the boards' counters behave, by UUID; ``None`` for one that stands still.

        A board without a counter is left out. The first use may take a few seconds.
        """
        self._prepare()
        return {sensor.board.uuid: sensor.calibration for sensor in self._counters}

    @contextmanager
    def window(self, synchronize: Synchronize = no_synchronize) -> Iterator[Window]:
        """Measure the body of the ``with`` block; see :class:`pytest_llem.meters.base.Meter`."""
        window = Window(warnings=list(self._warnings))
        synchronize()
        self._begin()
        try:
            # On the inner side of what the boards need, and outside of the work's time.
            host = self._host.begin()
            start_s = self.clock.now_s()
            try:
                yield window
                synchronize()
            finally:
                end_s = self.clock.now_s()
                window.host = self._host.end(host, start_s, end_s)
            readings = self._end(window, start_s, end_s)
        finally:
            for power in self._power_sensors:
                power.stop()
        fill_energy(window, readings)
        # Plain reads err by the phase of their edges, which ``pause`` makes random.
        window.errors_average_out = not self._power_sensors and not any(s.aligned for s in self._counters)
        self._fill_state(window)

    @property
    def joins(self) -> str | None:
        """Why windows cannot be joined: a board without a counter on a lattice, or without samples of its power."""
        self._prepare()
        for power in self._power_sensors:
            return f"{describe([power.board])} has no energy counter, so that windows cannot be joined"
        return next((counter.joins for counter in self._counters if counter.joins is not None), None)

    @contextmanager
    def joined_windows(self, synchronize: Synchronize = no_synchronize) -> Iterator[JoinedWindows]:
        """Measure windows back to back; see :class:`pytest_llem.meters.base.Meter`.

        Between two windows each board's counter is read once and its samples are fetched, some milliseconds each.
        """
        reason = self.joins
        if reason is not None:
            raise MeasurementError(reason)
        total = Window(warnings=list(self._warnings), joined=True)
        stretch = Stretch(self._counters, self._host, self._begin, self._look, self.clock, synchronize, self._warnings)
        yield JoinedWindows(total, stretch.window)
        if not stretch.windows:
            total.reason = "there was no window"
            return
        settled = self._end(total, stretch.spans[0].start_s, stretch.spans[-1].end_s)
        self._fill_state(total)
        total.seconds = math.fsum(window.seconds for window in stretch.windows)
        stretch.fill(total, settled)

    def between_calls(self) -> None:
        """Fetch the boards' power samples, if half of the time has passed that the driver keeps them for."""
        for counter in self._counters:
            counter.between_calls()

    def pause(self) -> None:
        """Let a random part of the longest update period pass, so that windows in a row do not beat with it.

        Those that have edges of their own do not; before the first of them, or after other work, the boards' samples
        are waited for that show this work: what they do not show yet would be taken for the window's.
        """
        beating = [sensor for sensor in self._sensors if not getattr(sensor, "aligned", False)]
        if beating:
            self.clock.sleep(self._random.uniform(0.0, max(sensor.period_s for sensor in beating)))
        elif self.clock.now_s() - self._read_s > _JUST_READ_S:
            self.clock.sleep(_SAMPLES_AWAITED * max(counter.sample_period_s or 0.0 for counter in self._counters))

    def others_worked(self) -> None:
        """See :class:`pytest_llem.meters.base.Meter`."""
        self._ended_s, self._read_s = None, -math.inf
        self._quiet.others_worked()
        for counter in self._counters:
            counter.others_worked()

    def check_quiet(self) -> list[Disturbance]:
        """See :func:`pytest_llem.meters.nvidia.readiness.check_quiet`.

        Takes half a second, or up to three on a board that stays busy; no time where the boards' samples show that they
        draw what they drew when they were last found idle.
        """
        return self._quiet.check()

    def cool_down(self, limit_s: float = COOL_DOWN_LIMIT_S) -> bool:
        """See :func:`pytest_llem.meters.nvidia.readiness.cool_down`."""
        return readiness.cool_down(self._watches, self.clock, limit_s)

    def idle_power(self, limit_s: float = IDLE_LIMIT_S) -> IdlePower:
        """Power of the boards with everything loaded and nothing running, once it has settled.

        The windows that follow use it too. Takes no time right after a :meth:`check_quiet` that found nothing.
        """
        self._prepare()
        blocks = BoardBlocks(self._counters, self._power_sensors, self.clock, self._quiet.rested_s)
        settled = settled_power(blocks, self.clock, limit_s)
        if settled is None:
            return IdlePower(reason="a board's sensor did not change while its idle power was measured")
        for counter, power in zip(self._counters, settled.powers, strict=False):
            counter.set_idle_power(power.power_w, power.uncertainty_w)
        return settled.total(limit_s)

    def idle_power_seen(self) -> IdlePower | None:
        """As the boards' samples before windows, or :meth:`idle_power`, have shown it last."""
        seen = [counter.idle for counter in self._counters]
        if self._power_sensors or not all(seen):
            return None
        idles = [idle for idle in seen if idle is not None]
        return IdlePower(
            power_w=math.fsum(idle.power_w for idle in idles),
            uncertainty_w=COVERAGE_FACTOR_95 * math.hypot(*(idle.error_w for idle in idles)),
            settled=True,
        )

    def close(self) -> None:
        """Release NVML, the boards and the host. Closing twice is harmless."""
        self._nvml.close()
        self._host.close()
        if self._locks is not None:
            self._locks.release()

    def __enter__(self) -> NvmlMeter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _has_counter(self, board: Board) -> bool:
        binding = self._nvml.binding
        try:
            binding.nvmlDeviceGetTotalEnergyConsumption(self._nvml.handle(board.uuid))
        except (binding.NVMLError_NotSupported, binding.NVMLError_FunctionNotFound):
            return False
        except binding.NVMLError as error:
            raise MeterUnavailableError(
                f"{describe([board])}: reading the energy counter failed: {error}; try nvidia-smi"
            ) from error
        return True

    def _read_counter_j(self, board: Board, handle: Any) -> float:
        try:
            return float(self._nvml.binding.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
        except self._nvml.binding.NVMLError as error:
            raise lost_board(board, error) from error

    @property
    def _sensors(self) -> tuple[CounterSensor | PowerSensor, ...]:
        return (*self._counters, *self._power_sensors)

    def _begin(self) -> None:
        """Look at the boards, and find the edges before the work."""
        self._prepare()
        self._quiet.begin_window()
        right_after = self._ended_s is not None and self.clock.now_s() - self._ended_s < _RIGHT_AFTER_S
        for watch in self._watches:
            watch.begin(right_after=right_after)
        for power in self._power_sensors:
            power.begin()
        for counter in self._counters:
            counter.begin_window()

    def _look(self) -> None:
        for watch in self._watches:
            watch.look()

    def _end(self, window: Window, start_s: float, end_s: float) -> list[Reading]:
        """As soon as the work has ended: look at the boards, and wait until they have settled."""
        for counter in self._counters:
            counter.end_window()
        for watch in self._watches:
            watch.end()
        self._ended_s = end_s
        self._quiet.end_window(end_s)
        self._note_state(window)
        window.seconds = end_s - start_s
        self._wait_until_settled(end_s)
        readings = [sensor.reading(start_s, end_s) for sensor in self._sensors]
        self._read_s = self.clock.now_s()
        return readings

    def _fill_state(self, window: Window) -> None:
        """The boards' power about the window, and what disturbed it."""
        window.power_curves = {sensor.board.uuid: sensor.curve for sensor in self._sensors if sensor.curve is not None}
        for watch in self._watches:
            watch.fill(window)

    def _prepare(self) -> None:
        for sensor in self._counters:
            sensor.prepare()

    def _wait_until_settled(self, end_s: float) -> None:
        """Wait for the edges that the counters need after the work, of all boards together."""
        while True:
            wanted = [(counter, counter.next_after(end_s)) for counter in self._counters]
            pursuits = {counter: pursuit for counter, pursuit in wanted if pursuit is not None}
            if not pursuits:
                return
            try:
                wait_for_edges(list(pursuits.values()))
            except CounterResetError as error:
                for counter in pursuits:
                    if counter.counter is error.counter:
                        counter.note_reset(in_window=True)
                # The others go on.
                pursuits = {counter: pursuit for counter, pursuit in pursuits.items() if pursuit.edge is not None}
            for counter, pursuit in pursuits.items():
                counter.note_after(pursuit.edge)

    def _note_state(self, window: Window) -> None:
        for board in self.boards:
            handle = self._nvml.handle(board.uuid)
            clock_mhz = self._nvml.optional("nvmlDeviceGetClockInfo", handle, self._nvml.binding.NVML_CLOCK_SM)
            if clock_mhz is not None:
                window.sm_clock_hz[board.uuid] = clock_mhz * 1e6
            limit_mw = self._nvml.optional("nvmlDeviceGetEnforcedPowerLimit", handle)
            if limit_mw is not None:
                window.power_limit_w[board.uuid] = limit_mw / 1e3


def open_nvml_meter(request: MeterRequest) -> NvmlMeter:
    """Open the sensors of the boards that a model uses, once nobody else measures them.

    Those are exactly the request's; without these, for work on the GPU, all boards that CUDA lets this process use, and
    for work on the CPU the one that NVML shows after ``CUDA_VISIBLE_DEVICES``, or as many as it has processes.

    Raises:
        MeterUnavailableError: NVML, the boards or their sensors are missing, or a board stayed in use; the text
            says how to fix it.
    """
    nvml = Nvml()
    locks, host = None, Host()
    try:
        host = open_host(request)
        selection = select(nvml.boards(), request.gpu_uuids, os.environ)
        unnamed = request.gpu_uuids is None and request.device != "cuda"
        if unnamed and len(selection.boards) not in {1, request.boards}:
            raise SeveralBoardsError(
                "the model runs on the CPU, so which board to read is not known: NVML shows "
                f"{describe(selection.boards)}; name one in CUDA_VISIBLE_DEVICES",
            )
        if request.lock_timeout_s is not None:
            uuids = (board.uuid for board in selection.boards)
            locks = BoardLocks(uuids, say=request.say or say_on_stderr, timeout_s=request.lock_timeout_s)
        return NvmlMeter(nvml, selection, request, locks, host)
    except BaseException:
        host.close()
        nvml.close()
        if locks is not None:
            locks.release()
        raise
