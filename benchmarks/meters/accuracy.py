"""How far a window's joules are from the truth: our meter beside Zeus, CodeCarbon and a plain read of the counter.

    PYTHONPATH=. python benchmarks/meters/accuracy.py [--boards N] [--windows N] [--kinds TEXT] [--json FILE]

Simulated boards with a known true power, in virtual time: an hour of windows takes seconds. Each window is a prefill
burst (400 W for a fifth of the time) and decoding (250 W), at a random phase of the counter. What a window truly took
is what the board drew above idle power because of the work until that has settled, and idle power over its time.

The default is an H200 as it was recorded (tests/recordings): a lattice of 100 ms, a lag of 11.5 ms, reads of 2 to 32
ms, power samples every 20 ms; ``noisy`` adds the jitter, late updates, noise and losses of its sensors. The constants
of our meter come from recordings of such boards and from these two kinds. The other kinds were not used to choose any:
boards that settle otherwise, whose counters behave otherwise, or whose samples do. ``KINDS`` says what each is.

The peers are the real tools, through the adapters of ``pytest_llem.meters``, on boards that step down to idle after the
work: elsewhere they mean another energy than ours. They keep their own, real clocks, which do not enter into what they
say of a GPU: both take the difference of its energy counter. In virtual time only calls of NVML take time and the
tools' own code takes none, which favours the slower ones. A window for which a peer reports 0 J counts as 0 J. Ours
says ``None`` there: such windows are counted and left out of the error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pynvml
from simulated_machine import machine, markdown_table, missing_peers, private_folder, progress, versions

from pytest_llem.meters import open_meter
from tests.simulators import KINDS as DRAWN
from tests.simulators import LoadedPower, SimulatedBoard, SimulatedClock, ideal_board, noisy_board

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_llem.meters import Meter

LENGTHS_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
OURS, NOT_WAITING = "nvml", "nvml, aligned=False"
METERS = (OURS, NOT_WAITING, "zeus", "codecarbon", "raw read")
PREFILL_W, DECODE_W, PREFILL_SHARE = 400.0, 250.0, 0.2
JITTER_SD_S = 0.005
READ_COST_S = 0.0005
HOLD_S = 0.05

Draw = Callable[[random.Random], SimulatedBoard]


@dataclass(frozen=True)
class Kind:
    """Boards of one kind.

    Attributes:
        text: what they are.
        draw: one of them, at random.
        chosen_on: whether constants of the meter were chosen on them.
        beside_peers: whether the other meters are run on them, too.
        unseen_work: whether something else works on the board just before most windows, which the meter does not see.
    """

    text: str
    draw: Draw
    chosen_on: bool = False
    beside_peers: bool = False
    unseen_work: bool = False


def _stepping(build: Callable[..., SimulatedBoard], period_s: float = 0.1, **changes: Any) -> Draw:
    """A board that steps down to idle; other idle power, phase and seed for each."""

    def draw(generator: random.Random) -> SimulatedBoard:
        glow_w = 0.0 if build is ideal_board else generator.uniform(2.0, 4.0)
        return build(
            power=LoadedPower(generator.uniform(60.0, 130.0), afterglow_w=glow_w),
            period_s=period_s,
            phase_s=generator.uniform(0.0, period_s),
            seed=generator.randrange(1 << 30),
            **changes,
        )

    return draw


def _decaying(
    decay_s: tuple[float, float],
    period_s: float = 0.1,
    *,
    hold_s: float = 0.0,
    lingering_s: tuple[float, float] | None = None,
) -> Draw:
    """A board that falls to idle slowly, whose counter jitters; reads are short."""

    def draw(generator: random.Random) -> SimulatedBoard:
        fall_s = generator.uniform(*decay_s)
        lingering = (0.0, 1.0)
        if lingering_s is not None:
            lingering = (generator.uniform(0.3, 0.7), generator.uniform(*lingering_s))
        idle_w, tail_w = generator.uniform(50.0, 100.0), generator.uniform(150.0, 250.0)
        return SimulatedBoard(
            power=LoadedPower(idle_w, tail_w, fall_s, hold_s=hold_s, lingering=lingering),
            period_s=period_s,
            phase_s=generator.uniform(0.0, period_s),
            jitter_s=JITTER_SD_S * math.sqrt(3.0),
            read_cost_s=READ_COST_S,
            seed=generator.randrange(1 << 30),
        )

    return draw


def _without_counter(generator: random.Random) -> SimulatedBoard:
    counter = ("nvmlDeviceGetTotalEnergyConsumption", pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION)
    return _stepping(noisy_board, errors=dict.fromkeys(counter, pynvml.NVML_ERROR_NOT_SUPPORTED))(generator)


KINDS = {
    "recorded": Kind("an H200 as recorded, without noise", _stepping(SimulatedBoard), True, True),
    "noisy": Kind("the same with noise", _stepping(noisy_board), True, True),
    "noisy, 20 ms": Kind("the same, updated every 20 ms", _stepping(noisy_board, 0.02), beside_peers=True),
    "noisy, unseen work": Kind(
        "the same; in most windows, other work ended 0 to 0.2 s before", _stepping(noisy_board), unseen_work=True
    ),
    "ideal": Kind("no lag, no afterglow, reads take no time", _stepping(ideal_board), beside_peers=True),
    "ideal, 20 ms": Kind("the same, updated every 20 ms", _stepping(ideal_board, 0.02)),
    "decay": Kind("falls from 150 to 250 W with 50 to 200 ms; jitter 5 ms", _decaying((0.05, 0.2))),
    "decay, 20 ms": Kind("the same, updated every 20 ms", _decaying((0.05, 0.2), 0.02)),
    "slow decay": Kind("the same with 200 to 400 ms", _decaying((0.2, 0.4))),
    "holding": Kind("stays there for 50 ms before it decays (50 to 200 ms)", _decaying((0.05, 0.2), hold_s=HOLD_S)),
    "lingering": Kind(
        "falls at two rates: as decay, but 30 to 70% of the fall with 100 to 250 ms",
        _decaying((0.05, 0.2), lingering_s=(0.1, 0.25)),
    ),
    "lingering long": Kind(
        "falls at two rates: as decay, but 30 to 70% of the fall with 250 ms to 1 s",
        _decaying((0.05, 0.2), lingering_s=(0.25, 1.0)),
    ),
    "lag": Kind("its sensors lag by 2 to 120 ms", DRAWN["lag"]),
    "jitter": Kind("its updates jitter by 5 ms; reads of 0.5 ms", DRAWN["jitter"]),
    "wandering": Kind("gaps between updates are off by up to 5 ms, which adds up: no lattice", DRAWN["wandering"]),
    "period": Kind("updated every 15 ms to 1 s; reads of 0.5 ms", DRAWN["period"]),
    "odd period": Kind("updated far from every multiple of 5 ms; reads of 0.5 ms", DRAWN["odd period"]),
    "lagging counter": Kind("shows its updates 5 to 60 ms late", DRAWN["lagging counter"]),
    "late samples": Kind("power samples are there 50 to 150 ms late", DRAWN["late samples"]),
    "no samples": Kind("no power samples", DRAWN["no samples"]),
    "no counter": Kind("noisy, without an energy counter: samples alone", _without_counter),
}


class Rig:
    """One board and its work, the same for every meter."""

    def __init__(self, name: str, length_s: float, number: int) -> None:
        self.random = random.Random(f"{name} {length_s} {number}")  # noqa: S311
        self.clock = SimulatedClock()
        self.length_s = length_s
        self.board = KINDS[name].draw(self.random)
        # The calibration that is kept for a board is its own, and so is its lock.
        self.board.uuid = f"GPU-{name.replace(' ', '-')}-{length_s}-{number}-{os.getpid()}"
        self._unseen_work = KINDS[name].unseen_work

    @property
    def power(self) -> LoadedPower:
        assert isinstance(self.board.true_power, LoadedPower)
        return self.board.true_power

    def pause(self) -> None:
        """Come back at a random phase of the counter."""
        self.clock.sleep(self.random.uniform(0.0, self.board.period_s))
        if self._unseen_work and self.random.random() < 0.7:
            self.board.run(self.clock, self.random.uniform(0.05, 0.5), self.random.uniform(150.0, 400.0))
            self.clock.sleep(self.random.uniform(0.0, 0.2))

    def work(self) -> tuple[float, float]:
        """One window's work; what it truly took, and what of that was drawn until its end, in joules."""
        seconds = self.length_s * self.random.gauss(1.0, 0.02)
        start_s = self.clock.now_s()
        self.power.start_work(start_s, PREFILL_W)
        self.clock.work(PREFILL_SHARE * seconds)
        self.power.start_work(self.clock.now_s(), DECODE_W)
        self.clock.work((1.0 - PREFILL_SHARE) * seconds)
        end_s = self.clock.now_s()
        self.power.end_work(end_s)
        return self.board.window_energy_j(start_s, end_s), self.board.energy_j(start_s, end_s)


