"""How far a window's joules are from the truth: our meter beside Zeus, CodeCarbon and a plain read of the counter.

    PYTHONPATH=. python benchmarks/meters/accuracy.py [--boards N] [--windows N] [--json FILE]

Simulated boards with a known true power, in virtual time: an hour of windows takes seconds. Each window is a prefill
burst (400 W for a fifth of the time) and decoding (250 W). Every board has its own idle power, counter phase and
decay; the phase of each window is random as well.

``ideal`` boards step down to idle at the end of the work, their counter keeps its period and a read takes no time.
``real-like`` boards fall to 150 to 250 W and decay to idle from there with a time constant of 50 to 400 ms, their
counter's updates jitter by a standard deviation of 5 ms, and a read takes 0.5 ms. ``holding`` boards are like these,
but stay at that power for 50 ms first. ``lingering`` boards fall at two rates: 30 to 70% of the way two to four times
as fast, the rest two to four times as slowly.

The peers are the real tools, through the adapters of ``pytest_llem.meters``. They keep their own, real clocks, which
do not enter into what they say of a GPU: both take the difference of its energy counter. In virtual time only calls of
NVML take time and the tools' own code takes none, which favours the slower ones. A window for which a peer reports 0 J
counts as 0 J. Ours says ``None`` there: such windows are counted and left out of the error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pynvml
from simulated_machine import machine, markdown_table, missing_peers, private_folder, progress, versions

from pytest_llem.meters import open_meter
from tests.simulators import LoadedPower, SimulatedBoard, SimulatedClock

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_llem.meters import Meter

LENGTHS_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
PERIODS_S = (0.1, 0.02)
KINDS = ("ideal", "real-like", "holding", "lingering")
OURS = ("nvml", "nvml, aligned=False")
METERS = (*OURS, "zeus", "codecarbon", "raw read")
PREFILL_W, DECODE_W, PREFILL_SHARE = 400.0, 250.0, 0.2
JITTER_SD_S = 0.005
READ_COST_S = 0.0005
HOLD_S = 0.05


class Rig:
    """One board and its work, the same for every meter."""

    def __init__(self, kind: str, period_s: float, length_s: float, seed: int) -> None:
        self.random = random.Random(f"{kind} {period_s} {length_s} {seed}")  # noqa: S311
        self.clock = SimulatedClock()
        self.period_s = period_s
        self.length_s = length_s
        idle_w = self.random.uniform(50.0, 100.0)
        if kind == "ideal":
            self._power = LoadedPower(idle_w)
        else:
            tail_w = self.random.uniform(150.0, 250.0)
            decay_s = math.exp(self.random.uniform(math.log(0.05), math.log(0.4)))
            hold_s, lingering = 0.0, (0.0, 1.0)
            if kind == "holding":
                hold_s = HOLD_S
            elif kind == "lingering":
                lingering = (self.random.uniform(0.3, 0.7), decay_s * self.random.uniform(2.0, 4.0))
                decay_s /= self.random.uniform(2.0, 4.0)
            self._power = LoadedPower(idle_w, tail_w, decay_s, hold_s=hold_s, lingering=lingering)
        self.board = SimulatedBoard(
            # The calibration that is kept for a board is its own.
            uuid=f"GPU-{kind}-{period_s}-{length_s}-{seed}",
            power=self._power,
            period_s=period_s,
            phase_s=self.random.uniform(0.0, period_s),
            jitter_s=0.0 if kind == "ideal" else JITTER_SD_S * math.sqrt(3.0),
            read_cost_s=0.0 if kind == "ideal" else READ_COST_S,
            seed=seed,
        )

    def pause(self) -> None:
        """Come back at a random phase of the counter."""
        self.clock.sleep(self.random.uniform(0.0, self.period_s))

    def work(self) -> float:
        """One window's work; the energy that it truly took, in joules."""
        seconds = self.length_s * self.random.gauss(1.0, 0.02)
        start_s = self.clock.now_s()
        self._power.start_work(start_s, PREFILL_W)
        self.clock.work(PREFILL_SHARE * seconds)
        self._power.start_work(self.clock.now_s(), DECODE_W)
        self.clock.work((1.0 - PREFILL_SHARE) * seconds)
        end_s = self.clock.now_s()
        self._power.end_work(end_s)
        return self.board.energy_j(start_s, end_s)


@dataclass(frozen=True)
class Read:
    """One window; ``joules`` and ``half_width_j`` as the meter says them."""

    true_j: float
    joules: float | None
    half_width_j: float | None


@dataclass(frozen=True)
class Cell:
    """What one meter did with windows of one length on boards of one kind; shares, not per cent.

    Attributes:
        rms_error, bias: of the windows with a value, relative to the truth; ``None`` where there is none.
        coverage: share of stated intervals that hold the truth.
        half_width: median of the stated half-widths, relative to the truth.
        no_value: share of windows that the meter gives no joules for.
        windows: how many there were.
    """

    kind: str
    period_s: float
    length_s: float
    meter: str
    rms_error: float | None
    bias: float | None
    coverage: float | None
    half_width: float | None
    no_value: float
    windows: int


