"""How far the joules of windows back to back are from the truth, and what recordings of real boards say of them.

    PYTHONPATH=. python benchmarks/meters/joined_accuracy.py [--boards N] [--recording FILE ...] [--json FILE]

**Simulated boards**, with the machinery of ``accuracy.py``: stretches of ten windows, two on each board, beside ten
settled windows of the same work. Three kinds of work: ``phases`` (a prefill burst of 400 W for a fifth of the time,
then 250 W), ``mixed`` (160 to 655 W, another one in each window) and ``restless`` (another power after 80 ms on
average, so that steps lie close to the boundaries).

**Recordings** (default: tests/recordings), whose truth nobody knows:

* pieces of work between idle stretches: six of them as joined windows, against each by itself as a settled window;
* passes of ``generate()`` back to back, which all do the same work: E = a + b t, where t is the time of a pass. What a
  boundary is misjudged by leaves one window and enters the next, so it shows as scatter about that line which is
  negatively correlated from pass to pass (-0.5 if there were nothing else). And two sets of edges: those before the
  boundaries, and those after them; what they share is not tested.

Counter and samples are those of the recording as a whole: each boundary gets the newest edge that a read of no length
would have shown there.
"""

from __future__ import annotations

import argparse
import bisect
import gzip
import json
import math
import statistics
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from accuracy import DECODE_W, KINDS, PREFILL_SHARE, PREFILL_W, Rig
from recorded import Sensors, sensors
from simulated_machine import machine, markdown_table, private_folder, progress, versions

from pytest_llem.meters import open_meter
from pytest_llem.meters.nvidia.idle_power import idle_from_samples
from pytest_llem.meters.nvidia.joined_energy import Anchor, JoinedEnergies, joined_energies
from pytest_llem.meters.nvidia.power_trace import PowerTrace
from pytest_llem.meters.nvidia.sensor_lag import Span, seen_lag
from pytest_llem.meters.nvidia.settling import FADED_S, settle
from pytest_llem.meters.nvidia.window_energy import WindowEnergy, head, window_energy
from tests.simulators import load_recording

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Sequence

    from pytest_llem.meters import Meter, Window
    from tests.simulators import Recording

LENGTHS_S = (0.2, 0.5, 1.0)
WINDOWS, STRETCHES = 10, 2
SIMULATED = ("recorded", "noisy", "ideal", "decay", "lag", "jitter", "lagging counter", "late samples", "wandering")
RECORDINGS = Path(__file__).parents[2] / "tests" / "recordings"
_CLEAR_S = 0.015  # a read so long after an edge shows it
_TOGETHER = 6
_FEWEST_PASSES = 6

Parts = list[tuple[float, float]]


def phases(_: random.Random, seconds: float) -> Parts:
    return [(PREFILL_SHARE * seconds, PREFILL_W), ((1.0 - PREFILL_SHARE) * seconds, DECODE_W)]


def mixed(generator: random.Random, seconds: float) -> Parts:
    return [(seconds, generator.uniform(160.0, 655.0))]


def restless(generator: random.Random, seconds: float) -> Parts:
    parts: Parts = []
    while seconds > 0:
        parts.append((min(generator.expovariate(1.0 / 0.08), seconds), generator.uniform(140.0, 655.0)))
        seconds -= parts[-1][0]
    return parts


WORKS: dict[str, Callable[[random.Random, float], Parts]] = {"phases": phases, "mixed": mixed, "restless": restless}


@dataclass(frozen=True)
class Cell:
    """Windows of one kind; shares, not per cent.

    Attributes:
        settled_rms, rms: RMS error of settled and of joined windows, relative to the truth.
        bias: of joined windows.
        sum_rms: RMS error of the sum of ten joined ones.
        coverage, sum_coverage: share of their stated intervals that hold the truth.
        half_width_j, sum_half_width_j: medians of the stated half-widths, in joules.
        between_s: median time between two joined windows, in seconds.
        windows: how many joined ones there were; 0: they cannot be joined.
    """

    kind: str
    work: str
    length_s: float
    settled_rms: float
    rms: float | None = None
    bias: float | None = None
    sum_rms: float | None = None
    coverage: float | None = None
    sum_coverage: float | None = None
    half_width_j: float | None = None
    sum_half_width_j: float | None = None
    between_s: float | None = None
    windows: int = 0