@dataclass(frozen=True)
class Read:
    """One window; ``joules`` and ``half_width_j`` as the meter says them, ``waited_s`` outside its edges."""

    true_j: float
    joules: float | None
    half_width_j: float | None
    waited_s: float


@dataclass(frozen=True)
class Cell:
    """What one meter did with windows of one length on boards of one kind; shares, not per cent.

    Attributes:
        rms_error, bias: of the windows with a value, relative to the truth; ``None`` where there is none.
        coverage: share of stated intervals that hold the truth.
        half_width: median of the stated half-widths, relative to the truth; ``half_width_j``: in joules.
        no_value: share of windows that the meter gives no joules for.
        waited_s: median of what it waits outside the window, in seconds; ``waited_95_s``: 95% wait less.
        windows: how many there were.
    """

    kind: str
    length_s: float
    meter: str
    rms_error: float | None
    bias: float | None
    coverage: float | None
    half_width: float | None
    half_width_j: float | None
    no_value: float
    waited_s: float
    waited_95_s: float
    windows: int


def measure(rig: Rig, meter_name: str, windows: int) -> Iterator[Read]:
    """Windows in a row on a board that the meter has not seen before."""
    peer = meter_name if meter_name in ("zeus", "codecarbon") else None
    with machine(rig.board, rig.clock, peer), contextlib.ExitStack() as stack:
        if meter_name == "raw read":
            yield from _raw_reads(rig, windows)
            return
        meter: Meter = stack.enter_context(
            open_meter(meter_name.split(",")[0], device="cuda", clock=rig.clock, aligned=meter_name != NOT_WAITING)
        )
        assert meter.auto_window_s > 0  # what is learned about the board belongs to no window
        for _ in range(windows):
            rig.pause()
            entered_s = rig.clock.now_s()
            with meter.window() as window:
                true_j, drawn_j = rig.work()
            waited_s = rig.clock.now_s() - entered_s - window.seconds
            joules = 0.0 if window.joules is None and peer else window.joules
            # Who does not wait means what was drawn until the end.
            means_j = true_j if meter_name == OURS else drawn_j
            yield Read(means_j, joules, window.uncertainty_j, waited_s)