def measure(rig: Rig, meter_name: str, windows: int) -> Iterator[Read]:
    """Windows in a row on a board that the meter has not seen before."""
    peer = meter_name if meter_name in ("zeus", "codecarbon") else None
    with machine(rig.board, rig.clock, peer), contextlib.ExitStack() as stack:
        if meter_name == "raw read":
            yield from _raw_reads(rig, windows)
            return
        meter: Meter = stack.enter_context(
            open_meter(
                meter_name.split(",")[0], device="cuda", clock=rig.clock, aligned=meter_name != "nvml, aligned=False"
            )
        )
        for _ in range(windows):
            rig.pause()
            with meter.window() as window:
                true_j = rig.work()
            joules = 0.0 if window.joules is None and peer else window.joules
            yield Read(true_j, joules, window.uncertainty_j)


def _raw_reads(rig: Rig, windows: int) -> Iterator[Read]:
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    for _ in range(windows):
        rig.pause()
        before_mj = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        true_j = rig.work()
        after_mj = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        yield Read(true_j, (after_mj - before_mj) / 1e3, None)
    pynvml.nvmlShutdown()


def summarise(rig: Rig, kind: str, meter: str, reads: Sequence[Read]) -> Cell:
    errors = [(one.joules - one.true_j) / one.true_j for one in reads if one.joules is not None]
    stated = [(one, one.half_width_j) for one in reads if one.joules is not None and one.half_width_j is not None]
    covered = [abs((one.joules or 0.0) - one.true_j) <= half_width_j for one, half_width_j in stated]
    return Cell(
        kind=kind,
        period_s=rig.period_s,
        length_s=rig.length_s,
        meter=meter,
        rms_error=math.sqrt(statistics.fmean(error**2 for error in errors)) if errors else None,
        bias=statistics.fmean(errors) if errors else None,
        coverage=statistics.fmean(covered) if covered else None,
        half_width=statistics.median(width / one.true_j for one, width in stated) if stated else None,
        no_value=1.0 - len(errors) / len(reads),
        windows=len(reads),
    )


def run(boards: int, windows: int, meters: Sequence[str]) -> list[Cell]:
    """Every kind of board, period, length and meter."""
    cells = []
    for kind in KINDS:
        for period_s in PERIODS_S:
            progress(f"{kind}, {period_s * 1e3:.0f} ms")
            for length_s in LENGTHS_S:
                for meter in meters:
                    reads: list[Read] = []
                    for seed in range(boards):
                        rig = Rig(kind, period_s, length_s, seed)
                        reads += measure(rig, meter, windows)
                    cells.append(summarise(rig, kind, meter, reads))
    return cells


def percent(share: float | None, digits: int = 2) -> str:
    return "-" if share is None else f"{share * 100:.{digits if share < 0.1 else 1}f}"


def error_in_words(cell: Cell) -> str:
    return "-" if cell.bias is None else f"{percent(cell.rms_error)} ({cell.bias * 100:+.2f})"


def markdown(cells: Sequence[Cell], meters: Sequence[str]) -> str:
    """One table of errors and one of stated intervals for each kind of board and period."""
    parts = []
    for kind in KINDS:
        for period_s in PERIODS_S:
            of = {(one.meter, one.length_s): one for one in cells if (one.kind, one.period_s) == (kind, period_s)}
            if not of:
                continue
            errors = []
            for meter in meters:
                errors.append([meter, *(error_in_words(of[meter, length_s]) for length_s in LENGTHS_S)])
            stated = []
            for meter in (one for one in meters if one in OURS):
                ours = [of[meter, length_s] for length_s in LENGTHS_S]
                stated.append([f"{meter}: coverage", *(percent(cell.coverage, 0) for cell in ours)])
                stated.append([f"{meter}: median half-width", *(percent(cell.half_width) for cell in ours)])
                if any(cell.no_value for cell in ours):
                    stated.append([f"{meter}: no value", *(percent(cell.no_value, 0) for cell in ours)])
            header = [f"{length_s:g} s" for length_s in LENGTHS_S]
            parts += [
                f"### {kind} board, update period {period_s * 1e3:.0f} ms",
                markdown_table(["RMS error (bias) in %", *header], errors),
                markdown_table(["stated 95% interval, in %", *header], stated),
            ]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--boards", type=int, default=20, help="boards of each kind (default: 20)")
    parser.add_argument(
        "--windows", type=int, default=15, help="windows on each board and of each length (default: 15)"
    )
    parser.add_argument("--json", type=Path, help="write the numbers there as well")
    arguments = parser.parse_args()
    json_path = arguments.json.resolve() if arguments.json else None
    started_s = time.perf_counter()
    with private_folder():
        left_out = missing_peers()
        absent = {text.split()[0] for text in left_out}
        meters = [meter for meter in METERS if meter not in absent]
        cells = run(arguments.boards, arguments.windows, meters)
    if json_path is not None:
        report = {"versions": versions(), "left_out": left_out, "cells": [asdict(cell) for cell in cells]}
        json_path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(markdown(cells, meters))
    print(f"\n{arguments.boards * arguments.windows} windows a cell.", *left_out, sep="\n")
    print("Versions: " + ", ".join(f"{name} {version}" for name, version in versions().items()))
    progress(f"{time.perf_counter() - started_s:.0f} s")


if __name__ == "__main__":
    main()
