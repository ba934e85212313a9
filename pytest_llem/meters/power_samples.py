"""Energy from samples of power, for boards without an energy counter.

A sample says what the board drew in the stretch that ends with it; samples times stretches are joules. Three
sources, the best that the board has:

* NVML's own buffer of samples, each with its date. It is emptied now and then, so in all but long windows the
  meter does nothing;
* the instantaneous power, asked for by a thread every 50 ms;
* the power usage, asked for likewise: a mean of the last second on most boards, so that the ends of a window
  are smeared by as much.
"""

from __future__ import annotations

import math
import statistics
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_llem.meters.alignment import CounterTiming
from pytest_llem.meters.boards import lost_board
from pytest_llem.meters.reading import Reading
from pytest_llem.meters.sizing import unaligned_window_s
from pytest_llem.meters.tail import WindowEnergy
from pytest_llem.meters.visibility import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_llem.meters.base import Clock
    from pytest_llem.meters.boards import Board, Nvml

_COVERAGE_FACTOR = 1.96
_POLL_S = 0.05
_FEWEST_SAMPLES = 3
_INSTANT_MEMORY_S = 0.1  # longest update period that users of NVML report
_USAGE_MEMORY_S = 1.0  # nvmlDeviceGetPowerUsage: "averaged over 1 second" on Ampere and newer but GA100
# GA100 and GH100 under the names that they are sold by.
_PARTLY_BLIND = frozenset({"A100", "A100X", "A800", "A30", "A30X", "H100", "H200", "H800", "H20", "GH200"})


@dataclass(frozen=True)
class PowerSample:
    """Power of a board at an instant.

    Attributes:
        time_s: on the clock of the meter, in seconds; end of the stretch that it stands for.
        power_w: in watts.
    """

    time_s: float
    power_w: float


@dataclass(frozen=True)
class PowerSource:
    """Where samples come from.

    Attributes:
        text: in words, for warnings.
        memory_s: how long an earlier power is still seen in a sample, in seconds.
        pause_s: how often new ones must be fetched while a window runs, in seconds.
        fetch: all samples since it was called last.
    """

    text: str
    memory_s: float
    pause_s: float
    fetch: Callable[[], list[PowerSample]]