def work(rig: Rig, parts: Parts) -> tuple[float, float]:
    """Do it; when it began and ended."""
    start_s = rig.clock.now_s()
    for seconds, power_w in parts:
        rig.power.start_work(rig.clock.now_s(), power_w)
        rig.clock.work(seconds)
    rig.power.end_work(rig.clock.now_s())
    return start_s, rig.clock.now_s()


def parts_of(rig: Rig, name: str) -> Parts:
    return WORKS[name](rig.random, rig.length_s * rig.random.gauss(1.0, 0.02))


def settled_windows(rig: Rig, meter: Meter, name: str) -> Iterator[tuple[Window, float]]:
    for _ in range(WINDOWS):
        rig.pause()
        with meter.window() as window:
            edges = work(rig, parts_of(rig, name))
        yield window, rig.board.window_energy_j(*edges)


def stretch(rig: Rig, meter: Meter, name: str) -> tuple[Window, list[tuple[Window, float]], list[float]]:
    """The sum, each window with its truth, and the times between them."""
    rig.clock.sleep(rig.random.uniform(0.2, 0.5))
    edges = []
    with meter.joined_windows() as joined:
        for _ in range(WINDOWS):
            with joined.window():
                edges.append(work(rig, parts_of(rig, name)))
    true_j = [rig.board.energy_j(*each) for each in edges[:-1]] + [rig.board.window_energy_j(*edges[-1])]
    gaps_s = [after[0] - before[1] for before, after in pairwise(edges)]
    return joined.total, list(zip(joined.windows, true_j, strict=True)), gaps_s


def rms(values: Sequence[float]) -> float:
    return math.sqrt(statistics.fmean(value**2 for value in values))


def holds(window: Window, true_j: float) -> bool:
    return abs((window.joules or 0.0) - true_j) <= (window.uncertainty_j or 0.0)


def simulate(kind: str, name: str, length_s: float, boards: int) -> Cell:
    settled: list[tuple[Window, float]] = []
    windows: list[tuple[Window, float]] = []
    totals: list[tuple[Window, float]] = []
    gaps_s: list[float] = []
    for number in range(boards):
        rig = Rig(kind, length_s, number)
        with machine(rig.board, rig.clock), open_meter("nvml", device="cuda", clock=rig.clock) as meter:
            settled += settled_windows(rig, meter, name)
            for _ in range(STRETCHES):
                if meter.joins is None:
                    total, found, between_s = stretch(rig, meter, name)
                    windows += found
                    totals.append((total, math.fsum(true_j for _, true_j in found)))
                    gaps_s += between_s
    settled_rms = rms([one.joules / true_j - 1.0 for one, true_j in settled if one.joules is not None])
    if not windows:
        return Cell(kind, name, length_s, settled_rms)
    off = [one.joules / true_j - 1.0 for one, true_j in windows if one.joules is not None]
    return Cell(
        kind,
        name,
        length_s,
        settled_rms,
        rms=rms(off),
        bias=statistics.fmean(off),
        sum_rms=rms([one.joules / true_j - 1.0 for one, true_j in totals if one.joules is not None]),
        coverage=statistics.fmean(holds(*one) for one in windows),
        sum_coverage=statistics.fmean(holds(*one) for one in totals),
        half_width_j=statistics.median(one.uncertainty_j or math.nan for one, _ in windows),
        sum_half_width_j=statistics.median(one.uncertainty_j or math.nan for one, _ in totals),
        between_s=statistics.median(gaps_s),
        windows=len(off),
    )


# Recordings


