"""Joules from the recording of a real board: our meter and a plain read, on every piece of work.

    PYTHONPATH=. python benchmarks/meters/recorded.py [RECORDING] [--playbacks N] [--cuts N] [--json FILE]

The recording (see tests/recordings) is played back beneath the binding of NVML: the meter reads a counter that changes
when the board's did, waits as long as a read took there, and gets the samples that the driver gave. It does not know
what the work was. Nobody knows what the board truly drew, so there are four looks at it:

* **pieces**: a piece's number of repetitions times the joules of one, from the longest piece of its kind. That is a
  truth within about a per cent: clocks and warmth move the work itself (by 2% in pieces below 0.15 s). It is none for
  the matrix products: the board throttled itself in the long one, and not in the short ones.
* **cuts**: windows in random places of long pieces, where the board works before and after as it does inside. The true
  energy is told by the counter over the second around the window (linear between its updates: 0.05 to 0.2%).
* **two sets of edges**: a piece's energy from the nearest updates, and from those one further out. They share nothing
  but the power samples and the phase of the counter, so they must agree within what is stated.
* **ablation**: the same with parts of the meter left out, one at a time.

A plain read takes the counter at both ends as it stands, which is what Zeus does, too.
"""

from __future__ import annotations

import argparse
import bisect
import json
import math
import random
import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from simulated_machine import markdown_table, private_folder, progress, versions

from pytest_llem.meters.base import MeterRequest
from pytest_llem.meters.nvidia.agreement import disagreement, sampled_energy
from pytest_llem.meters.nvidia.counter.counter import CONTENT_S, Edge
from pytest_llem.meters.nvidia.counter.lattice import Sighting, fit_lattice
from pytest_llem.meters.nvidia.idle_power import idle_from_samples
from pytest_llem.meters.nvidia.meter import open_nvml_meter
from pytest_llem.meters.nvidia.samples import PowerSample, on_lattice
from pytest_llem.meters.nvidia.settling import FADED_S, settle
from pytest_llem.meters.nvidia.window_energy import WindowEnergy, head, window_energy
from tests.simulators import ReplayedBoard, SimulatedClock, install, load_recording

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.simulators import Recording

RECORDING = Path(__file__).parents[2] / "tests" / "recordings" / "h200-kernels.json.gz"
LENGTHS_S = (0.0, 0.15, 0.3, 0.7, math.inf)
CUTS_S = (0.1, 0.2, 0.5, 1.0)
NO_REFERENCE = ("matmul",)
"""Kinds of work whose long piece ran in another state of the board than the short ones."""

_START_S = 1000.0
_ENTER_EARLY_S = 0.08
_LEAST_CUT_PIECE_S = 2.0
_STEADY_SHARE = 0.03
_TRIES = 50  # to find a steady stretch
_APART_S = 0.35  # rest on either side of a piece that two sets of edges need
_SAMPLES_KEPT_S = 2.0
_WIDE_S, _WIDE_ERROR_S = 0.015, 0.004
_SQRT12 = math.sqrt(12.0)


@dataclass(frozen=True)
class Span:
    """A window to measure: seconds of the recording.

    Attributes:
        group: kind of window, for the tables.
        start_s, end_s: when its work begins and ends; of steady work, about when a window of that length does.
        true_j: what it took, in joules; ``None``: nobody knows, or the counter does, of steady work.
        until_s: when other work begins, with which the meter must not meet.
        steady: whether the board works before and after it as it does inside.
    """

    group: str
    start_s: float
    end_s: float
    true_j: float | None
    until_s: float = math.inf
    steady: bool = False