class PowerSensor:
    """One board's power, integrated over windows."""

    def __init__(self, board: Board, source: PowerSource, clock: Clock, error: type[Exception]) -> None:
        """Take a source that answers.

        Args:
            board: whose power it is.
            source: where samples come from.
            clock: the clock that windows are timed by.
            error: what NVML raises when the board stops answering.
        """
        self.board = board
        self.source = source
        self._clock = clock
        self._error = error
        self._samples: list[PowerSample] = []
        self._failure: Exception | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def least_window_s(self, relative_uncertainty: float) -> float:
        """Seconds that a window needs for its energy to be known so well."""
        timing = CounterTiming(self.source.memory_s, 0.0, 0.001, 0.0)
        seconds = unaligned_window_s(timing, relative_uncertainty)
        # "At least 5 s" for boards that look away: the good practice of arXiv 2312.02741.
        return max(seconds, 5.0) if looks_away(self.board.name) else seconds

    def begin(self) -> None:
        """Start to collect samples.

        Raises:
            MeasurementError: the board stopped answering.
        """
        self._samples.clear()
        self._failure = None
        self._stopped.clear()
        self._collect()
        self._thread = threading.Thread(target=self._collect_until_stopped, name="llem power samples", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop to collect. Stopping twice is harmless."""
        if self._thread is not None:
            self._stopped.set()
            self._thread.join()
            self._thread = None

    def reading(self, start_s: float, end_s: float) -> Reading:
        """Stop, and tell the energy between two instants.

        Raises:
            MeasurementError: the board stopped answering.
        """
        self.stop()
        if self._failure is not None:
            raise lost_board(self.board, self._failure) from self._failure
        # The last stretch of the work is in the first sample after it.
        deadline_s = end_s + 10.0 * _POLL_S
        self._collect()
        while not (self._samples and self._samples[-1].time_s >= end_s) and self._clock.now_s() < deadline_s:
            self._clock.sleep(_POLL_S / 5.0)
            self._collect()
        energy = integrate(self._samples, start_s, end_s, self.source.memory_s)
        name = describe([self.board])
        if energy is None:
            return Reading(
                self.board.uuid,
                reason=f"below the resolution of the power sensor: {name} gave fewer than {_FEWEST_SAMPLES} samples "
                f"in {end_s - start_s:.3g} s; measure a longer window",
            )
        return Reading(self.board.uuid, energy, warnings=self.warnings)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of these joules must know."""
        name = describe([self.board])
        texts = [f"{name} has no energy counter: its joules are integrated from {self.source.text}"]
        if looks_away(self.board.name):
            texts.append(
                f"the power sensor of {name} looks at 25 ms of every 100 ms (arXiv 2312.02741): work that "
                "changes in step with it is misjudged; measure several windows of 5 s or more"
            )
        return tuple(texts)

    def _collect(self) -> None:
        try:
            self._samples += self.source.fetch()
        except self._error as error:
            raise lost_board(self.board, error) from error

    def _collect_until_stopped(self) -> None:
        while not self._stopped.wait(self.source.pause_s):
            try:
                self._samples += self.source.fetch()
            except self._error as error:
                self._failure = error
                return


def integrate(samples: Sequence[PowerSample], start_s: float, end_s: float, memory_s: float) -> WindowEnergy | None:
    """Energy between two instants from samples of power.

    Each sample stands for the stretch since the one before it; the time before the first and after the last is
    taken at the power of the nearest. The variance adds what is not known of the ends, P m / sqrt(6) for a
    sensor that shows a power m seconds too late or smeared by as much (each end off by up to m, uniformly), and
    what a board may have drawn between samples: their standard deviation times the root of the sum of squared
    stretches.

    Args:
        samples: oldest first.
        start_s: in seconds, on the clock of the samples.
        end_s: in seconds.
        memory_s: how long an earlier power is still seen in a sample, in seconds.

    Returns:
        ``None`` for fewer than three samples inside.
    """
    inside = [sample.power_w for sample in samples if start_s <= sample.time_s <= end_s]
    if len(inside) < _FEWEST_SAMPLES:
        return None
    joules = 0.0
    stretches_s = []
    for index, sample in enumerate(samples):
        from_s = samples[index - 1].time_s if index else -math.inf
        to_s = sample.time_s if index < len(samples) - 1 else math.inf
        stretch_s = min(to_s, end_s) - max(from_s, start_s)
        if stretch_s > 0:
            joules += sample.power_w * stretch_s
            stretches_s.append(stretch_s)
    ends_j = joules / (end_s - start_s) * memory_s / math.sqrt(6.0)
    between_j = statistics.stdev(inside) * math.hypot(*stretches_s)
    return WindowEnergy(joules, _COVERAGE_FACTOR * math.hypot(ends_j, between_j))


def looks_away(name: str | None) -> bool:
    """Whether a board of this name has a power sensor that looks at a quarter of the time only."""
    return not _PARTLY_BLIND.isdisjoint((name or "").replace("-", " ").split())


def open_power_sensor(nvml: Nvml, board: Board, handle: Any, clock: Clock) -> PowerSensor | None:
    """The board's power sensor; ``None`` where NVML tells no power at all."""
    source = _buffer(nvml, handle, clock) or _polled(nvml, handle, clock)
    return None if source is None else PowerSensor(board, source, clock, nvml.binding.NVMLError)


def _buffer(nvml: Nvml, handle: Any, clock: Clock) -> PowerSource | None:
    binding = nvml.binding
    answer = nvml.optional("nvmlDeviceGetSamples", handle, binding.NVML_TOTAL_POWER_SAMPLES, 0)
    kept = [] if answer is None else list(answer[1])
    if len(kept) < _FEWEST_SAMPLES:
        return None
    span_s = (kept[-1].timeStamp - kept[0].timeStamp) / 1e6
    newest_us = kept[-1].timeStamp
    # Dates that are not this machine's wall clock cannot be told from the meter's.
    if not span_s > 0 or abs(clock.wall_s() - newest_us / 1e6) > max(1.0, span_s):
        return None

    def fetch() -> list[PowerSample]:
        nonlocal newest_us
        try:
            _, found = binding.nvmlDeviceGetSamples(handle, binding.NVML_TOTAL_POWER_SAMPLES, newest_us)
        except binding.NVMLError_NotFound:
            return []  # none since the last time
        offset_s = clock.now_s() - clock.wall_s()
        fresh = sorted((one.timeStamp, one.sampleValue.uiVal) for one in found if one.timeStamp > newest_us)
        if fresh:
            newest_us = fresh[-1][0]
        return [PowerSample(date_us / 1e6 + offset_s, power_mw / 1e3) for date_us, power_mw in fresh]

    period_s = span_s / (len(kept) - 1)
    return PowerSource(f"NVML's power samples, one every {period_s * 1e3:.3g} ms", period_s, span_s / 3.0, fetch)


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