def settled(found: Sensors, span: Span) -> tuple[WindowEnergy, Anchor, int, int] | None:
    """A span's energy from idle to idle, its start, and the edges on either side; ``None`` without rest before it."""
    times_s = [edge.time_s for edge in found.edges]
    first = bisect.bisect_right(times_s, span.start_s) - 1
    last = bisect.bisect_left(times_s, span.end_s + FADED_S)
    before, after = found.edges[first], found.edges[last]
    known = [sample for sample in found.samples if before.time_s - 1.0 <= sample.time_s <= after.time_s + 0.01]
    idle = idle_from_samples(known, span.start_s)
    if idle is None:
        return None
    step_w = (after.energy_j - before.energy_j) / (span.end_s - span.start_s) - idle.power_w
    settling = settle(known, [], span.end_s, after.time_s, idle, step_w)
    start = head(before.time_s, span.start_s, idle, known)
    error_j = math.hypot(idle.power_w * before.uncertainty_s, start.error_j)
    energy = window_energy(before, after, start, settling, idle)
    return energy, Anchor(before.energy_j + start.joules, error_j), first, last


def joined(found: Sensors, spans: Sequence[Span], *, later: bool = False) -> JoinedEnergies | None:
    """These spans as joined windows; with the edges before the boundaries, or those after them."""
    whole = settled(found, Span(spans[0].start_s, spans[-1].end_s))
    if whole is None:
        return None
    energy, start, first, last = whole
    times_s = [edge.time_s for edge in found.edges]
    inner = {bisect.bisect_right(times_s, span.end_s - _CLEAR_S) - 1 + later for span in spans[:-1]}
    edges = [found.edges[index] for index in sorted({first, last, *(i for i in inner if first < i < last)})]
    known = [s for s in found.samples if edges[0].time_s - 1.0 <= s.time_s <= edges[-1].time_s + 0.01]
    idle = idle_from_samples(known, spans[0].start_s)
    if idle is None:
        return None
    lag = seen_lag(known, spans[0], spans[-1], idle)
    end_error_j = math.sqrt(max((energy.uncertainty_j / 2.0) ** 2 - start.error_j**2, 0.0))
    end = Anchor(start.energy_j + energy.joules, end_error_j)
    return joined_energies(spans, edges, PowerTrace(known, spans, idle, lag), start, end, idle.power_w, lag)


def beside_settled(recording: Recording) -> str:
    found = sensors(recording)
    spans = [Span(piece.start_s, piece.end_s) for piece in recording.work if piece.repetitions]
    off_j, allowed_j, widths_j = [], [], []
    for first in range(0, len(spans) - _TOGETHER + 1, _TOGETHER):
        together = spans[first : first + _TOGETHER]
        energies = joined(found, together)
        for span, energy in zip(together, energies.windows if energies else (), strict=False):
            alone = settled(found, span)
            if alone is not None:
                off_j.append(energy.joules - alone[0].joules)
                allowed_j.append(math.hypot(energy.uncertainty_j, alone[0].uncertainty_j))
                widths_j.append(energy.uncertainty_j)
    agree = sum(abs(one) <= allowed for one, allowed in zip(off_j, allowed_j, strict=True))
    return (
        f"{len(off_j)} pieces, joined less settled: {statistics.fmean(off_j):+.2f} +- "
        f"{statistics.stdev(off_j) / math.sqrt(len(off_j)):.2f} J, sd {statistics.stdev(off_j):.2f} J, stated "
        f"{statistics.median(widths_j):.2f} J; {agree} agree within what both state"
    )