@dataclass(frozen=True)
class Measured:
    """One window on the recording.

    Attributes:
        group: kind of window.
        seconds: its length.
        true_j: what it took, in joules.
        joules, uncertainty_j: what the meter said; ``None``: nothing.
        plain_error: relative error of the difference of two plain reads; ``None`` where the truth is not known.
        waited_s: how long the meter waited before and after it, in seconds.
        warnings: what it said besides.
    """

    group: str
    seconds: float
    true_j: float | None
    joules: float | None
    uncertainty_j: float | None
    plain_error: float | None
    waited_s: float
    warnings: tuple[str, ...]


class Counted:
    """What the counter of a recording showed, its updates taken to lie on one lattice."""

    def __init__(self, recording: Recording) -> None:
        self.moments_s = recording.update_moments_s()
        self.values_j = [change.energy_mj / 1e3 for change in recording.changes]

    def plain_j(self, at_s: float) -> float:
        """What a read at an instant shows, in joules."""
        return self.values_j[max(bisect.bisect_right(self.moments_s, at_s) - 1, 0)]

    def gain(self, first: int, last: int) -> tuple[float, float]:
        """What it gained from one update to another, in joules, and in how many seconds."""
        return self.values_j[last] - self.values_j[first], self.moments_s[last] - self.moments_s[first]

    def settled_j(self, start_s: float, end_s: float) -> float:
        """A piece's energy by hand: from the last update before to one 0.1 s after, with the idle powers beside."""
        before = bisect.bisect_right(self.moments_s, start_s) - 1
        after = bisect.bisect_left(self.moments_s, end_s + 0.1)
        before_j, before_s = self.gain(before - 2, before)
        after_j, after_s = self.gain(after, after + 3)
        head_j = before_j / before_s * (start_s - self.moments_s[before])
        tail_j = after_j / after_s * (self.moments_s[after] - end_s)
        return self.values_j[after] - self.values_j[before] - head_j - tail_j

    def steady_j(self, start_s: float, end_s: float) -> float:
        """Energy between two instants of steady work: the straight line through the second around them."""
        low = bisect.bisect_left(self.moments_s, start_s - 0.3)
        high = bisect.bisect_right(self.moments_s, end_s + 0.3) - 1
        joules, seconds = self.gain(low, high)
        return joules / seconds * (end_s - start_s)


def pieces(recording: Recording) -> list[Span]:
    """Every piece of work, with its true energy where that is known."""
    counted = Counted(recording)
    work = [piece for piece in recording.work if piece.repetitions]
    each_j = {
        piece.name: counted.settled_j(piece.start_s, piece.end_s) / piece.repetitions
        for piece in sorted(work, key=lambda piece: piece.end_s - piece.start_s)
    }
    found = []
    for piece, until_s in zip(work, [*(piece.start_s for piece in work[1:]), math.inf], strict=True):
        seconds = piece.end_s - piece.start_s
        low = max(length_s for length_s in LENGTHS_S if seconds >= length_s)
        high = min(length_s for length_s in LENGTHS_S if seconds < length_s)
        group = f"{piece.name}, {f'{low:g} to {high:g} s' if high < math.inf else f'{seconds:.2g} s'}"
        true_j = None if piece.name in NO_REFERENCE else piece.repetitions * each_j[piece.name]
        found.append(Span(group, piece.start_s, piece.end_s, true_j, until_s))
    return found


def cuts(recording: Recording, count: int, seed: int = 1) -> list[Span]:
    """Windows in random places of the long pieces where the power is steady."""
    generator = random.Random(seed)  # noqa: S311
    long = [piece for piece in recording.work if piece.repetitions and piece.end_s - piece.start_s > _LEAST_CUT_PIECE_S]
    found: list[Span] = []
    for _ in range(_TRIES * count):
        if len(found) == count or not long:
            break
        length_s = CUTS_S[len(found) % len(CUTS_S)]
        # Whole periods would hold as many updates wherever they lie: a plain read would be right by chance.
        seconds = length_s + generator.uniform(-0.05, 0.05)
        piece = generator.choice(long)
        start_s = generator.uniform(piece.start_s + 0.4, piece.end_s - seconds - 0.8)
        powers_w = [s.power_w for s in recording.samples if start_s - 0.35 <= s.time_s <= start_s + seconds + 0.7]
        if max(powers_w) - min(powers_w) < _STEADY_SHARE * min(powers_w):
            group = f"cut from {piece.name}, {length_s:g} s"
            found.append(Span(group, start_s, start_s + seconds, None, piece.end_s, steady=True))
    return found


