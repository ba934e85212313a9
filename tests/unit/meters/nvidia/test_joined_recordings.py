"""Joined windows on recordings of real boards, whose true energy nobody knows."""

from __future__ import annotations

import gzip
import itertools
import json
import math
import statistics
from bisect import bisect_left, bisect_right
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest

from pytest_llem.meters.nvidia.counter.counter import CONTENT_S, Edge
from pytest_llem.meters.nvidia.counter.lattice import Sighting, fit_lattice
from pytest_llem.meters.nvidia.idle_power import idle_from_samples
from pytest_llem.meters.nvidia.joined_energy import Anchor, joined_energies
from pytest_llem.meters.nvidia.power_trace import PowerTrace
from pytest_llem.meters.nvidia.samples import PowerSample, on_lattice
from pytest_llem.meters.nvidia.sensor_lag import Span, seen_lag
from pytest_llem.meters.nvidia.settling import FADED_S, settle
from pytest_llem.meters.nvidia.window_energy import WindowEnergy, head, window_energy
from tests.simulators import Recording, load_recording

if TYPE_CHECKING:
    from collections.abc import Sequence

RECORDINGS = Path(__file__).parents[3] / "recordings"
WIDE_S, CLEAR_S = 0.015, 0.015


class Board(NamedTuple):
    recording: Recording
    edges: list[Edge]
    samples: list[PowerSample]

    @classmethod
    def load(cls, name: str) -> Board:
        recording = load_recording(RECORDINGS / name)
        seen = [
            (Sighting(change.last_stale_read_start_s, change.read_end_s), change.energy_mj / 1e3)
            for change in recording.changes
            if change.last_stale_read_start_s is not None
        ]
        lattice = fit_lattice([sighting for sighting, _ in seen])
        assert lattice is not None
        edges = [
            Edge(lattice.nearest(sighting.middle_s), joules, CONTENT_S if sighting.width_s < WIDE_S else 0.004)
            for sighting, joules in seen
        ]
        dated = [(sample.time_s, sample.power_w) for sample in recording.samples]
        samples = [one for first in range(0, len(dated), 100) for one in on_lattice(dated[first : first + 100], 0.02)]
        return cls(recording, edges, samples)

    def settled(self, span: Span) -> tuple[WindowEnergy, Anchor]:
        before, after = self.around(span)
        known = self.known(before, after)
        idle = idle_from_samples(known, span.start_s)
        assert idle is not None
        step_w = (after.energy_j - before.energy_j) / (span.end_s - span.start_s) - idle.power_w
        settling = settle(known, [], span.end_s, after.time_s, idle, step_w)
        start = head(before.time_s, span.start_s, idle, known)
        error_j = math.hypot(idle.power_w * before.uncertainty_s, start.error_j)
        energy = window_energy(before, after, start, settling, idle)
        return energy, Anchor(before.energy_j + start.joules, error_j)

    def joined(self, spans: Sequence[Span], *, later: bool = False) -> list[WindowEnergy]:
        """With the newest edges before the boundaries, or with those after them."""
        stretch = Span(spans[0].start_s, spans[-1].end_s)
        whole, start = self.settled(stretch)
        before, after = self.around(stretch)
        known = self.known(before, after)
        idle = idle_from_samples(known, stretch.start_s)
        assert idle is not None
        times_s = [edge.time_s for edge in self.edges]
        inner = {bisect_right(times_s, span.end_s - CLEAR_S) - 1 + later for span in spans[:-1]}
        between = [self.edges[i] for i in sorted(inner) if before.time_s < times_s[i] < after.time_s]
        lag = seen_lag(known, spans[0], spans[-1], idle)
        error_j = math.sqrt(max((whole.uncertainty_j / 2.0) ** 2 - start.error_j**2, 0.0))
        end = Anchor(start.energy_j + whole.joules, error_j)
        trace = PowerTrace(known, spans, idle, lag)
        found = joined_energies(spans, [before, *between, after], trace, start, end, idle.power_w, lag)
        gaps_j = whole.joules - found.total.joules
        gaps_s = math.fsum(b.start_s - a.end_s for a, b in itertools.pairwise(spans))
        assert gaps_j == pytest.approx(idle.power_w * gaps_s, abs=0.1 * idle.power_w * gaps_s + 1.0)
        return found.windows

    def around(self, span: Span) -> tuple[Edge, Edge]:
        times_s = [edge.time_s for edge in self.edges]
        return (
            self.edges[bisect_right(times_s, span.start_s) - 1],
            self.edges[bisect_left(times_s, span.end_s + FADED_S)],
        )

    def known(self, before: Edge, after: Edge) -> list[PowerSample]:
        return [one for one in self.samples if before.time_s - 1.0 <= one.time_s <= after.time_s + 0.01]


