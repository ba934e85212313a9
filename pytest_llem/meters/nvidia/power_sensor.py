"""Energy from samples of power, for boards without an energy counter.

Three sources, the best that the board has:

* NVML's own buffer of samples, each with its date (``samples``). It is emptied now and then, so
  in all but long windows the meter does nothing. A window is integrated from idle to idle, as a counter's is, so that
  a delay of the samples cancels;
* the instantaneous power, read by a thread every 50 ms;
* the power usage, read likewise: a mean of the last second on most boards, so that the ends of a window
  are smeared by as much.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_llem.errors import MeasurementError
from pytest_llem.meters.nvidia.agreement import power_curve, sampled_energy
from pytest_llem.meters.nvidia.counter.sizing import least_window_s
from pytest_llem.meters.nvidia.idle_power import Idle, idle_from_samples, unknown_idle
from pytest_llem.meters.nvidia.library import lost_board
from pytest_llem.meters.nvidia.reading import Reading
from pytest_llem.meters.nvidia.samples import PowerSample, SampleBuffer, open_samples
from pytest_llem.meters.nvidia.settling import FADED_S, settle
from pytest_llem.meters.nvidia.visibility import describe
from pytest_llem.meters.nvidia.window_energy import WindowEnergy
from pytest_llem.meters.smeared import integrate_smeared

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_llem.meters.base import Clock, PowerCurve
    from pytest_llem.meters.nvidia.library import Board, Nvml

_POLL_S = 0.05
_INSTANT_MEMORY_S = 0.1  # longest update period that users of NVML report
_USAGE_MEMORY_S = 1.0  # nvmlDeviceGetPowerUsage: "averaged over 1 second" on Ampere and newer but GA100
# GA100 and H100 under the names that they are sold by. Not the H200: on two of them samples answered to steps of power
# at every phase within 20 ms.
_PARTLY_BLIND = frozenset({"A100", "A100X", "A800", "A30", "A30X", "H100", "H800", "H20", "GH200"})
_MOST_WAIT_S = 1.5
_SETTLED_SHARE = 0.003
_KEPT = 500_000  # hours: a window is integrated from all of its samples


@dataclass(frozen=True)
class PowerSource:
    """Where samples come from.

    Attributes:
        text: what they are, for warnings.
        memory_s: how long an earlier power is still seen in a sample, in seconds.
        pause_s: how often new ones must be fetched while a window runs, in seconds.
        fetch: all samples since it was called last; none where ``buffer`` keeps them.
        buffer: the driver's own samples, where they are the source.
    """

    text: str
    memory_s: float
    pause_s: float
    fetch: Callable[[], list[PowerSample]]
    buffer: SampleBuffer | None = None


class PowerSensor:
    """One board's power, integrated over windows.

    Its methods raise a ``MeasurementError`` when the board stopped answering.

    Attributes:
        board: the board that it measures.
        source: where samples come from.
        curve: the samples of the last window.
        period_s: how long an earlier power is still seen in a sample, in seconds.
    """

    def __init__(self, board: Board, source: PowerSource, clock: Clock, error: type[Exception]) -> None:
        """Use a source that answers.

        Args:
            board: the board that it measures.
            source: where samples come from.
            clock: the clock that windows are timed by.
            error: what NVML raises when the board stops answering.
        """
        self.board = board
        self.source = source
        self.period_s = source.memory_s
        self._clock = clock
        self._error = error
        self.curve: PowerCurve | None = None
        self._samples: list[PowerSample] = []
        self._idle: Idle | None = None
        self._failure: MeasurementError | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def least_window_s(self, relative_uncertainty: float) -> float:
        """Seconds that a window needs for its energy to be known so well."""
        seconds = least_window_s(self.period_s, 0.001, relative_uncertainty)
        # "At least 5 s" for such boards: the good practice of arXiv 2312.02741.
        return max(seconds, 5.0) if samples_partly(self.board.name) else seconds

    def begin(self) -> None:
        """Start to collect samples."""
        self._samples = []
        self.curve = self._failure = None
        self._stopped.clear()
        self._collect()
        self._thread = threading.Thread(target=self._collect_until_stopped, name="llem power samples", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop collecting. Stopping twice is harmless."""
        if self._thread is not None:
            self._stopped.set()
            self._thread.join()
            self._thread = None

    def reading(self, start_s: float, end_s: float) -> Reading:
        """Stop, and return the energy between two instants."""
        self.stop()
        if self._failure is not None:
            raise self._failure
        buffer = self.source.buffer
        energy = self._smeared(start_s, end_s) if buffer is None else self._settled(buffer, start_s, end_s)
        name = describe([self.board])
        if energy is None:
            return Reading(
                self.board.uuid,
                reason=f"below the resolution of the power sensor: {name} gave too few samples "
                f"in {end_s - start_s:.3g} s; measure a longer window",
            )
        warnings = [f"{name} has no energy counter: its joules are integrated from {self.source.text}"]
        if samples_partly(self.board.name):
            warnings.append(
                f"the power sensor of {name} samples 25 ms of every 100 ms (arXiv 2312.02741): work that "
                "changes in step with it is misjudged; measure several windows of 5 s or more"
            )
        return Reading(self.board.uuid, energy, warnings=tuple(warnings))

    def _smeared(self, start_s: float, end_s: float) -> WindowEnergy | None:
        # The last stretch of the work is in the first sample after it.
        deadline_s = end_s + 10.0 * _POLL_S
        self._collect()
        while not (self._samples and self._samples[-1].time_s >= end_s) and self._clock.now_s() < deadline_s:
            self._clock.sleep(_POLL_S / 5.0)
            self._collect()
        times_s, powers_w = [sample.time_s for sample in self._samples], [sample.power_w for sample in self._samples]
        found = integrate_smeared(times_s, powers_w, start_s, end_s, self.source.memory_s)
        return None if found is None else WindowEnergy(*found)

    def _settled(self, buffer: SampleBuffer, start_s: float, end_s: float) -> WindowEnergy | None:
        """From idle to idle: wait until the samples show that the board has settled."""
        self._clock.sleep(max(end_s + FADED_S + buffer.period_s - self._clock.now_s(), 0.0))
        while True:
            self._collect()
            samples = buffer.between(start_s - 1.0, math.inf)
            idle = idle_from_samples(samples, start_s) or self._idle or unknown_idle(samples)
            at_s = samples[-1].time_s if samples else end_s
            waited_s = self._clock.now_s() - end_s
            if at_s > end_s:
                step_w = max(max(sample.power_w for sample in samples) - idle.power_w, 0.0)
                settling = settle(samples, [], end_s, at_s, idle, step_w)
                found = sampled_energy(samples, start_s, end_s, idle, settling, at_s)
                if found is None or found.from_s > start_s:
                    return None
                known = settling.seen and settling.error_j <= _SETTLED_SHARE * found.energy.joules
                if known or waited_s > (settling.patience_s if settling.seen else _MOST_WAIT_S):
                    self.curve = power_curve(samples, start_s, at_s)
                    self._idle = Idle(settling.idle_w, settling.idle_error_w, 1.0)
                    return found.energy
            elif waited_s > _MOST_WAIT_S:
                return None
            self._clock.sleep(buffer.period_s)

    def _collect(self) -> None:
        try:
            self._samples += self.source.fetch()
        except self._error as error:
            raise lost_board(self.board, error) from error

    def _collect_until_stopped(self) -> None:
        while not self._stopped.wait(self.source.pause_s):
            try:
                self._collect()
            except MeasurementError as error:
                self._failure = error
                return


