"""A replayed board shows through the real binding what the recorded one showed."""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path

import pynvml
import pytest

from tests.simulators import (
    RECORDED_READ_COSTS_S,
    Recording,
    ReplayedBoard,
    SimulatedClock,
    install,
    load_recording,
)

RECORDINGS = Path(__file__).parents[3] / "recordings"


@pytest.fixture(scope="module")
def recording() -> Recording:
    return load_recording(RECORDINGS / "h200-kernels.json.gz")


def test_every_change_fits_one_lattice(recording: Recording) -> None:
    moments_s = recording.update_moments_s()
    assert len(moments_s) == len(recording.changes)
    for number, (moment_s, change) in enumerate(zip(moments_s, recording.changes, strict=True)):
        assert moment_s == pytest.approx(moments_s[0] + 0.1 * number)
        assert (change.last_stale_read_start_s or 0.0) <= moment_s <= change.read_end_s


def test_simulated_boards_read_as_slowly(recording: Recording) -> None:
    assert tuple(recording.read_costs_s) == RECORDED_READ_COSTS_S


def test_reads_between_two_changes_show_the_recorded_value(recording: Recording) -> None:
    clock = SimulatedClock()
    ends_s = [change.read_end_s for change in recording.changes]
    stale_starts_s = [change.last_stale_read_start_s or 0.0 for change in recording.changes]
    with install([ReplayedBoard(recording)], clock):
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        for end_s in ends_s:
            clock.sleep(max(0.0, 1000.0 + end_s - clock.now_s()))
            before_s = clock.now_s() - 1000.0
            shown_mj = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
            after_s = clock.now_s() - 1000.0
            # From the change that a read before this one saw to the last that one in this time could see.
            first, last = bisect_right(ends_s, before_s) - 1, bisect_right(stale_starts_s, after_s)
            assert shown_mj in [change.energy_mj for change in recording.changes[max(0, first) : last]]


def test_samples_are_those_dated_until_now(recording: Recording) -> None:
    board = ReplayedBoard(recording, offset_s=50.0)
    for now_s in (1.0, 10.0, 40.0):
        samples = board.power_samples(50.0 + now_s, 0.0)
        dated = [sample for sample in recording.samples if sample.time_s <= now_s][-120:]
        assert [power_w for _, power_w in samples] == [sample.power_w for sample in dated]
        assert [date_s - 50.0 for date_s, _ in samples] == pytest.approx([sample.time_s for sample in dated])
        assert board.instant_power_w(50.0 + now_s) == dated[-1].power_w
        assert board.power_samples(50.0 + now_s, samples[-2][0]) == samples[-1:]
    assert 80.0 < board.average_power_w(51.0) < 81.0


def test_the_long_pieces_show_the_energy_of_their_repetitions(recording: Recording) -> None:
    board = ReplayedBoard(recording, offset_s=0.0)
    longest = max(recording.work, key=lambda work: work.end_s - work.start_s)
    seconds = longest.end_s - longest.start_s
    shown_j = (board.counter_mj(longest.end_s) - board.counter_mj(longest.start_s)) / 1e3
    samples = [sample.power_w for sample in recording.samples if longest.start_s < sample.time_s < longest.end_s]
    assert shown_j / seconds == pytest.approx(sum(samples) / len(samples), rel=0.03)
    with pytest.raises(NotImplementedError):
        board.window_energy_j(longest.start_s, longest.end_s)


def test_the_counter_can_be_hidden(recording: Recording) -> None:
    with install([ReplayedBoard(recording, with_counter=False)], SimulatedClock(1010.0)):
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        with pytest.raises(pynvml.NVMLError_NotSupported):
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        _, samples = pynvml.nvmlDeviceGetSamples(handle, pynvml.NVML_TOTAL_POWER_SAMPLES, 0)
        assert len(samples) == 120
