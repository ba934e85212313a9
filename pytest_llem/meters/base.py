"""What every energy meter offers: windows.

A window is a stretch of work whose energy and time are read at the same two edges. Waiting for the sensor,
settling and every other cost of the meter lie outside the edges.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from pytest_llem.meters.cpu_time import cpu_s_of_descendants

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from pytest_llem.meters.joined import JoinedWindows

COVERAGE_FACTOR_95 = 1.96
"""Standard uncertainties in the half-width of a 95% interval, for a normal distribution."""

IDLE_LIMIT_S = 10.0
"""How long :meth:`Meter.idle_power` waits for the power to settle by default, in seconds."""

COOL_DOWN_LIMIT_S = 60.0
"""How long :meth:`Meter.cool_down` waits by default, in seconds."""


class Clock(Protocol):
    """Where a meter takes its time from, so that tests can run a simulated board in simulated time."""

    def now_s(self) -> float:
        """Monotonic time in seconds."""

    def sleep(self, seconds: float) -> None:
        """Let ``seconds`` pass."""

    def cpu_s(self) -> float:
        """CPU seconds (user and system) that this process and those it has started have used."""

    def wall_s(self) -> float:
        """Seconds since 1970, by which drivers date what they sampled."""


class SystemClock:
    """The monotonic clock of this machine."""

    def now_s(self) -> float:
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def cpu_s(self) -> float:
        return cpu_s_of_descendants() + time.process_time()

    def wall_s(self) -> float:
        return time.time()


@dataclass(frozen=True)
class MeterRequest:
    """What a meter is opened with: the arguments of :func:`pytest_llem.meters.open_meter`, which explains them.

    A meter reads those that concern it.
    """

    device: str = "cpu"
    gpu_uuids: Sequence[str] | None = None
    clock: Clock = field(default_factory=SystemClock)
    aligned: bool = True
    relative_uncertainty: float = 0.01
    watts_per_core: float | None = None
    powercap_root: Path | None = None
    host: str = "auto"
    lock_timeout_s: float | None = 3600.0
    say: Callable[[str], None] | None = None
    boards: int = 1


DisturbanceKind = Literal["throttled", "foreign_process", "busy", "reset", "sensors"]


@dataclass(frozen=True)
class Disturbance:
    """Something that makes a measurement one of something else than the work.

    Attributes:
        kind: ``throttled``: the board lowered its clocks because of heat or by a hardware brake;
            ``foreign_process``: a process that is not ours is on the board; ``busy``: the board works while
            we run nothing; ``reset``: the energy counter started again; ``sensors``: two sensors of the board
            have contradicted each other in several windows in a row.
        text: what happened, on which board, in one sentence.
    """

    kind: DisturbanceKind
    text: str


@dataclass(frozen=True)
class IdlePower:
    """Power while nothing runs.

    Attributes:
        power_w: in watts, all boards together; ``None`` where it is unknown.
        uncertainty_w: half-width of its 95% interval, in watts.
        settled: whether it had stopped changing when it was measured.
        reason: why it is ``None``, or why it did not settle.
    """

    power_w: float | None = None
    uncertainty_w: float | None = None
    settled: bool = False
    reason: str | None = None


@dataclass(frozen=True)
class PowerCurve:
    """Power of a board about a window.

    Attributes:
        times_s: since the start of the window, in seconds.
        powers_w: in watts.
        partial: whether the driver no longer had the samples of all of it.
    """

    times_s: list[float]
    powers_w: list[float]
    partial: bool = False

    def thinned(self, points: int) -> PowerCurve:
        """At most ``points`` points, each the mean of neighbouring samples."""
        size = max(math.ceil(len(self.times_s) / points), 1)
        times_s = [round(time_s, 3) for time_s in _means(self.times_s, size)]
        return PowerCurve(times_s, [round(power_w, 1) for power_w in _means(self.powers_w, size)], self.partial)


def _means(values: Sequence[float], size: int) -> list[float]:
    groups = [values[first : first + size] for first in range(0, len(values), size)]
    return [math.fsum(group) / len(group) for group in groups]


Covers = Literal["host", "machine"]
"""What a sensor of the host reads: the processor and its memory, or the whole machine with its boards."""


@dataclass(frozen=True)
class HostReading:
    """What the sensor of the host says of a window.

    Attributes:
        sensor: its name.
        covers: what its joules are of.
        joules: between the window's edges; ``None`` where they were not measured, then ``reason`` says why.
        uncertainty_j: half-width of the 95% interval of ``joules``, in joules.
        reason: why ``joules`` is ``None``.
    """

    sensor: str
    covers: Covers = "host"
    joules: float | None = None
    uncertainty_j: float | None = None
    reason: str | None = None


@dataclass
class Window:
    """What one window measured; filled in when the ``with`` block ends.

    Attributes:
        seconds: time between the edges, in seconds.
        joules: energy between the same edges, in joules; ``None`` when it was not measured, then ``reason``
            says why.
        uncertainty_j: half-width of the 95% interval of ``joules``, in joules; ``None`` when ``joules`` is,
            or when the meter cannot state one.
        reason: why ``joules`` is ``None``.
        valid: false when something disturbed the window (throttling, a foreign process, a counter reset, sensors
            that contradict each other);
            each disturbance is named in ``warnings``.
        disturbances: what disturbed it.
        labels: how the board ran, such as ``power capped``: not a fault, but only like compares with like.
        warnings: what a reader of the number must know, a sentence each.
        boards_j: joules by board (GPU UUID) or domain (RAPL), where the meter sums several.
        errors_average_out: whether what ``uncertainty_j`` covers differs from window to window by chance, as edges at
            random phases do; idle power and the way a board settles are misjudged alike in every window.
        sm_clock_hz: clock of the streaming multiprocessors at the end of the window, in hertz, by board.
        power_limit_w: enforced power limit at the end of the window, in watts, by board.
        power_curves: samples of the power about the window, by board, where its driver keeps any.
        joined: whether it was measured between others on a loaded board (:meth:`Meter.joined_windows`): its joules are
            another quantity than those of a settled window, and never compared with them.
        host: what the sensor of the host says, where a meter of boards reads one beside them; ``host_joules`` and the
            properties that follow are made of it.
    """

    seconds: float = 0.0
    joules: float | None = None
    uncertainty_j: float | None = None
    reason: str | None = None
    valid: bool = True
    warnings: list[str] = field(default_factory=list)
    boards_j: dict[str, float] = field(default_factory=dict)
    sm_clock_hz: dict[str, float] = field(default_factory=dict)
    power_limit_w: dict[str, float] = field(default_factory=dict)
    power_curves: dict[str, PowerCurve] = field(default_factory=dict)
    disturbances: list[Disturbance] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    errors_average_out: bool = False
    joined: bool = False
    host: HostReading | None = None

    @property
    def host_joules(self) -> float | None:
        """Energy of the processor and its memory between the same edges, in joules; ``None`` where it was not measured.

        Of a sensor of the whole machine it is what the boards leave of its reading.
        """
        if self.host is None or self.host.joules is None or not self._covers_machine:
            return None if self.host is None else self.host.joules
        # A machine that draws no more than its boards is not the machine.
        return None if self.joules is None or self.host.joules <= self.joules else self.host.joules - self.joules

    @property
    def host_uncertainty_j(self) -> float | None:
        """Half-width of the 95% interval of ``host_joules``, in joules."""
        if self.host is None or self.host_joules is None:
            return None
        own_j = self.host.uncertainty_j
        return _together(self.uncertainty_j, own_j) if self._covers_machine else own_j

    @property
    def host_reason(self) -> str | None:
        """Why ``host_joules`` is ``None`` although a sensor of the host was to be read."""
        if self.host is None or self.host_joules is not None:
            return None
        if self.host.joules is None:
            return self.host.reason or "no reason given"
        if self.joules is None:
            return f"{self.host.sensor} reads the whole machine, and what its boards used is not known"
        return f"{self.host.sensor} is to read the whole machine, and shows no more than its boards"

    @property
    def total_joules(self) -> float | None:
        """Energy of boards and host together, in joules; ``None`` where either was not measured."""
        return None if self.joules is None or self.host_joules is None else self.joules + self.host_joules

    @property
    def total_uncertainty_j(self) -> float | None:
        """Half-width of the 95% interval of ``total_joules``, in joules.

        Boards and host err independently, and half-widths add up as the root of the sum of their squares (JCGM
        100:2008, 5.1.2); of a sensor of the whole machine its own is that of the total, and the sum that of the host.
        """
        if self.host is None or self.total_joules is None:
            return None
        own_j = self.host.uncertainty_j
        return own_j if self._covers_machine else _together(self.uncertainty_j, own_j)

    @property
    def _covers_machine(self) -> bool:
        return self.host is not None and self.host.covers == "machine"

    def disturb(self, disturbance: Disturbance) -> None:
        """Make the window invalid, and say why."""
        self.valid = False
        self.disturbances.append(disturbance)
        self.warnings.append(disturbance.text)


def _together(*half_widths: float | None) -> float | None:
    known = [half_width for half_width in half_widths if half_width is not None]
    return math.hypot(*known) if len(known) == len(half_widths) else None


def no_synchronize() -> None:
    """For work that is finished when its call returns."""


Synchronize = Callable[[], None]


class Meter(Protocol):
    """Reads joules. Obtain one from :func:`pytest_llem.meters.open_meter`.

    Whatever reads the sensor raises :class:`pytest_llem.errors.MeasurementError` where it can no longer be read.

    Attributes:
        name: the name that it is opened by: ``nvml``, ``rapl``, ``estimate``, ``none`` ...
        estimated: true when its joules are modelled, not measured.
        reports_energy: false for ``none`` only.
        auto_window_s: least seconds of a window that its joules are meant for, where no other length is given.
        reads_boards: whether its joules are those of GPU boards even where the model runs on the CPU.
        environment: what its joules depend on beside the machine, such as ``watts_per_core``: results are comparable
            only where it is the same. Plain values, by name.
        clock: where it reads time.
        joins: why its windows cannot be joined, in a sentence; ``None`` where they can. The first use may take seconds.
    """

    @property
    def name(self) -> str: ...

    @property
    def estimated(self) -> bool: ...

    @property
    def reports_energy(self) -> bool: ...

    @property
    def auto_window_s(self) -> float: ...

    @property
    def reads_boards(self) -> bool: ...

    @property
    def environment(self) -> Mapping[str, object]: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def joins(self) -> str | None: ...

    def window(self, synchronize: Synchronize = no_synchronize) -> AbstractContextManager[Window]:
        """Measure the body of the ``with`` block.

        Args:
            synchronize: waits until the device has finished what was queued; called at both edges, so that
                the window holds the work that its body queued and nothing else.
        """

    def joined_windows(self, synchronize: Synchronize = no_synchronize) -> AbstractContextManager[JoinedWindows]:
        """Measure windows one after the other, without waiting for the sensor between them.

        A board's first window begins and its last one ends at rest; what lies between two windows, such as reading the
        sensor, belongs to neither. Nothing else may run on the device meanwhile. A disturbance makes all of them
        invalid. Each window's joules are provisional until the outer block ends.

        Args:
            synchronize: as in :meth:`window`; called at both edges of each window.

        Raises:
            MeasurementError: :attr:`joins` says why not.
        """

    def between_calls(self) -> None:
        """Called now and then inside a window, between two calls of the work: where a driver forgets what it sampled.

        Costs some tenths of a microsecond if nothing is to be done, and some milliseconds once a second or so.
        """

    def pause(self) -> None:
        """Let a random part of the sensor's update period pass, so that windows in a row do not beat with it."""

    def others_worked(self) -> None:
        """Another process of ours has had its turn on the device since the last window: what this meter saw there last
        is no longer how its next window begins. Called when that process has stopped working; takes no time.
        """

    def check_quiet(self) -> list[Disturbance]:
        """What would disturb a measurement that started now; called while nothing of ours runs."""

    def cool_down(self, limit_s: float = COOL_DOWN_LIMIT_S) -> bool:
        """Wait until nothing throttles the device any more, for ``limit_s`` seconds at most.

        Returns:
            Whether nothing throttles it now.
        """

    def idle_power(self, limit_s: float = IDLE_LIMIT_S) -> IdlePower:
        """Power with everything loaded and nothing running; waits at most ``limit_s`` seconds to settle."""

    def idle_power_seen(self) -> IdlePower | None:
        """Idle power as the pauses before windows have shown it last; ``None`` where they show none."""

    def close(self) -> None:
        """Release the sensor. Closing twice is harmless."""

    def __enter__(self) -> Meter: ...

    def __exit__(self, *exc_info: object) -> None: ...