def samples_partly(name: str | None) -> bool:
    """Whether a board of this name has a power sensor that samples only a quarter of the time."""
    return not _PARTLY_BLIND.isdisjoint((name or "").replace("-", " ").split())


def open_power_sensor(nvml: Nvml, board: Board, clock: Clock) -> PowerSensor | None:
    """The board's power sensor; ``None`` where NVML reports no power at all."""
    source = _buffer(nvml, board, clock) or _polled(nvml, nvml.handle(board.uuid), clock)
    return None if source is None else PowerSensor(board, source, clock, nvml.binding.NVMLError)


def _buffer(nvml: Nvml, board: Board, clock: Clock) -> PowerSource | None:
    buffer = open_samples(nvml, board, clock, _KEPT)
    if buffer is None:
        return None

    def fetch() -> list[PowerSample]:
        buffer.fetch()
        return []

    text = f"NVML's power samples, one every {buffer.period_s * 1e3:.3g} ms"
    return PowerSource(text, buffer.period_s, buffer.span_s / 3.0, fetch, buffer)


def _polled(nvml: Nvml, handle: Any, clock: Clock) -> PowerSource | None:
    binding = nvml.binding
    field = getattr(binding, "NVML_FI_DEV_POWER_INSTANT", 186)

    def instant() -> list[PowerSample]:
        (value,) = binding.nvmlDeviceGetFieldValues(handle, [field])
        if value.nvmlReturn != binding.NVML_SUCCESS:
            raise binding.NVMLError(value.nvmlReturn)
        return [PowerSample(clock.now_s(), value.value.uiVal / 1e3)]

    def usage() -> list[PowerSample]:
        return [PowerSample(clock.now_s(), binding.nvmlDeviceGetPowerUsage(handle) / 1e3)]

    if nvml.field_values(handle, [field]):
        return PowerSource("its instantaneous power, read every 50 ms", _INSTANT_MEMORY_S, _POLL_S, instant)
    if nvml.optional("nvmlDeviceGetPowerUsage", handle) is not None:
        return PowerSource(
            "its mean power of the last second, read every 50 ms: the ends of a window are smeared by as much",
            _USAGE_MEMORY_S,
            _POLL_S,
            usage,
        )
    return None