def _raw_reads(rig: Rig, windows: int) -> Iterator[Read]:
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    for _ in range(windows):
        rig.pause()
        before_mj = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        _, drawn_j = rig.work()
        after_mj = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        yield Read(drawn_j, (after_mj - before_mj) / 1e3, None, 0.0)
    pynvml.nvmlShutdown()


def summarise(kind: str, length_s: float, meter: str, reads: Sequence[Read]) -> Cell:
    errors = [(one.joules - one.true_j) / one.true_j for one in reads if one.joules is not None]
    stated = [(one, one.half_width_j) for one in reads if one.joules is not None and one.half_width_j is not None]
    covered = [abs((one.joules or 0.0) - one.true_j) <= half_width_j for one, half_width_j in stated]
    waits_s = sorted(one.waited_s for one in reads)
    return Cell(
        kind=kind,
        length_s=length_s,
        meter=meter,
        rms_error=math.sqrt(statistics.fmean(error**2 for error in errors)) if errors else None,
        bias=statistics.fmean(errors) if errors else None,
        coverage=statistics.fmean(covered) if covered else None,
        half_width=statistics.median(width_j / one.true_j for one, width_j in stated) if stated else None,
        half_width_j=statistics.median(width_j for _, width_j in stated) if stated else None,
        no_value=1.0 - len(errors) / len(reads),
        waited_s=statistics.median(waits_s),
        waited_95_s=waits_s[int(0.95 * len(waits_s))],
        windows=len(reads),
    )


def run(boards: int, windows: int, kinds: Sequence[str], peers: Sequence[str]) -> list[Cell]:
    """Every kind of board, length and meter."""
    cells = []
    for kind in kinds:
        started_s = time.perf_counter()
        for length_s in LENGTHS_S:
            for meter in METERS:
                if meter != OURS and not (KINDS[kind].beside_peers and meter in (NOT_WAITING, "raw read", *peers)):
                    continue
                rigs = (Rig(kind, length_s, number) for number in range(boards))
                cells.append(
                    summarise(kind, length_s, meter, [read for rig in rigs for read in measure(rig, meter, windows)])
                )
        progress(f"{kind}: {time.perf_counter() - started_s:.0f} s")
    return cells