def play(recording: Recording, spans: Sequence[Span], seed: int, with_counter: bool = True) -> list[Measured]:
    """Measure these spans with one meter, one after the other; those are left out that it was not done before."""
    clock = SimulatedClock(_START_S)
    counted = Counted(recording)
    measured = []
    clock.sleep(counted.moments_s[0] + 0.1)
    with (
        install([ReplayedBoard(recording, seed=seed, with_counter=with_counter)], clock),
        open_nvml_meter(MeterRequest("cuda", None, clock, lock_timeout_s=None)) as meter,
    ):
        assert meter.auto_window_s > 0  # what is learned about the board belongs to no window
        for span in spans:
            early_s = span.start_s + _START_S - clock.now_s()
            if early_s < _ENTER_EARLY_S:
                continue  # the meter was not done with the last one
            clock.sleep(early_s - _ENTER_EARLY_S)
            entered_s = clock.now_s()
            with meter.window() as window:
                # It begins when the meter is ready, some milliseconds before the work.
                begun_s = clock.now_s() - _START_S
                end_s = begun_s + span.end_s - span.start_s if span.steady else span.end_s
                clock.work(max(end_s - begun_s, 0.0))
            waited_s = clock.now_s() - entered_s - window.seconds
            if (not span.steady and begun_s > span.start_s) or clock.now_s() > span.until_s + _START_S:
                continue
            start_s = begun_s if span.steady else span.start_s
            true_j = counted.steady_j(start_s, end_s) if span.steady else span.true_j
            # The meter may have waited for an update: plain reads are those of the instants that were drawn.
            plain_j = counted.plain_j(span.end_s) - counted.plain_j(span.start_s)
            plain_true_j = counted.steady_j(span.start_s, span.end_s) if span.steady else span.true_j
            joules = window.joules
            if joules is not None and not span.steady:
                joules -= (start_s - begun_s) * _power_before(recording, start_s)
            measured.append(
                Measured(
                    span.group,
                    end_s - start_s,
                    true_j,
                    joules,
                    window.uncertainty_j,
                    None if plain_true_j is None else plain_j / plain_true_j - 1.0,
                    waited_s,
                    tuple(window.warnings),
                )
            )
    return measured


def _power_before(recording: Recording, at_s: float) -> float:
    """Mean of the samples just before an instant, in watts."""
    return statistics.fmean(s.power_w for s in recording.samples if at_s - 0.08 <= s.time_s <= at_s - 0.005)


# Without the meter's waiting: what its parts make of the whole recording.


@dataclass(frozen=True)
class Sensors:
    """What the sensors showed: updates of the counter as edges, and samples with their dates put back."""

    edges: list[Edge]
    samples: list[PowerSample]


@dataclass(frozen=True)
class Variant:
    """A way to tell a piece's energy.

    Attributes:
        text: what it is.
        sensors: what it is told from.
        after_w: instead of the model of settling: the power after the work from that before it and the samples since
            70 ms after its end, all in watts; the board is then taken to have settled.
        faded_s: how long after the work the update is looked for, in seconds.
    """

    text: str
    sensors: Sensors
    after_w: Callable[[float, Sequence[float]], float] | None = None
    faded_s: float = FADED_S


