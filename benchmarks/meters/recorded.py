"""Joules from the recording of a real board: our meter, Zeus' rule and a plain read, on every piece of work.

    PYTHONPATH=. python benchmarks/meters/recorded.py [RECORDING] [--cuts N] [--json FILE]

The recording (see tests/recordings) is played back beneath the binding of NVML: the meter reads a counter that changes
when the board's did, waits as long as a read took there, and gets the samples that the driver gave. It does not know
what the work was.

* **pieces**: the true energy of a piece is its number of repetitions times the joules of one, from the longest piece of
  its kind. It is not exact: clocks and warmth move the work itself by some tenths of a per cent, pieces of 0.06 s more.
* **cuts**: windows in random places of the long pieces, where the board works before and after as it does inside. The
  true energy is told by the counter over the second around the window (linear between its updates: 0.05 to 0.2%).

A plain read takes the counter at both ends as it stands. Zeus' rule is the same; its own code adds no correction.
"""

from __future__ import annotations

import argparse
import bisect
import json
import math
import random
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from simulated_machine import markdown_table, private_folder, progress, versions

from pytest_llem.meters.nvml import open_nvml_meter
from tests.simulators import ReplayedBoard, SimulatedClock, install, load_recording

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.simulators import Recording

RECORDING = Path(__file__).parents[2] / "tests" / "recordings" / "h200-kernels.json.gz"
CUTS_S = (0.1, 0.2, 0.5, 1.0)
LENGTHS_S = (0.0, 0.15, 0.3, 0.7, math.inf)
_START_S = 1000.0
_LEAST_CUT_PIECE_S = 2.0
_STEADY_SHARE = 0.03


@dataclass(frozen=True)
class Measured:
    """One window on the recording.

    Attributes:
        group: kind of window, for the tables.
        true_j: what it took, in joules.
        joules, uncertainty_j: what the meter said; ``None``: nothing.
        plain_j: the difference of two plain reads.
        waited_s: how long the meter waited before and after it, in seconds.
        warnings: what it said besides.
    """

    group: str
    true_j: float
    joules: float | None
    uncertainty_j: float | None
    plain_j: float
    waited_s: float
    warnings: tuple[str, ...]


def joules_per_repetition(recording: Recording) -> dict[str, float]:
    """By kind of work: what the counter says of its longest piece, from idle to idle."""
    found: dict[str, float] = {}
    for piece in sorted(recording.work, key=lambda piece: piece.end_s - piece.start_s):
        if piece.repetitions:
            found[piece.name] = settled_energy_j(recording, piece.start_s, piece.end_s) / piece.repetitions
    return found


def settled_energy_j(recording: Recording, start_s: float, end_s: float) -> float:
    """A piece's energy by hand: from the last edge before to the one after 0.1 s, the rest at the idle power beside."""
    moments_s = recording.update_moments_s()
    values_j = [change.energy_mj / 1e3 for change in recording.changes]
    before = bisect.bisect_right(moments_s, start_s) - 1
    after = bisect.bisect_left(moments_s, end_s + 0.1)
    before_w = (values_j[before] - values_j[before - 2]) / (moments_s[before] - moments_s[before - 2])
    after_w = (values_j[after + 3] - values_j[after]) / (moments_s[after + 3] - moments_s[after])
    gain_j = values_j[after] - values_j[before]
    return gain_j - before_w * (start_s - moments_s[before]) - after_w * (moments_s[after] - end_s)


def interpolated_j(recording: Recording) -> Callable[[float, float], float]:
    """Energy between two instants of steady work: the counter's straight line through a second around them."""
    moments_s = recording.update_moments_s()
    values_j = [change.energy_mj / 1e3 for change in recording.changes]

    def energy_j(start_s: float, end_s: float) -> float:
        low = bisect.bisect_left(moments_s, start_s - 0.3)
        high = bisect.bisect_right(moments_s, end_s + 0.3) - 1
        return (values_j[high] - values_j[low]) / (moments_s[high] - moments_s[low]) * (end_s - start_s)

    return energy_j


def windows(recording: Recording, spans: Sequence[tuple[str, float, float, float]], seed: int) -> list[Measured]:
    """Measure these spans (group, start, end, true joules), one after the other, with one meter."""
    clock = SimulatedClock()
    board = ReplayedBoard(recording, seed=seed)
    moments_s = recording.update_moments_s()
    values_j = [change.energy_mj / 1e3 for change in recording.changes]

    def plain_j(at_s: float) -> float:
        return values_j[max(bisect.bisect_right(moments_s, at_s) - 1, 0)]

    measured = []
    clock.sleep(moments_s[0] + 0.1)
    with install([board], clock), open_nvml_meter("cuda", None, clock) as meter:
        assert meter.calibrations  # what is learned about the counter belongs to no window
        for group, start_s, end_s, true_j in spans:
            early_s = start_s + _START_S - clock.now_s()
            if early_s < 0.06:
                continue  # the meter is not done with the last one
            clock.sleep(early_s - 0.05)
            entered_s = clock.now_s()
            with meter.window() as window:
                waited_s = clock.now_s() - entered_s
                late = clock.now_s() > start_s + _START_S
                clock.work(max(end_s + _START_S - clock.now_s(), 0.0))
            if late:
                continue  # the meter was still busy, with finding out about the counter
            # The window began when the meter was ready, some milliseconds early: at idle or plateau power.
            waited_s += clock.now_s() - _START_S - end_s
            begun_s = end_s - window.seconds
            idle_j = max(start_s - begun_s, 0.0) * _power_before(recording, start_s)
            joules = None if window.joules is None else window.joules - idle_j
            measured.append(
                Measured(
                    group,
                    true_j,
                    joules,
                    window.uncertainty_j,
                    plain_j(end_s) - plain_j(start_s),
                    waited_s,
                    tuple(window.warnings),
                )
            )
    return measured