def percent(share: float | None, digits: int = 2) -> str:
    return "-" if share is None else f"{share * 100:.{digits if share < 0.1 else 1}f}"


def error_in_words(cell: Cell) -> str:
    return "-" if cell.bias is None else f"{percent(cell.rms_error)} ({cell.bias * 100:+.2f})"


def marked(kind: str) -> str:
    return f"{kind} *" if KINDS[kind].chosen_on else kind


def markdown(cells: Sequence[Cell]) -> str:
    """What each kind is, our meter on all of them, and beside the others where they ran."""
    of = {(one.kind, one.meter, one.length_s): one for one in cells}
    kinds = list(dict.fromkeys(one.kind for one in cells))
    lengths = [f"{length_s:g} s" for length_s in LENGTHS_S]

    def ours(text: Callable[[Cell], str]) -> list[list[Any]]:
        return [[marked(kind), *(text(of[kind, OURS, length_s]) for length_s in LENGTHS_S)] for kind in kinds]

    waits = []
    for kind in kinds:
        of_kind = [one for one in cells if (one.kind, one.meter) == (kind, OURS)]
        half_widths_j = [f"{one.half_width_j:.2f}" if one.half_width_j else "-" for one in of_kind]
        median_s = statistics.median(one.waited_s for one in of_kind)
        waits.append(
            [marked(kind), *half_widths_j, f"{median_s * 1e3:.0f}", f"{max(c.waited_95_s for c in of_kind) * 1e3:.0f}"]
        )
    parts = [
        "\n".join(["| kind | |", "|---|---|", *(f"| {marked(kind)} | {KINDS[kind].text} |" for kind in kinds)]),
        markdown_table(["RMS error (bias) in %", *lengths], ours(error_in_words)),
        markdown_table(["coverage of the stated 95% interval, %", *lengths], ours(lambda c: percent(c.coverage, 0))),
        markdown_table(["stated half-width, median, J", *lengths, "wait, ms", "its 95%"], waits),
    ]
    missing = [
        f"{cell.no_value:.1%} ({cell.kind}, {cell.length_s:g} s)"
        for cell in cells
        if cell.meter == OURS and cell.no_value
    ]
    parts += [f"Without a value: {', '.join(missing) or 'none'}."]
    for kind in kinds:
        meters = [meter for meter in METERS if (kind, meter, LENGTHS_S[0]) in of]
        if len(meters) > 1:
            rows = [[meter, *(error_in_words(of[kind, meter, length_s]) for length_s in LENGTHS_S)] for meter in meters]
            plain = [of[kind, NOT_WAITING, length_s] for length_s in LENGTHS_S]
            rows.append([f"{NOT_WAITING}: coverage, %", *(percent(cell.coverage, 0) for cell in plain)])
            rows.append([f"{NOT_WAITING}: no value, %", *(percent(cell.no_value, 0) for cell in plain)])
            parts += [f"#### {kind}", markdown_table(["RMS error (bias) in %", *lengths], rows)]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--boards", type=int, default=20, help="boards of each kind (default: 20)")
    parser.add_argument(
        "--windows", type=int, default=10, help="windows on each board and of each length (default: 10)"
    )
    parser.add_argument("--kinds", default="", help="only kinds whose names hold this text")
    parser.add_argument("--json", type=Path, help="write the numbers there as well")
    arguments = parser.parse_args()
    json_path = arguments.json.resolve() if arguments.json else None
    started_s = time.perf_counter()
    kinds = [kind for kind in KINDS if arguments.kinds in kind]
    with private_folder():
        left_out = missing_peers()
        absent = {text.split()[0] for text in left_out}
        peers = [meter for meter in ("zeus", "codecarbon") if meter not in absent]
        cells = run(arguments.boards, arguments.windows, kinds, peers)
    if json_path is not None:
        report = {"versions": versions(), "left_out": left_out, "cells": [asdict(cell) for cell in cells]}
        json_path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(markdown(cells))
    print(
        f"\n{arguments.boards * arguments.windows} windows a cell; * constants were chosen on these.",
        *left_out,
        sep="\n",
    )
    print("Versions: " + ", ".join(f"{name} {version}" for name, version in versions().items()))
    progress(f"{time.perf_counter() - started_s:.0f} s")


if __name__ == "__main__":
    main()