def sensors(recording: Recording, *, by_lattice: bool = True, late_are_known: bool = True) -> Sensors:
    """A recording's sensors.

    Args:
        recording: of one board.
        by_lattice: whether updates are dated by their lattice, or by the middle of the reads around them.
        late_are_known: whether a sighting too wide to tell a late update from a punctual one makes an edge uncertain.
    """
    seen = [
        (Sighting(change.last_stale_read_start_s, change.read_end_s), change.energy_mj / 1e3)
        for change in recording.changes
        if change.last_stale_read_start_s is not None
    ]
    lattice = fit_lattice([sighting for sighting, _ in seen])
    if lattice is None:
        raise SystemExit("the counter of this recording keeps no lattice")
    edges = []
    for sighting, energy_j in seen:
        if not by_lattice:
            edges.append(Edge(sighting.middle_s, energy_j, math.hypot(sighting.width_s / _SQRT12, CONTENT_S)))
            continue
        wide = late_are_known and sighting.width_s >= _WIDE_S
        moment_s = lattice.first_from(sighting.middle_s - lattice.period_s / 2.0)
        edges.append(Edge(moment_s, energy_j, _WIDE_ERROR_S if wide else CONTENT_S))
    dated = [(sample.time_s, sample.power_w) for sample in recording.samples]
    # As the meter would see them: the newest few seconds at a time.
    samples = [one for first in range(0, len(dated), 100) for one in on_lattice(dated[first : first + 100], 0.02)]
    return Sensors(edges, samples)


def variants(recording: Recording) -> list[Variant]:
    """The meter, and the meter without one part of it."""
    whole = sensors(recording)

    def as_before(idle_w: float, _: Sequence[float]) -> float:
        return idle_w

    def mean(idle_w: float, powers_w: Sequence[float]) -> float:
        return statistics.fmean(powers_w or [idle_w])

    return [
        Variant("all of it", whole),
        Variant("late updates taken for punctual ones", sensors(recording, late_are_known=False)),
        Variant("updates dated by the middle of the reads around them", sensors(recording, by_lattice=False)),
        Variant("no model of settling: mean of the samples after 70 ms", whole, mean),
        Variant("idle power after the work taken for that before it", whole, as_before),
        Variant("the same, from the first update after the work", whole, as_before, 0.0),
    ]


def apart(recording: Recording) -> list[Span]:
    """The pieces with so much rest on both sides that two sets of edges can be taken."""
    work = pieces(recording)
    ends_s = [recording.changes[0].read_end_s, *(span.end_s for span in work)]
    starts_s = [*(span.start_s for span in work[1:]), recording.changes[-1].read_end_s]
    return [
        span
        for span, before_s, after_s in zip(work, ends_s, starts_s, strict=False)
        if span.start_s - before_s > _APART_S and after_s - span.end_s > _APART_S
    ]


@dataclass(frozen=True)
class Told:
    """A piece's energy, by the counter and by the samples alone, and how these contradict each other."""

    energy: WindowEnergy
    sampled: WindowEnergy | None
    contradiction: str | None


def tell(span: Span, variant: Variant, skipped: int = 0) -> Told:
    """A piece's energy from the nearest edges, or from those so many further out."""
    edges, samples = variant.sensors.edges, variant.sensors.samples
    times_s = [edge.time_s for edge in edges]
    before = edges[bisect.bisect_right(times_s, span.start_s) - 1 - skipped]
    after = edges[bisect.bisect_left(times_s, span.end_s + variant.faded_s) + skipped]
    known = [sample for sample in samples if before.time_s - 1.0 <= sample.time_s <= after.time_s + 0.01]
    idle = idle_from_samples(known, span.start_s)
    if idle is None:
        raise SystemExit(f"no idle power is known before the work at {span.start_s:.3f} s")
    step_w = (after.energy_j - before.energy_j) / (span.end_s - span.start_s) - idle.power_w
    settled = settle(known, [], span.end_s, after.time_s, idle, step_w)
    if variant.after_w is not None:
        powers_w = [sample.power_w for sample in known if span.end_s + FADED_S <= sample.time_s <= after.time_s]
        after_w = variant.after_w(idle.power_w, powers_w)
        surplus_j = after_w * (after.time_s - span.end_s)
        settled = replace(settled, idle_w=after_w, excess_w=0.0, surplus_j=surplus_j, error_j=0.0)
    energy = window_energy(before, after, head(before.time_s, span.start_s, idle, known), settled, idle)
    sampled = sampled_energy(known, span.start_s, span.end_s, idle, settled, after.time_s)
    if sampled is None or sampled.from_s > span.start_s:
        return Told(energy, None, None)
    return Told(energy, sampled.energy, disagreement(energy, sampled, span.start_s, span.end_s, idle, None))


