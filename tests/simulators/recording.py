"""Recordings of real boards, and a board that shows again what one of them showed."""

from __future__ import annotations

import gzip
import json
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import pynvml

from tests.simulators.board import SimulatedBoard

if TYPE_CHECKING:
    from pathlib import Path

PERIOD_S = 0.1
"""Time between updates of the recorded boards' energy counters, in seconds."""


class CounterChange(NamedTuple):
    """A change of the energy counter; times in seconds, and ``None`` where no read came before."""

    last_stale_read_start_s: float | None
    read_start_s: float
    read_end_s: float
    energy_mj: int


class PowerSample(NamedTuple):
    """A sample out of the driver's buffer: its date in seconds, watts."""

    time_s: float
    power_w: float


class Work(NamedTuple):
    """A piece of work, from one synchronisation of the device to another, in seconds."""

    name: str
    repetitions: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Recording:
    """What a board showed, and what it worked at the time; seconds since the recording began."""

    changes: list[CounterChange]
    samples: list[PowerSample]
    work: list[Work]
    read_costs_s: list[float]

    def update_moments_s(self) -> list[float]:
        """When each change happened: at the instant of one lattice, as near to it as the reads around it allow."""
        bounds_s = [(change.last_stale_read_start_s, change.read_end_s) for change in self.changes]
        spans_s = [(early_s, late_s) for early_s, late_s in bounds_s if early_s is not None]
        # How far each bound lies from the first change's middle, less whole periods.
        origin_s = sum(spans_s[0]) / 2
        numbers = [round(((early_s + late_s) / 2 - origin_s) / PERIOD_S) for early_s, late_s in spans_s]
        earliest_s = max(early_s - k * PERIOD_S for (early_s, _), k in zip(spans_s, numbers, strict=True))
        latest_s = min(late_s - k * PERIOD_S for (_, late_s), k in zip(spans_s, numbers, strict=True))
        phase_s = (earliest_s + latest_s) / 2
        moments_s = []
        for early_s, late_s in bounds_s:
            if early_s is None:
                moments_s.append(phase_s + (late_s - phase_s) // PERIOD_S * PERIOD_S)
                continue
            nearest_s = phase_s + round(((early_s + late_s) / 2 - phase_s) / PERIOD_S) * PERIOD_S
            moments_s.append(min(max(nearest_s, early_s), late_s))
        return moments_s


def load_recording(path: Path) -> Recording:
    """Read a recording as ``tests/recordings/README.md`` describes it."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        content = json.load(file)
    for name, row in (("counter", CounterChange), ("power_samples", PowerSample), ("work", Work)):
        if tuple(content[name]["columns"]) != row._fields:
            raise ValueError(f"{path}: unknown columns of {name}: {content[name]['columns']}")
    return Recording(
        changes=[CounterChange(*row) for row in content["counter"]["rows"]],
        samples=[PowerSample(*row) for row in content["power_samples"]["rows"]],
        work=[Work(*row) for row in content["work"]["rows"]],
        read_costs_s=content["read_cost_s"],
    )


class ReplayedBoard(SimulatedBoard):
    """Shows what a recorded board showed, whoever works; what it truly drew is not known.

    Args:
        recording: what is shown.
        seed: of the time that calls take.
        with_counter: whether the board has an energy counter.
        offset_s: moment of the clock at which the recording begins, in seconds.
    """

    def __init__(
        self, recording: Recording, seed: int = 0, with_counter: bool = True, offset_s: float = 1000.0
    ) -> None:
        counter = ("nvmlDeviceGetTotalEnergyConsumption", pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION)
        super().__init__(
            name="NVIDIA H200",
            read_cost_s=recording.read_costs_s,
            seed=seed,
            errors={} if with_counter else dict.fromkeys(counter, pynvml.NVML_ERROR_NOT_SUPPORTED),
        )
        self._offset_s = offset_s
        self._changes_mj = [change.energy_mj for change in recording.changes]
        self._changes_s = [moment_s + offset_s for moment_s in recording.update_moments_s()]
        self._powers_w = [sample.power_w for sample in recording.samples]
        self._dates_s = [sample.time_s + offset_s for sample in recording.samples]

    def energy_j(self, start_s: float, end_s: float) -> NoReturn:
        raise NotImplementedError("what a recorded board truly drew is not known")

    def counter_mj(self, now_s: float) -> int:
        return self._changes_mj[self._last_update(now_s)]

    def last_update_s(self, now_s: float) -> float:
        return self._changes_s[self._last_update(now_s)]

    def average_power_w(self, now_s: float) -> float:
        """Mean of the samples in the last ``power_window_s``."""
        last = self._samples_until(now_s)
        first = min(self._samples_until(now_s - self.power_window_s), last - 1)
        return sum(self._powers_w[first:last]) / (last - first)

    def instant_power_w(self, now_s: float) -> float:
        return self._powers_w[self._samples_until(now_s) - 1]

    def power_samples(self, now_s: float, after_s: float) -> list[tuple[float, float]]:
        last = self._samples_until(now_s)
        first = max(last - self.samples_kept, bisect_right(self._dates_s, after_s), 0)
        return list(zip(self._dates_s[first:last], self._powers_w[first:last], strict=True))

    def _last_update(self, now_s: float) -> int:
        return max(0, bisect_right(self._changes_s, now_s) - 1)

    def _samples_until(self, now_s: float) -> int:
        """How many samples are dated until a moment, at least one."""
        return max(1, bisect_right(self._dates_s, now_s))