@pytest.fixture(scope="module")
def kernels() -> Board:
    return Board.load("h200-kernels.json.gz")


@pytest.fixture(scope="module")
def generate() -> Board:
    return Board.load("h200-generate.json.gz")


@pytest.fixture(scope="module")
def passes() -> list[list[Span]]:
    """Blocks of ten passes of ``generate()`` back to back, all of the same work."""
    with gzip.open(RECORDINGS / "h200-generate.json.gz", "rt", encoding="utf-8") as file:
        content = json.load(file)
    return [
        [Span(*row[2:]) for row in content["work"]["rows"][first:last]]
        for kind, first, last, *_ in content["blocks"]["rows"]
        if kind == "full"
    ]


def test_six_pieces_joined_are_those_that_settled_each(kernels: Board) -> None:
    """Steps of 350 to 600 W at both ends of each, on a slowed host that lost samples."""
    pieces = [Span(piece.start_s, piece.end_s) for piece in kernels.recording.work if piece.repetitions]
    off_j, agree = [], []
    for first in range(0, len(pieces) - 5, 6):
        together = pieces[first : first + 6]
        for span, energy in zip(together, kernels.joined(together), strict=True):
            alone, _ = kernels.settled(span)
            off_j.append(energy.joules - alone.joules)
            agree.append(abs(off_j[-1]) <= math.hypot(energy.uncertainty_j, alone.uncertainty_j))
    assert len(off_j) >= 40
    assert abs(statistics.fmean(off_j)) < 0.5
    assert statistics.stdev(off_j) < 1.5
    assert statistics.fmean(agree) >= 0.9


@pytest.mark.parametrize("count", [1, 2, 5])
def test_two_disjoint_sets_of_edges_agree_about_passes_back_to_back(
    generate: Board, passes: list[list[Span]], count: int
) -> None:
    agree, off_j = [], []
    for block in passes:
        spans = [Span(block[i].start_s, block[i + count - 1].end_s) for i in range(0, len(block) - count + 1, count)]
        for one, other in zip(generate.joined(spans), generate.joined(spans, later=True), strict=True):
            off_j.append(one.joules - other.joules)
            agree.append(abs(off_j[-1]) <= math.hypot(one.uncertainty_j, other.uncertainty_j))
    assert statistics.fmean(agree) >= 0.93
    assert math.sqrt(statistics.fmean(one**2 for one in off_j)) < 0.5


def test_equal_passes_take_the_same_energy_but_for_their_time(generate: Board, passes: list[list[Span]]) -> None:
    """E = a + b t, b being idle power: a host that makes its board wait costs that. What a boundary is misjudged by
    leaves one pass and enters the next: the deviations of neighbours would be anticorrelated by half."""
    energies = [generate.joined(block) for block in passes]
    seconds = np.array([span.end_s - span.start_s for block in passes for span in block])
    joules = np.array([energy.joules for block in energies for energy in block])
    (base_j, slope_w), *_ = np.linalg.lstsq(np.column_stack((np.ones_like(seconds), seconds)), joules, rcond=None)
    assert slope_w == pytest.approx(121.0, abs=3.0)
    assert base_j == pytest.approx(20.8, abs=2.0)
    off_j = (joules - base_j - slope_w * seconds).reshape(len(passes), -1)
    assert np.std(off_j) < 1.0
    neighbours = np.corrcoef(off_j[:, :-1].ravel(), off_j[:, 1:].ravel())[0, 1]
    assert neighbours > -0.3
