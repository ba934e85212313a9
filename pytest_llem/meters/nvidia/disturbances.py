"""What disturbs a board while it is measured: heat, hardware brakes, processes of others.

The state of a board is read at both ends of a window. What comes and goes between them is seen by the counters
of time spent throttled, where the board has them. A power cap or clocks that someone has set are no faults but
the way the board runs: labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_llem.meters.base import Disturbance
from pytest_llem.meters.nvidia.lock import family_root
from pytest_llem.meters.nvidia.processes import foreign_pids, processes_are_hidden
from pytest_llem.meters.nvidia.visibility import describe

if TYPE_CHECKING:
    from collections.abc import Collection

    from pytest_llem.meters.base import Window
    from pytest_llem.meters.nvidia.library import Board, Nvml

# nvmlClocksEventReasons*. Newer bindings call them so, older ones nvmlClocksThrottleReasons*.
_HARDWARE_SLOWDOWN = 0x08
_THROTTLES = {
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
    _HARDWARE_SLOWDOWN: "hardware slowdown",
}
POWER_CAPPED = "power capped"
_LABELS = {0x02: "application clocks set", 0x04: POWER_CAPPED, 0x10: "sync boost"}

_ANY_THERMAL = "thermal slowdown"  # counted along with the particular ones
# NVML_FI_DEV_*: time spent so since the driver was loaded.
_THROTTLE_FIELDS = {
    75: _ANY_THERMAL,  # PERF_POLICY_THERMAL
    269: "software thermal slowdown",  # CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN
    270: "hardware thermal slowdown",  # CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN
    271: "hardware power brake",  # CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN
}
_POWER_CAP_FIELD = 74  # PERF_POLICY_POWER
# NVML_PERF_POLICY_*, for boards without those fields.
_POLICIES = {_POWER_CAP_FIELD: 0, 75: 1}


@dataclass(frozen=True)
class _State:
    """A board at one end of a window; ``None``: NVML does not report it.

    Attributes:
        reasons: why the clocks are lower than they could be, as NVML's bits.
        times: time spent so, by field.
        pids: processes with a compute context on the board.
    """

    reasons: int | None
    times: dict[int, int]
    pids: tuple[int, ...] | None


class BoardWatch:
    """Looks at one board's state before and after a window."""

    def __init__(self, nvml: Nvml, board: Board) -> None:
        self.board = board
        self._nvml = nvml
        self._handle = nvml.handle(board.uuid)
        self._start = _State(None, {}, None)
        self._end = self._start
        self._unanswered: set[int] = set()
        self._seen_reasons = 0

    def begin(self, *, right_after: bool = False) -> None:
        """Before the window, and before its edges are looked for.

        Args:
            right_after: the last window ended a moment ago: its end is this one's beginning, and no time is lost.
        """
        self._start = self._end if right_after else self._state()
        self._seen_reasons = 0

    def look(self) -> None:
        """Between windows that are judged together: see what a board that counts no time spent throttled would hide."""
        if not _THROTTLE_FIELDS.keys() & self._start.times.keys():
            self._seen_reasons |= self.reasons() or 0

    def end(self) -> None:
        """As soon as the work has ended: the reasons for low clocks go with it."""
        self._end = self._state()

    def fill(self, window: Window) -> None:
        """After the window: say what was seen."""
        start, end = self._start, self._end
        name = describe([self.board])
        grown = {field for field in start.times.keys() & end.times.keys() if end.times[field] > start.times[field]}
        reasons = (start.reasons or 0) | (end.reasons or 0) | self._seen_reasons
        throttles = [*throttle_names(reasons), *(text for field, text in _THROTTLE_FIELDS.items() if field in grown)]
        if any(text.endswith(f" {_ANY_THERMAL}") for text in throttles):
            throttles = [text for text in throttles if text != _ANY_THERMAL]
        if throttles:
            text = f"{name} was throttled in the window: {', '.join(dict.fromkeys(throttles))}"
            window.disturb(Disturbance("throttled", text))
        labels = [text for bit, text in _LABELS.items() if (end.reasons or 0) & bit]
        labels += [POWER_CAPPED] if _POWER_CAP_FIELD in grown else []
        window.labels += [label for label in dict.fromkeys(labels) if label not in window.labels]
        if end.reasons is None and not _THROTTLE_FIELDS.keys() & end.times.keys():
            window.warnings.append(f"NVML does not report whether {name} was throttled")
        self._fill_processes(window, [pids for pids in (start.pids, end.pids) if pids is not None])

    def reasons(self) -> int | None:
        """Why the clocks are lower than they could be now; ``None`` where NVML does not report it."""
        for name in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
            reasons: int | None = self._nvml.optional(name, self._handle)
            if reasons is not None:
                return reasons
        return None

    def foreign_processes(self) -> list[Disturbance]:
        """The processes on the board now that are not ours."""
        return self._foreign(self._pids() or ())

    def utilization_percent(self) -> int | None:
        """Share of the last moments in which a kernel ran, in per cent."""
        rates = self._nvml.optional("nvmlDeviceGetUtilizationRates", self._handle)
        return None if rates is None else int(rates.gpu)

    def temperature_c(self) -> int | None:
        """Temperature of the GPU, in degrees Celsius."""
        return self._nvml.optional("nvmlDeviceGetTemperature", self._handle, self._nvml.binding.NVML_TEMPERATURE_GPU)

    def slowdown_temperature_c(self) -> int | None:
        """Temperature at which the board lowers its clocks, in degrees Celsius."""
        threshold = self._nvml.binding.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
        return self._nvml.optional("nvmlDeviceGetTemperatureThreshold", self._handle, threshold)

    def _fill_processes(self, window: Window, seen: list[tuple[int, ...]]) -> None:
        name = describe([self.board])
        if not seen:
            window.warnings.append(
                f"NVML does not report which processes use {name}: foreign ones would not be noticed"
            )
            return
        if all(processes_are_hidden(pids, family_root()) for pids in seen):
            window.warnings.append(
                f"NVML lists no process on {name}, not even our own: in this container foreign ones would not be "
                "noticed"
            )
        # Each list on its own: in a container, ours are recognised by their number.
        for disturbance in dict.fromkeys(found for pids in seen for found in self._foreign(pids)):
            window.disturb(disturbance)

    def _foreign(self, pids: Collection[int]) -> list[Disturbance]:
        name = describe([self.board])
        return [
            Disturbance("foreign_process", f"a foreign process is on {name}: PID {pid}{self._process_name(pid)}")
            for pid in foreign_pids(pids, family_root())
        ]

    def _process_name(self, pid: int) -> str:
        name = self._nvml.optional("nvmlSystemGetProcessName", pid)
        if isinstance(name, bytes):
            name = name.decode(errors="replace")
        return f" ({name})" if name else ""

    def _pids(self) -> tuple[int, ...] | None:
        # By version: the binding's name without one is the newest, and fails in a way of its own on an older library.
        processes = self._nvml.optional("nvmlDeviceGetComputeRunningProcesses_v3", self._handle)
        if processes is None:
            processes = self._nvml.optional("nvmlDeviceGetComputeRunningProcesses_v2", self._handle)
        return None if processes is None else tuple(int(process.pid) for process in processes)

    def _state(self) -> _State:
        reasons = self.reasons()
        times = self._nvml.field_values(self._handle, [_POWER_CAP_FIELD, *_THROTTLE_FIELDS])
        for field, policy in _POLICIES.items():
            if field not in times and policy not in self._unanswered:
                status = self._nvml.optional("nvmlDeviceGetViolationStatus", self._handle, policy)
                if status is None:
                    self._unanswered.add(policy)  # a read costs milliseconds
                else:
                    times[field] = int(status.violationTime)
        return _State(reasons, times, self._pids())


def throttle_names(reasons: int) -> list[str]:
    """The names of those reasons for low clocks that are faults: heat and hardware brakes."""
    names = [text for bit, text in _THROTTLES.items() if reasons & bit]
    # The general bit is set along with the particular ones.
    return names[:-1] if reasons & _HARDWARE_SLOWDOWN and reasons & 0xC0 else names
