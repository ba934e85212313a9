"""Windows back to back on loaded boards: one stretch whose outer ends settle."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_llem.meters.base import PowerCurve, Window
from pytest_llem.meters.host import sum_of
from pytest_llem.meters.nvidia.counter.joined import JoinedCounter
from pytest_llem.meters.nvidia.reading import Reading, fill_energy
from pytest_llem.meters.nvidia.sensor_lag import Span
from pytest_llem.meters.nvidia.visibility import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pytest_llem.meters.base import Clock, Synchronize
    from pytest_llem.meters.host import Host
    from pytest_llem.meters.nvidia.counter.sensor import CounterSensor

_CURVE_FROM_S = 0.1


class Stretch:
    """The windows of one stretch, of all boards together.

    Attributes:
        windows: those that have ended.
        spans: when, in seconds.
    """

    def __init__(
        self,
        sensors: Sequence[CounterSensor],
        host: Host,
        begin: Callable[[], None],
        look: Callable[[], None],
        clock: Clock,
        synchronize: Synchronize,
        warnings: Sequence[str],
    ) -> None:
        """A stretch that begins with its first window.

        Args:
            sensors: of the boards.
            host: read at the edges of each window.
            begin: looks at the boards, and finds an edge of each, before the first window.
            look: looks at the boards after each window.
            clock: windows are timed by it.
            synchronize: waits until the device has finished.
            warnings: of every window.
        """
        self.windows: list[Window] = []
        self.spans: list[Span] = []
        self._sensors = sensors
        self._host = host
        self._begin = begin
        self._look = look
        self._clock = clock
        self._synchronize = synchronize
        self._warnings = warnings
        self._boards: list[JoinedCounter] = []
        self._failed = False

    @contextmanager
    def window(self) -> Iterator[Window]:
        """One window; see :meth:`pytest_llem.meters.base.Meter.joined_windows`."""
        window = Window(warnings=list(self._warnings), joined=True, errors_average_out=True)
        self._synchronize()
        if not self._boards:
            self._begin()
            self._boards = [JoinedCounter(sensor) for sensor in self._sensors]
        host = self._host.begin()
        start_s = self._clock.now_s()
        try:
            yield window
            self._synchronize()
        except BaseException:
            self._failed = True
            raise
        finally:
            span = Span(start_s, self._clock.now_s())
            window.host = self._host.end(host, span.start_s, span.end_s)
        window.seconds = span.end_s - span.start_s
        self._look()
        energies = [board.end_window(span) for board in self._boards]
        self.windows.append(window)
        self.spans.append(span)
        readings = [
            Reading(board.sensor.board.uuid, energy, reason=None if energy else "not known yet")
            for board, energy in zip(self._boards, energies, strict=True)
        ]
        fill_energy(window, readings)

    def fill(self, total: Window, settled: Sequence[Reading]) -> None:
        """Refine all windows, and sum them up.

        Args:
            total: of the whole stretch, with what disturbed it.
            settled: each board's energy of the whole stretch, from idle to idle.
        """
        by_board = [self._readings(board, reading) for board, reading in zip(self._boards, settled, strict=True)]
        for number, (window, span) in enumerate(zip(self.windows, self.spans, strict=True)):
            window.joules = window.uncertainty_j = window.reason = None
            window.boards_j.clear()
            fill_energy(window, [readings[number] for readings in by_board])
            for disturbance in total.disturbances:
                if disturbance not in window.disturbances:
                    window.disturb(disturbance)
            window.labels = list(total.labels)
            window.warnings += [text for text in total.warnings if text not in window.warnings]
            window.sm_clock_hz = dict(total.sm_clock_hz)
            window.power_limit_w = dict(total.power_limit_w)
            shift_s = span.start_s - self.spans[0].start_s
            for uuid, curve in total.power_curves.items():
                window.power_curves[uuid] = _cut(curve, shift_s, window.seconds)
        fill_energy(total, [readings[-1] for readings in by_board])
        total.host = sum_of([window.host for window in self.windows])

    def _readings(self, board: JoinedCounter, whole: Reading) -> list[Reading]:
        """What a board says of each window, and at last of their sum."""
        energies = None
        reason = whole.reason
        if self._failed:
            reason = "a window of the stretch failed"
        elif whole.energy is not None:
            energies = board.energies(whole.energy)
            reason = reason or board.unseen or f"there are too few power samples of {describe([board.sensor.board])}"
        if energies is None:
            unknown = replace(whole, energy=None, reason=reason)
            return [unknown] * (len(self.windows) + 1)
        return [replace(whole, energy=energy) for energy in (*energies.windows, energies.total)]


def _cut(curve: PowerCurve, shift_s: float, seconds: float) -> PowerCurve:
    """The part of a curve about a window that began ``shift_s`` later."""
    points = [
        (time_s - shift_s, power_w)
        for time_s, power_w in zip(curve.times_s, curve.powers_w, strict=True)
        if -_CURVE_FROM_S <= time_s - shift_s <= seconds + _CURVE_FROM_S
    ]
    return PowerCurve([time_s for time_s, _ in points], [power_w for _, power_w in points], curve.partial)