@dataclass(frozen=True)
class Ablation:
    """What a variant says of the pieces that lie apart.

    Attributes:
        variant: what it is.
        pieces: how many there are.
        bias_j, sd_j: mean and standard deviation of its difference from the whole meter, in joules.
        exchange_j: root mean square of what another set of edges changes, in joules.
        agree: how many of the pieces both sets agree about within what is stated.
        median_half_width_j: of the nearer set, in joules.
    """

    variant: str
    pieces: int
    bias_j: float
    sd_j: float
    exchange_j: float | None = None
    agree: int | None = None
    median_half_width_j: float | None = None


def ablations(recording: Recording) -> list[Ablation]:
    spans = apart(recording)
    counted = Counted(recording)
    found: list[Ablation] = []
    whole_j: list[float] = []
    for variant in variants(recording):
        near, far = ([tell(span, variant, skipped).energy for span in spans] for skipped in (0, 1))
        whole_j = whole_j or [one.joules for one in near]
        off_j = [one.joules - joules for one, joules in zip(near, whole_j, strict=True)]
        pairs = [
            (a.joules - b.joules, math.hypot(a.uncertainty_j, b.uncertainty_j)) for a, b in zip(near, far, strict=True)
        ]
        found.append(
            Ablation(
                variant.text,
                len(spans),
                statistics.fmean(off_j),
                statistics.stdev(off_j),
                _rms([difference_j for difference_j, _ in pairs]),
                sum(abs(difference_j) <= allowed_j for difference_j, allowed_j in pairs),
                statistics.median(one.uncertainty_j for one in near),
            )
        )
    plain_j = [counted.plain_j(span.end_s) - counted.plain_j(span.start_s) for span in spans]
    off_j = [one - joules for one, joules in zip(plain_j, whole_j, strict=True)]
    found.append(Ablation("a plain read at either end", len(spans), statistics.fmean(off_j), statistics.stdev(off_j)))
    return found


def sensors_in_words(recording: Recording) -> str:
    """How many pieces counter and samples agree about."""
    whole = variants(recording)[0]
    pairs = [tell(span, whole) for span in apart(recording)]
    both = [(one.energy, one.sampled, one.contradiction) for one in pairs if one.sampled is not None]
    agree = [abs(a.joules - b.joules) <= math.hypot(a.uncertainty_j, b.uncertainty_j) for a, b, _ in both]
    off_j = [b.joules - a.joules for a, b, _ in both]
    return (
        f"Counter and samples of {len(both)} pieces: {sum(agree)} agree within both stated intervals, "
        f"{sum(text is not None for _, _, text in both)} are called contradictory; the samples say "
        f"{statistics.fmean(off_j):+.2f} +- {statistics.stdev(off_j):.2f} J more."
    )