def equal_passes(path: Path, recording: Recording) -> list[list[Any]]:
    """A row of a table for each kind of pass that came back to back: scatter and what is stated of it."""
    content = json.loads(_unzipped(path))
    found = sensors(recording)
    by_kind: dict[str, list[list[Span]]] = {}
    for kind, first, last, *_ in content["blocks"]["rows"]:
        names = {piece.name for piece in recording.work[first:last]}
        if len(names) == 1 and last - first >= _FEWEST_PASSES:
            passes = [Span(piece.start_s, piece.end_s) for piece in recording.work[first:last]]
            by_kind.setdefault(kind, []).append(passes)
    rows = []
    for kind, blocks in by_kind.items():
        energies = [(joined(found, spans), joined(found, spans, later=True), spans) for spans in blocks]
        known = [(a.windows, b.windows, spans) for a, b, spans in energies if a is not None and b is not None]
        seconds = np.array([span.end_s - span.start_s for _, _, spans in known for span in spans])
        joules = np.array([one.joules for a, _, _ in known for one in a])
        widths_j = np.array([one.uncertainty_j for a, _, _ in known for one in a])
        design = np.column_stack((np.ones_like(seconds), seconds))
        (base_j, slope_w), *_ = np.linalg.lstsq(design, joules, rcond=None)
        off_j = np.split(joules - design @ (base_j, slope_w), np.cumsum([len(a) for a, _, _ in known])[:-1])
        off_j = [each - each.mean() for each in off_j]
        pairs = np.concatenate([np.column_stack((each[:-1], each[1:])) for each in off_j])
        scatter = [
            np.std([each[i : i + k].sum() for each in off_j for i in range(0, len(each) - k + 1, k)]) for k in (1, 2, 5)
        ]
        exchanged_j = np.array([x.joules - y.joules for a, b, _ in known for x, y in zip(a, b, strict=True)])
        allowed_j = np.array(
            [math.hypot(x.uncertainty_j, y.uncertainty_j) for a, b, _ in known for x, y in zip(a, b, strict=True)]
        )
        rows.append(
            [
                kind,
                len(joules),
                f"{seconds.mean():.3f}",
                f"{joules.mean():.1f}",
                f"{base_j:.2f} J + {slope_w:.1f} W t",
                " / ".join(f"{one:.2f}" for one in scatter),
                f"{np.corrcoef(pairs.T)[0, 1]:+.2f}",
                f"{np.median(widths_j):.2f}",
                f"{rms(list(exchanged_j)):.2f}",
                f"{np.mean(np.abs(exchanged_j) <= allowed_j) * 100:.0f}",
            ]
        )
    return rows


def _unzipped(path: Path) -> str:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return file.read()


def markdown(cells: Sequence[Cell]) -> str:
    def percent(value: float | None, digits: int = 2) -> str:
        return "-" if value is None else f"{value * 100:.{digits}f}"

    def joules(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    rows = [
        [
            f"{cell.kind}, {cell.work}, {cell.length_s:g} s",
            percent(cell.settled_rms),
            percent(cell.rms),
            percent(cell.bias),
            percent(cell.coverage, 1),
            joules(cell.half_width_j),
            percent(cell.sum_rms, 3),
            percent(cell.sum_coverage, 1),
            joules(cell.sum_half_width_j),
            "-" if cell.between_s is None else f"{cell.between_s * 1e3:.0f}",
        ]
        for cell in cells
    ]
    header = ["boards, work, window", "settled: RMS, %", "joined: RMS, %", "bias, %", "coverage, %", "half-width, J"]
    header += ["sum of ten: RMS, %", "coverage, %", "half-width, J", "between, ms"]
    return markdown_table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--boards", type=int, default=20, help="boards of each kind (default: 20)")
    parser.add_argument("--recording", type=Path, action="append", help="default: all of tests/recordings")
    parser.add_argument("--json", type=Path, help="write the numbers there as well")
    arguments = parser.parse_args()
    json_path = arguments.json.resolve() if arguments.json else None
    recordings = [path.resolve() for path in arguments.recording or sorted(RECORDINGS.glob("*.json.gz"))]
    started_s = time.perf_counter()
    with private_folder():
        cells = []
        for kind in (kind for kind in SIMULATED if kind in KINDS):
            for name in WORKS if kind == "noisy" else ("phases", "mixed"):
                cells += [simulate(kind, name, length_s, arguments.boards) for length_s in LENGTHS_S]
            progress(f"{kind}: {time.perf_counter() - started_s:.0f} s")
    if json_path is not None:
        report = {"versions": versions(), "cells": [asdict(cell) for cell in cells]}
        json_path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(markdown(cells))
    header = ["passes", "number", "s", "J", "E(t)", "scatter of 1 / 2 / 5, J", "correlation", "stated half-width, J"]
    header += ["other edges: RMS, J", "agree, %"]
    for path in recordings:
        recording = load_recording(path)
        print(f"\n{path.name}\n")
        if "blocks" in json.loads(_unzipped(path)):
            print(markdown_table(header, equal_passes(path, recording)))
        else:
            print(beside_settled(recording))
    print("\nVersions: " + ", ".join(f"{name} {version}" for name, version in versions().items()))


if __name__ == "__main__":
    main()
