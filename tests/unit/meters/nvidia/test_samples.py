"""The driver's own samples of a board's power, and their dates."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pynvml
import pytest

from pytest_llem.errors import MeasurementError
from pytest_llem.meters.nvidia.library import Nvml
from pytest_llem.meters.nvidia.samples import (
    PowerSample,
    SampleBuffer,
    integrate,
    on_lattice,
    open_samples,
    power_at,
    unbroken,
)
from tests.simulators import LoadedPower, SimulatedBoard, SimulatedClock, ideal_board, install

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PERIOD_S = 0.02


def dated(
    count: int, phase_s: float, seed: int = 0, lost: float = 0.0
) -> tuple[list[tuple[float, float]], list[float]]:
    """Samples as two real boards dated them, and when they were taken; their power is their number."""
    generator = random.Random(seed)  # noqa: S311
    samples, taken_s = [], []
    for number in range(count):
        late_s = generator.uniform(0.0, 0.003) if number % 5 else generator.uniform(0.010, 0.011)
        if generator.random() >= lost:
            taken_s.append(1000.0 + phase_s + number * PERIOD_S)
            samples.append((taken_s[-1] + late_s, float(number)))
    return samples, taken_s


class TestLattice:
    @pytest.mark.parametrize("phase_s", [0.0, 0.004, 0.0095, 0.015, 0.019])
    @pytest.mark.parametrize("lost", [0.0, 0.1])
    def test_late_dates_are_put_back(self, phase_s: float, lost: float) -> None:
        """By 0 to 3 ms, and every fifth by 10 to 11 ms, at any phase and whether or not some are lost."""
        for seed in range(5):
            late, taken_s = dated(60, phase_s, seed, lost)
            found = on_lattice(late, PERIOD_S)
            assert [sample.power_w for sample in found] == [power_w for _, power_w in late]
            shifts_s = [sample.time_s - at_s for sample, at_s in zip(found, taken_s, strict=True)]
            # All by the same, which is the least that a date of the crowd was late by.
            assert max(shifts_s) - min(shifts_s) < 1e-6
            assert 0.0 <= shifts_s[0] < 0.001

    def test_dates_that_keep_no_lattice_are_left(self) -> None:
        generator = random.Random(1)  # noqa: S311
        samples = [(1000.0 + number * PERIOD_S + generator.uniform(0.0, 0.018), 1.0) for number in range(40)]
        assert [sample.time_s for sample in on_lattice(samples, PERIOD_S)] == [time_s for time_s, _ in samples]

    def test_few_dates_are_left(self) -> None:
        samples, _ = dated(14, 0.0)
        assert [sample.time_s for sample in on_lattice(samples, PERIOD_S)] == [time_s for time_s, _ in samples]

    def test_dates_whose_lateness_is_about_their_period_are_left(self) -> None:
        samples = [(1000.0 + 0.01 * number + 0.002 * (number % 2), 1.0) for number in range(40)]
        assert [sample.time_s for sample in on_lattice(samples, 0.01)] == [time_s for time_s, _ in samples]

    def test_the_newest_tell_it_where_the_lattice_has_moved(self) -> None:
        older, _ = dated(200, 0.0, 1)
        newer = [(time_s + 200 * PERIOD_S + 0.007, power_w) for time_s, power_w in dated(40, 0.0, 2)[0]]
        for sample in on_lattice(older + newer, PERIOD_S)[-40:]:
            assert (sample.time_s - 1000.0 + 0.001) % PERIOD_S - 0.001 == pytest.approx(0.0075, abs=0.0005)


class TestIntegral:
    SAMPLES = (PowerSample(1.0, 100.0), PowerSample(2.0, 300.0), PowerSample(4.0, 200.0))

    def test_power_between_samples_is_on_the_line_between_them_and_beyond_the_nearest(self) -> None:
        powers_w = [power_at(self.SAMPLES, at_s) for at_s in (0.0, 1.0, 1.25, 2.0, 3.0, 9.0)]
        assert powers_w == [100.0, 100.0, 150.0, 300.0, 250.0, 200.0]

    @pytest.mark.parametrize(
        ("from_s", "to_s", "joules"),
        [
            (1.0, 4.0, 200.0 + 500.0),
            (1.0, 2.0, 200.0),
            # (200 + 300) / 2 * 0.5 and (300 + 250) / 2 * 1.
            (1.5, 3.0, 125.0 + 275.0),
            # Both ends between the same two samples: 290 W in the middle.
            (2.1, 2.3, 0.2 * 290.0),
            # Before the first and after the last.
            (0.0, 5.0, 100.0 + 700.0 + 200.0),
        ],
    )
    def test_trapezoids_through_the_samples(self, from_s: float, to_s: float, joules: float) -> None:
        assert integrate(self.SAMPLES, from_s, to_s) == pytest.approx(joules)


class TestUnbroken:
    def test_what_is_older_than_a_long_gap_is_left_out(self) -> None:
        times_s = [0.0, 0.02, 0.3, 0.32, 0.5, 0.52, 0.54]
        samples = [PowerSample(time_s, 1.0) for time_s in times_s]
        assert [sample.time_s for sample in unbroken(samples)] == [0.5, 0.52, 0.54]

    def test_a_few_lost_ones_are_no_gap(self) -> None:
        samples = [PowerSample(0.02 * number, 1.0) for number in range(50) if number not in (10, 11, 30)]
        assert list(unbroken(samples)) == samples
        assert list(unbroken([])) == []

    def test_samples_that_are_far_apart_anyway_are_unbroken(self) -> None:
        samples = [PowerSample(0.1 * number, 1.0) for number in range(50)]
        assert list(unbroken(samples)) == samples


Opened = tuple[SampleBuffer | None, SimulatedClock]


@pytest.fixture
def opened() -> Iterator[Callable[[SimulatedBoard], Opened]]:
    """Opens the buffer of a board."""
    open_libraries: list[Any] = []

    def open_of(board: SimulatedBoard) -> Opened:
        clock = SimulatedClock()
        library = install([board], clock)
        nvml = Nvml()
        open_libraries.extend((nvml.close, library.uninstall))
        (found,) = nvml.boards()
        return open_samples(nvml, found, clock), clock

    yield open_of
    for close in open_libraries:
        close()


class TestBuffer:
    @pytest.mark.parametrize("loss", [0.0, 0.05, 0.3])
    def test_its_period_is_found_from_late_dates(self, opened: Callable[[SimulatedBoard], Opened], loss: float) -> None:
        buffer, _ = opened(SimulatedBoard(sample_loss=loss))
        assert buffer is not None
        assert buffer.period_s == pytest.approx(PERIOD_S)
        assert 2.2 < buffer.span_s < (2.6 if loss < 0.1 else 3.8)

    @pytest.mark.parametrize(("behind_s", "usable"), [(0.0, True), (0.2, False), (-9.0, False)])
    def test_samples_whose_dates_are_of_another_clock_are_of_no_use(
        self, opened: Callable[[SimulatedBoard], Opened], behind_s: float, usable: bool
    ) -> None:
        buffer, clock = opened(SimulatedBoard())
        assert buffer is not None

        class Behind(SimulatedClock):
            def wall_s(self) -> float:
                return clock.wall_s() - behind_s

        found = open_samples(buffer._nvml, buffer._board, Behind())
        assert (found is not None) is usable

    def test_a_wall_clock_that_was_set_begins_them_anew(
        self, opened: Callable[[SimulatedBoard], Opened], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        buffer, clock = opened(SimulatedBoard())
        assert buffer is not None
        buffer.fetch()
        assert buffer.newest_s > 0
        real = SimulatedClock.wall_s
        monkeypatch.setattr(SimulatedClock, "wall_s", lambda clock: real(clock) + 0.03)
        clock.sleep(0.1)
        buffer.fetch()
        assert buffer.between(0.0, 1e9) == []
        clock.sleep(0.1)
        buffer.fetch()
        assert len(buffer.between(0.0, 1e9)) == pytest.approx(5, abs=1)

    def test_a_wall_clock_that_is_slewed_keeps_them(
        self, opened: Callable[[SimulatedBoard], Opened], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What NTP does to it: 9 ms in half a minute without a fetch."""
        buffer, clock = opened(SimulatedBoard())
        assert buffer is not None
        buffer.fetch()
        before = len(buffer.between(0.0, 1e9))
        real, start_s = SimulatedClock.wall_s, clock.now_s()
        monkeypatch.setattr(
            SimulatedClock, "wall_s", lambda clock: real(clock) + 300e-6 * max(clock.now_s() - start_s, 0.0)
        )
        clock.sleep(30.0)
        buffer.fetch()
        assert len(buffer.between(0.0, 1e9)) > before + 100

    def test_a_sample_that_comes_between_the_two_calls_of_a_fetch_ends_nothing(
        self, opened: Callable[[SimulatedBoard], Opened]
    ) -> None:
        """The binding asks how many there are, and then for as many."""
        board = SimulatedBoard()
        buffer, clock = opened(board)
        assert buffer is not None
        board.errors = {"nvmlDeviceGetSamples": pynvml.NVML_ERROR_INSUFFICIENT_SIZE}
        buffer.fetch()
        assert buffer.between(0.0, 1e9) == []
        board.errors = {}
        clock.sleep(0.1)
        buffer.fetch()
        assert len(buffer.between(0.0, 1e9)) > 100

    def test_samples_are_fetched_once_and_dated_on_the_clock_of_the_meter(
        self, opened: Callable[[SimulatedBoard], Opened]
    ) -> None:
        board = ideal_board(power=LoadedPower(100.0))
        buffer, clock = opened(board)
        assert buffer is not None
        for _ in range(40):
            clock.sleep(0.05)
            buffer.fetch()
            buffer.fetch()
        samples = buffer.between(0.0, 1e9)
        gaps_s = [later.time_s - earlier.time_s for earlier, later in pairwise(samples)]
        assert gaps_s == [pytest.approx(PERIOD_S, abs=1e-6)] * (len(samples) - 1)
        assert clock.now_s() - PERIOD_S <= samples[-1].time_s <= clock.now_s()
        # 120 that were there at the first fetch and those of 1.95 s more: none is kept twice.
        assert len(samples) == pytest.approx(217, abs=1)

    def test_a_step_of_power_is_found_where_it_was(self, opened: Callable[[SimulatedBoard], Opened]) -> None:
        """Late dates and a lag of the sensor included, but for what the sensor is ahead of its date."""
        board = SimulatedBoard(power=LoadedPower(100.0), sensor_lag_s=0.0, read_cost_s=0.0)
        buffer, clock = opened(board)
        assert buffer is not None
        buffer.fetch()
        clock.sleep(0.1234)
        start_s = clock.now_s()
        board.run(clock, 0.5, 400.0)
        clock.sleep(0.5)
        buffer.fetch()
        # Trapezoids of 20 ms, dated 3 ms late as on a real board.
        whole_j = integrate(buffer.between(start_s - 0.1, clock.now_s()), start_s - 0.05, start_s + 0.7)
        assert whole_j == pytest.approx(100.0 * 0.75 + 300.0 * 0.5, abs=300.0 * 0.02)
        half_j = integrate(buffer.between(start_s - 0.1, clock.now_s()), start_s - 0.05, start_s + 0.25)
        assert half_j == pytest.approx(100.0 * 0.3 + 300.0 * 0.25, abs=300.0 * 0.015)

    def test_between_holds_its_ends(self, opened: Callable[[SimulatedBoard], Opened]) -> None:
        buffer, _ = opened(ideal_board())
        assert buffer is not None
        buffer.fetch()
        samples = buffer.between(0.0, 1e9)
        assert buffer.between(samples[10].time_s, samples[20].time_s) == samples[10:21]

    @pytest.mark.parametrize("code", [pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_UNKNOWN])
    def test_a_lost_board_is_a_clear_failure(self, opened: Callable[[SimulatedBoard], Opened], code: int) -> None:
        board = SimulatedBoard(uuid="GPU-1", lost_error=code)
        buffer, clock = opened(board)
        assert buffer is not None
        board.lost_at_s = clock.now_s()
        with pytest.raises(MeasurementError, match=r"^GPU-1 .*stopped answering"):
            buffer.fetch()

    def test_no_news_are_no_failure(self, opened: Callable[[SimulatedBoard], Opened]) -> None:
        board = SimulatedBoard()
        buffer, _ = opened(board)
        assert buffer is not None
        buffer.fetch()
        kept = buffer.between(0.0, 1e9)
        board.errors = {"nvmlDeviceGetSamples": pynvml.NVML_ERROR_NOT_FOUND}
        buffer.fetch()
        assert buffer.between(0.0, 1e9) == kept

    @pytest.mark.parametrize(
        "board",
        [
            SimulatedBoard(errors={"nvmlDeviceGetSamples": pynvml.NVML_ERROR_NOT_SUPPORTED}),
            SimulatedBoard(samples_kept=2),
            # The newest is dated far from now: by another clock, or the driver has stopped.
            SimulatedBoard(sample_delay_s=60.0),
        ],
        ids=["not told", "too few", "another clock"],
    )
    def test_without_usable_samples_there_is_none(
        self, opened: Callable[[SimulatedBoard], Opened], board: SimulatedBoard
    ) -> None:
        assert opened(board)[0] is None