def window_table(measured: Sequence[Measured]) -> str:
    """Errors in per cent, and how many of the stated intervals hold the truth where that is one."""
    rows = []
    for group in dict.fromkeys(one.group for one in measured):
        of_group = [one for one in measured if one.group == group]
        known = [one for one in of_group if one.joules is not None and one.uncertainty_j is not None]
        errors = [one.joules / one.true_j - 1.0 for one in known if one.joules is not None and one.true_j is not None]
        plain = [one.plain_error for one in of_group if one.plain_error is not None]
        inside = [
            abs(one.joules - one.true_j) <= one.uncertainty_j
            for one in known
            if one.joules is not None and one.true_j is not None and one.uncertainty_j is not None
        ]
        steady = group.startswith("cut ")
        rows.append(
            [
                group,
                len(of_group),
                len(of_group) - len(known),
                f"{statistics.fmean(errors):+.2%}" if errors else "-",
                f"{_rms(errors):.2%}" if errors else "-",
                f"{statistics.fmean(inside):.0%}" if steady else "-",
                f"{statistics.median((one.uncertainty_j or 0.0) / (one.joules or 1.0) for one in known):.2%}",
                f"{statistics.median(one.uncertainty_j or 0.0 for one in known):.2f}",
                f"{1e3 * statistics.median(one.waited_s for one in of_group):.0f}",
                f"{statistics.fmean(plain):+.1%}" if plain else "-",
                f"{_rms(plain):.1%}" if plain else "-",
            ]
        )
    header = ["window", "windows", "no value", "bias", "RMS", "coverage", "stated half-width", "in J", "wait, ms"]
    return markdown_table([*header, "plain read: bias", "RMS"], rows)


def ablation_table(found: Sequence[Ablation]) -> str:
    rows = [
        [
            one.variant,
            f"{one.bias_j:+.2f}",
            f"{one.sd_j:.2f}",
            "-" if one.exchange_j is None else f"{one.exchange_j:.2f}",
            "-" if one.agree is None else f"{one.agree} of {one.pieces}",
            "-" if one.median_half_width_j is None else f"{one.median_half_width_j:.2f}",
        ]
        for one in found
    ]
    header = ["in J", "mean change", "its spread", "other edges change it by (RMS)", "both sets agree"]
    return markdown_table([*header, "stated half-width, median"], rows)


def _rms(values: Sequence[float]) -> float:
    return math.sqrt(statistics.fmean(value**2 for value in values))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recording", type=Path, nargs="?", default=RECORDING)
    parser.add_argument("--playbacks", type=int, default=8, help="of all the pieces; reads take other times in each")
    parser.add_argument("--cuts", type=int, default=400, help="playbacks with a window cut out of the long pieces")
    parser.add_argument("--json", type=Path, help="write the numbers there as well")
    arguments = parser.parse_args()
    json_path = arguments.json.resolve() if arguments.json else None
    recording = load_recording(arguments.recording.resolve())
    with private_folder():
        spans = pieces(recording)
        measured = [one for seed in range(arguments.playbacks) for one in play(recording, spans, seed)]
        progress(f"{arguments.playbacks} playbacks of the pieces")
        for seed, span in enumerate(found_cuts := cuts(recording, arguments.cuts)):
            measured += play(recording, [span], seed)
        progress(f"{len(found_cuts)} cuts")
        # In virtual time nothing fetches samples while the work runs: only what the driver keeps is there.
        short = [span for span in spans if span.end_s - span.start_s < _SAMPLES_KEPT_S]
        without = [
            one for seed in range(arguments.playbacks) for one in play(recording, short, seed, with_counter=False)
        ]
    measured.sort(key=lambda one: (one.true_j is None, one.group))
    without.sort(key=lambda one: (one.true_j is None, one.group))
    found = ablations(recording)
    print("### The meter on the playback\n", window_table(measured), sep="\n")
    print("\n### The same board without its counter: samples alone\n", window_table(without), sep="\n")
    print("\n### Two sets of edges, and parts of the meter left out\n", ablation_table(found), sep="\n")
    print(f"\n{sensors_in_words(recording)}")
    for text in sorted({text for one in measured for text in one.warnings}):
        print(f"warning: {text}")
    if json_path:
        content = {
            "versions": versions(),
            "windows": [asdict(one) for one in measured],
            "without_counter": [asdict(one) for one in without],
            "ablations": [asdict(one) for one in found],
        }
        json_path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
