"""How far the joules of prefill, told from power samples of whole calls, are from the truth.

    PYTHONPATH=. OMP_NUM_THREADS=1 python benchmarks/meters/phases.py [--experiments N] [--json FILE]

A plain model of a sensor, apart from the simulated boards: rounds of calls (prefill at one power, decoding at another)
seen through a filter of 10 to 14 ms and a dead time of 3 ms, sampled every 20 ms, with noise that correlates by 0.85,
samples lost and dates off by half a millisecond. First tokens vary from call to call; three instrumented passes time
them. Rounds differ by 1% in power. An experiment has five rounds of one second (of one call, where that is longer).
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from simulated_machine import markdown_table, progress

from pytest_llem.measurement.sampled_phases import PhasedWindow, SampledPhases, TimedCall, sampled_phases
from pytest_llem.meters.base import PowerCurve

STEP_S = 1e-4
PERIOD_S = 0.02
DEAD_S = 0.003
IDLE_W = 125.0
CORRELATION = 0.85
BETWEEN_CALLS_S = 2e-4


@dataclass(frozen=True)
class Case:
    """Calls of one kind, and how they are seen.

    Attributes:
        spread: standard deviation of the time to the first token, relative.
        noise_w: of the samples under load; 1 W at idle.
        slope: change of the power over a decoding, relative.
    """

    prefill_s: float
    decode_s: float
    prefill_w: float
    decode_w: float
    spread: float = 0.05
    noise_w: float = 3.0
    slope: float = 0.0
    rounds: int = 5
    round_s: float = 1.0


def experiment(case: Case, random: np.random.Generator) -> tuple[SampledPhases, float]:
    """What is said of one experiment, and the true joules of its prefills, the mean over its calls."""
    lag_s = random.uniform(0.010, 0.014)
    timed_s = [case.prefill_s * (1.0 + case.spread * random.standard_normal()) for _ in range(3)]
    windows, prefills_j = [], []
    for _ in range(case.rounds):
        window, of_window_j = _round(case, lag_s, random)
        windows.append(window)
        prefills_j += of_window_j
    return sampled_phases(windows, {0: timed_s}), statistics.fmean(prefills_j)


def _round(case: Case, lag_s: float, random: np.random.Generator) -> tuple[PhasedWindow, list[float]]:
    level = 1.0 + 0.01 * random.standard_normal()
    count = max(1, round(case.round_s / (case.prefill_s + case.decode_s)))
    calls: list[TimedCall] = []
    pieces: list[tuple[float, float, float, float]] = []
    now_s = 0.0
    for _ in range(count):
        first_s = case.prefill_s * max(0.3, 1.0 + case.spread * random.standard_normal())
        end_s = now_s + first_s + case.decode_s * (1.0 + 0.02 * random.standard_normal())
        pieces.append((now_s, now_s + first_s, case.prefill_w * level, 0.0))
        pieces.append((now_s + first_s, end_s, case.decode_w * level, case.slope))
        calls.append(TimedCall(0, now_s, end_s))
        now_s = end_s + BETWEEN_CALLS_S
    grid_s = np.arange(-0.5, now_s + 0.1, STEP_S) + STEP_S / 2.0
    power_w = np.full(len(grid_s), IDLE_W)
    for from_s, to_s, watts, slope in pieces:
        inside = (grid_s >= from_s) & (grid_s < to_s)
        power_w[inside] = watts * (1.0 + slope * ((grid_s[inside] - from_s) / (to_s - from_s) - 0.5))
    share = STEP_S / lag_s
    shown = itertools.accumulate(power_w, lambda last_w, watts: last_w + share * (watts - last_w), initial=IDLE_W)
    shown_w = np.fromiter(shown, float)[1:]
    dates_s = np.arange(-0.1 + random.uniform(0.0, PERIOD_S), now_s, PERIOD_S)
    fresh = random.standard_normal(len(dates_s)) * math.sqrt(1.0 - CORRELATION**2)
    fresh[0] = random.standard_normal()
    noise = np.fromiter(itertools.accumulate(fresh, lambda last, new: CORRELATION * last + new), float)
    sampled_w = np.interp(dates_s - DEAD_S + random.normal(0.0, 0.0005), grid_s + STEP_S / 2.0, shown_w)
    sampled_w += noise * np.where(dates_s > 0.0, case.noise_w, 1.0)
    kept = random.random(len(dates_s)) > 0.02
    total_j = math.fsum(watts * (to_s - from_s) for from_s, to_s, watts, _ in pieces)
    total_j += count * BETWEEN_CALLS_S * IDLE_W
    curve = PowerCurve(list(dates_s[kept]), list(sampled_w[kept]))
    window = PhasedWindow(now_s, calls, {"board": curve}, {"board": total_j + random.normal(0.0, 0.2)}, 0.4)
    return window, [watts * (to_s - from_s) for from_s, to_s, watts, _ in pieces[::2]]


@dataclass(frozen=True)
class Cell:
    """What came out of one case; errors and half-widths relative to the truth, ``None`` where nothing was said."""

    case: Case
    coverage: float | None
    bias: float | None
    rms_error: float | None
    half_width: float | None
    no_value: float


def run(case: Case, experiments: int, seed: int = 1) -> Cell:
    random = np.random.default_rng(seed)
    errors, half_widths, covered = [], [], []
    for _ in range(experiments):
        said, true_j = experiment(case, random)
        if said.prefill_energy_j is None or said.prefill_energy_uncertainty_j is None:
            continue
        errors.append((said.prefill_energy_j - true_j) / true_j)
        half_widths.append(said.prefill_energy_uncertainty_j / true_j)
        covered.append(abs(said.prefill_energy_j - true_j) <= said.prefill_energy_uncertainty_j)
    no_value = 1.0 - len(errors) / experiments
    if not errors:
        return Cell(case, None, None, None, None, no_value)
    rms_error = math.sqrt(statistics.fmean(error**2 for error in errors))
    return Cell(
        case,
        statistics.fmean(covered),
        statistics.fmean(errors),
        rms_error,
        statistics.median(half_widths),
        no_value,
    )


CASES = [
    *(Case(prefill_s, 0.5, 300.0, 150.0) for prefill_s in (0.004, 0.01, 0.03, 0.1, 0.3)),
    *(Case(0.03, decode_s, 300.0, 150.0) for decode_s in (0.1, 2.0)),
    *(Case(prefill_s, 2.0, 500.0, 250.0) for prefill_s in (0.01, 0.1, 0.3)),
    *(replace(Case(0.03, 0.5, 300.0, 150.0), spread=spread) for spread in (0.02, 0.1)),
    replace(Case(0.1, 0.5, 500.0, 250.0), slope=0.1),
]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share * 100:.2g}" if share < 0.9 else f"{share * 100:.1f}"


def markdown(cells: list[Cell]) -> str:
    header = [
        "prefill, decoding, s", "at, W", "varies, %", "slope, %",
        "RMS (bias) %", "half-width, %", "coverage, %", "no value, %",
    ]  # fmt: skip
    rows = []
    for cell in cells:
        case = cell.case
        rows.append(
            [
                f"{case.prefill_s:g}, {case.decode_s:g}",
                f"{case.prefill_w:g}, {case.decode_w:g}",
                f"{case.spread * 100:g}",
                f"{case.slope * 100:g}",
                "-" if cell.bias is None else f"{_percent(cell.rms_error)} ({cell.bias * 100:+.1f})",
                _percent(cell.half_width),
                _percent(cell.coverage),
                _percent(cell.no_value),
            ]
        )
    return markdown_table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=30, help="experiments a case (30)")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the cases, from 0; default: all")
    parser.add_argument("--json", type=Path, help="write all numbers there")
    options = parser.parse_args()
    cells = []
    for number, case in enumerate(CASES):
        if options.only and number not in options.only:
            continue
        cells.append(run(case, options.experiments))
        progress(markdown([cells[-1]]).splitlines()[-1])
    print(markdown(cells))
    if options.json:
        options.json.write_text(json.dumps([asdict(cell) for cell in cells], indent=1))


if __name__ == "__main__":
    main()