def _power_before(recording: Recording, at_s: float) -> float:
    """Mean of the samples in the fifth of a second before an instant, in watts."""
    return statistics.fmean(s.power_w for s in recording.samples if at_s - 0.08 <= s.time_s <= at_s - 0.005)


def pieces(recording: Recording) -> list[tuple[str, float, float, float]]:
    """Every piece of work, with its true energy."""
    each_j = joules_per_repetition(recording)
    found = []
    for piece in recording.work:
        if piece.repetitions:
            seconds = piece.end_s - piece.start_s
            low = max(length_s for length_s in LENGTHS_S if seconds >= length_s)
            high = min(length_s for length_s in LENGTHS_S if seconds < length_s)
            group = f"{piece.name}, {f'{low:g} to {high:g} s' if high < math.inf else f'{low:g} s and more'}"
            found.append((group, piece.start_s, piece.end_s, piece.repetitions * each_j[piece.name]))
    return found


def cuts(recording: Recording, count: int, seed: int) -> list[list[tuple[str, float, float, float]]]:
    """Windows in random places of the long pieces where the power is steady; a list for each playback."""
    generator = random.Random(seed)  # noqa: S311
    energy_j = interpolated_j(recording)
    long = [piece for piece in recording.work if piece.repetitions and piece.end_s - piece.start_s > _LEAST_CUT_PIECE_S]
    playbacks: list[list[tuple[str, float, float, float]]] = []
    while len(playbacks) < count:
        seconds = CUTS_S[len(playbacks) % len(CUTS_S)]
        piece = generator.choice(long)
        start_s = generator.uniform(piece.start_s + 0.4, piece.end_s - seconds - 0.8)
        powers_w = [s.power_w for s in recording.samples if start_s - 0.35 <= s.time_s <= start_s + seconds + 0.7]
        if max(powers_w) - min(powers_w) < _STEADY_SHARE * min(powers_w):
            true_j = energy_j(start_s, start_s + seconds)
            playbacks.append([(f"steady, {seconds:g} s", start_s, start_s + seconds, true_j)])
    return playbacks


def table(measured: Sequence[Measured]) -> str:
    """Errors in per cent, and how many of the stated intervals hold the truth."""
    rows = []
    for group in sorted({one.group for one in measured}):
        of_group = [one for one in measured if one.group == group]
        known = [one for one in of_group if one.joules is not None and one.uncertainty_j is not None]
        errors = [one.joules / one.true_j - 1.0 for one in known if one.joules is not None]
        plain = [one.plain_j / one.true_j - 1.0 for one in of_group]
        inside = [abs((one.joules or 0.0) - one.true_j) <= (one.uncertainty_j or 0.0) for one in known]
        widths = [(one.uncertainty_j or 0.0) / one.true_j for one in known]
        rows.append(
            [
                group,
                len(of_group),
                len(of_group) - len(known),
                f"{statistics.fmean(errors):+.2%}",
                f"{_rms(errors):.2%}",
                f"{statistics.fmean(inside):.0%}",
                f"{statistics.median(widths):.2%}",
                f"{1e3 * statistics.median(one.waited_s for one in of_group):.0f}",
                f"{statistics.fmean(plain):+.1%}",
                f"{_rms(plain):.1%}",
            ]
        )
    header = ["window", "number", "no value", "bias", "RMS", "coverage", "stated half-width", "wait, ms"]
    return markdown_table([*header, "plain read and Zeus: bias", "RMS"], rows)


def _rms(values: Sequence[float]) -> float:
    return math.sqrt(statistics.fmean(value**2 for value in values))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recording", type=Path, nargs="?", default=RECORDING)
    parser.add_argument("--cuts", type=int, default=100, help="playbacks with windows cut out of the long pieces")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    recording = load_recording(arguments.recording)
    with private_folder():
        measured = [one for seed in range(4) for one in windows(recording, pieces(recording), seed)]
        for number, spans in enumerate(cuts(recording, arguments.cuts, seed=1)):
            progress(f"playback {number + 1} of {arguments.cuts}")
            measured += windows(recording, spans, seed=number)
    print(table(measured))
    for text in sorted({text for one in measured for text in one.warnings}):
        print(f"warning: {text}")
    if arguments.json:
        content = {"versions": versions(), "windows": [asdict(one) for one in measured]}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
