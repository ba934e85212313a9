"""Two sensors of one board, held against each other."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from pytest_llem.meters.base import MeterRequest
from pytest_llem.meters.nvidia.agreement import DISAGREEMENTS, SampledEnergy, disagreement, power_curve, sampled_energy
from pytest_llem.meters.nvidia.idle_power import Idle
from pytest_llem.meters.nvidia.meter import open_nvml_meter
from pytest_llem.meters.nvidia.samples import PowerSample
from pytest_llem.meters.nvidia.settling import Settling
from pytest_llem.meters.nvidia.window_energy import LAG_S, WindowEnergy
from tests.simulators import SimulatedBoard, SimulatedClock, install

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pytest_llem.meters import Window

IDLE = Idle(power_w=100.0, error_w=0.5, noise_w=1.0)


def settled(after_s: float, error_j: float = 0.1, tau_s: float = 0.012) -> Settling:
    """A board that is at rest so long after its work."""
    return Settling(100.0, 0.5, 0.0, tau_s, surplus_j=100.0 * after_s, error_j=error_j, seen=True)


def sampled(
    power_w: Callable[[float], float], from_s: float, to_s: float, lost: Collection[int] = ()
) -> list[PowerSample]:
    count = round((to_s - from_s) / 0.02) + 1
    return [PowerSample(from_s + 0.02 * k, power_w(from_s + 0.02 * k)) for k in range(count) if k not in lost]


def stepping(delay_s: float) -> Callable[[float], float]:
    """400 W from 10 to 11 s, 100 W before and after, seen late."""
    return lambda at_s: 400.0 if 10.0 <= at_s - delay_s < 11.0 else 100.0


class TestSampledEnergy:
    @pytest.mark.parametrize("delay_s", [0.02, 0.03, 0.05])
    def test_a_delay_of_the_samples_cancels(self, delay_s: float) -> None:
        found = sampled_energy(sampled(stepping(delay_s), 9.61, 11.23), 10.0, 11.0, IDLE, settled(0.2), 11.2)
        assert found is not None
        assert found.energy.joules == pytest.approx(400.0, abs=0.01)
        assert found.step_w == 300.0
        assert found.from_s == 10.0

    def test_its_width_is_that_of_steps_between_samples_above_all(self) -> None:
        found = sampled_energy(sampled(stepping(0.0), 9.61, 11.23), 10.0, 11.0, IDLE, settled(0.2, 0.5), 11.2)
        assert found is not None
        # Two steps of 300 W within 1.5 ms; 1 W in 60 samples of which 12 are as good as one; settling.
        expected_j = 2.0 * math.sqrt(2 * (300.0 * 0.0028) ** 2 + 60 * 12.3 * 0.02**2 + 0.5**2)
        assert found.energy.uncertainty_j == pytest.approx(expected_j, rel=0.01)

    def test_what_is_still_seen_of_other_work_at_the_start_is_none_of_it(self) -> None:
        def power_w(at_s: float) -> float:
            # 200 W at the last sample before the start.
            return 200.0 if 9.97 < at_s < 10.0 else stepping(0.0)(at_s)

        clean, after_other = (
            sampled_energy(sampled(one, 9.61, 11.23), 10.0, 11.0, IDLE, settled(0.2), 11.2)
            for one in (stepping(0.0), power_w)
        )
        assert clean is not None
        assert after_other is not None
        # The line between the samples on either side of the start holds 0.25 J more; the sensor is 12 ms behind.
        assert after_other.energy.joules - clean.energy.joules == pytest.approx(0.25 - LAG_S * 100.0, abs=0.01)
        assert after_other.energy.uncertainty_j > clean.energy.uncertainty_j + 0.5

    def test_a_window_longer_than_they_are_kept_is_known_in_part(self) -> None:
        found = sampled_energy(sampled(stepping(0.0), 10.41, 11.23), 10.0, 11.0, IDLE, settled(0.2), 11.2)
        assert found is not None
        assert found.from_s == pytest.approx(10.41)
        assert found.energy.joules == pytest.approx(400.0 * 0.58 + 250.0 * 0.02 - 1.0, abs=0.1)

    def test_older_ones_before_a_break_do_not_count(self) -> None:
        samples = [*sampled(stepping(0.0), 9.61, 10.2), *sampled(stepping(0.0), 10.61, 11.23)]
        found = sampled_energy(samples, 10.0, 11.0, IDLE, settled(0.2), 11.2)
        assert found is not None
        assert found.from_s == pytest.approx(10.61)

    @pytest.mark.parametrize(
        "samples",
        [
            [],
            sampled(stepping(0.0), 11.03, 11.23),
            sampled(stepping(0.0), 9.61, 11.23, lost={n for n in range(20, 81) if n % 3}),
        ],
        ids=["none", "none of the work", "two thirds lost"],
    )
    def test_too_few_tell_nothing(self, samples: list[PowerSample]) -> None:
        assert sampled_energy(samples, 10.0, 11.0, IDLE, settled(0.2), 11.2) is None

    def test_a_few_lost_ones_do(self) -> None:
        samples = sampled(stepping(0.02), 9.61, 11.23, lost=range(30, 70, 12))
        found = sampled_energy(samples, 10.0, 11.0, IDLE, settled(0.2), 11.2)
        assert found is not None
        assert found.energy.joules == pytest.approx(400.0, abs=0.01)


def by_samples(joules: float, from_s: float = 10.0, step_w: float = 300.0) -> SampledEnergy:
    return SampledEnergy(WindowEnergy(joules, 1.0), step_w, from_s)


def compared(counted_j: float, found: SampledEnergy, limit_w: float | None = 700.0) -> str | None:
    return disagreement(WindowEnergy(counted_j, 0.5), found, 10.0, 11.0, IDLE, limit_w)


class TestDisagreement:
    # Three times 5 ms of 300 W, one joule, half a per cent of 400 J: 7.5 J; and what either is uncertain by.
    ALLOWED_J = math.sqrt(7.5**2 + 0.5**2 + 1.0**2)

    @pytest.mark.parametrize("sign", [-1.0, 1.0])
    def test_they_may_differ_by_so_much(self, sign: float) -> None:
        assert compared(400.0, by_samples(400.0 + sign * 0.999 * self.ALLOWED_J)) is None
        text = compared(400.0, by_samples(400.0 + sign * 1.001 * self.ALLOWED_J))
        assert text is not None

    def test_both_are_told(self) -> None:
        text = compared(412.34, by_samples(398.76))
        assert text == (
            "its energy counter says 412.3 J and its power samples say 398.8 J; they may differ by "
            f"{math.sqrt((4.5 + 1.0 + 0.005 * 412.34) ** 2 + 1.25):.2g} J"
        )

    @pytest.mark.parametrize("step_w", [30.0, 600.0])
    def test_steps_that_are_higher_may_be_missed_by_more(self, step_w: float) -> None:
        assert (compared(400.0, by_samples(410.0, step_w=step_w)) is None) == (step_w == 600.0)

    @pytest.mark.parametrize(
        ("rest_w", "limit_w", "agrees"),
        [
            (400.0, 700.0, True),
            (60.0, 700.0, False),
            (95.0, 700.0, True),
            (720.0, 700.0, True),
            (850.0, 700.0, False),
            (850.0, None, True),
        ],
    )
    def test_of_a_window_known_in_part_the_rest_must_be_a_power_that_the_board_can_draw(
        self, rest_w: float, limit_w: float | None, agrees: bool
    ) -> None:
        """The samples know the last 0.4 of its 1 s."""
        text = compared(160.0 + 0.6 * rest_w, by_samples(160.0, from_s=10.6), limit_w)
        assert (text is None) is agrees
        if text is not None:
            assert f"{160.0 + 0.6 * rest_w:.4g} J and its power samples say 160 J for the last 0.4 s" in text
            assert f"leaves {rest_w:.4g} W for the 0.6 s before" in text


class TestCurve:
    def test_it_is_what_was_sampled_from_a_moment_before_the_start(self) -> None:
        curve = power_curve(sampled(stepping(0.0), 9.01, 11.41), 10.0, 11.2)
        assert curve is not None
        assert curve.times_s[0] == pytest.approx(-0.09)
        assert curve.times_s[-1] == pytest.approx(1.19)
        assert curve.powers_w[0] == 100.0
        assert curve.powers_w[10] == 400.0
        assert not curve.partial

    def test_it_is_partial_where_its_beginning_is_lost(self) -> None:
        curve = power_curve(sampled(stepping(0.0), 10.41, 11.41), 10.0, 11.2)
        assert curve is not None
        assert curve.partial
        assert power_curve([], 10.0, 11.2) is None

    @pytest.mark.parametrize("points", [7, 50, 200])
    def test_it_can_be_had_in_few_points_that_keep_its_mean(self, points: int) -> None:
        curve = power_curve(sampled(stepping(0.0), 9.01, 12.41), 10.0, 12.3)
        assert curve is not None
        thin = curve.thinned(points)
        assert len(thin.times_s) == len(thin.powers_w) <= points
        assert math.fsum(thin.powers_w) / len(thin.powers_w) == pytest.approx(
            math.fsum(curve.powers_w) / len(curve.powers_w), rel=0.1
        )
        assert thin.times_s == sorted(thin.times_s)


class CountingTooMuch(SimulatedBoard):
    """Its counter shows a tenth more than its samples do."""

    counts_too_much = True

    def counter_mj(self, now_s: float) -> int:
        counted_mj = super().counter_mj(now_s)
        return round(1.1 * counted_mj) if self.counts_too_much else counted_mj


def windows_of(board: SimulatedBoard, lengths_s: list[float]) -> list[Window]:
    clock = SimulatedClock()
    found = []
    with install([board], clock), open_nvml_meter(MeterRequest("cuda", None, clock)) as meter:
        assert meter.calibrations
        for seconds in lengths_s:
            clock.sleep(0.3)
            with meter.window() as window:
                board.run(clock, seconds, 400.0)
            found.append(window)
    return found


class TestMeter:
    def test_sensors_that_agree_say_nothing(self) -> None:
        for window in windows_of(SimulatedBoard(), [0.5] * 5):
            assert window.valid
            assert window.warnings == []

    def test_the_first_window_tells_what_both_say_and_the_third_in_a_row_is_invalid(self) -> None:
        windows = windows_of(CountingTooMuch(uuid="GPU-1", read_cost_s=0.0005), [0.5] * 5)
        (text,) = windows[0].warnings
        assert text.startswith("the sensors of GPU-1 ")
        assert f"its energy counter says {windows[0].joules:.4g} J and its power samples say " in text
        sampled_j = float(text.split("samples say ")[1].split(" J")[0])
        assert sampled_j == pytest.approx(200.0, abs=1.5)
        assert windows[1].warnings == []
        assert DISAGREEMENTS == 3
        assert [window.valid for window in windows] == [True, True, False, False, False]
        (sensors,) = windows[2].disturbances
        assert sensors.kind == "sensors"
        assert "GPU-1" in sensors.text
        # What was counted is told all the same.
        assert all(window.joules is not None for window in windows)

    def test_a_window_in_which_they_agree_begins_the_count_anew(self) -> None:
        board = CountingTooMuch(read_cost_s=0.0005)
        clock = SimulatedClock()
        valid = []
        with install([board], clock), open_nvml_meter(MeterRequest("cuda", None, clock)) as meter:
            assert meter.calibrations
            for number in range(6):
                # Too short for a difference of a tenth to be told from what samples miss.
                seconds = 0.02 if number == 2 else 0.5
                clock.sleep(0.3)
                with meter.window() as window:
                    board.run(clock, seconds, 400.0)
                valid.append(window.valid)
        assert valid == [True, True, True, True, True, False]

    @pytest.mark.parametrize("seconds", [0.5, 2.0, 5.0])
    def test_a_window_longer_than_the_driver_keeps_samples_is_compared_with_what_they_know(
        self, seconds: float
    ) -> None:
        (window,) = windows_of(SimulatedBoard(uuid="GPU-1"), [seconds])
        assert window.valid
        assert window.warnings == []
        curve = window.power_curves["GPU-1"]
        assert curve.partial is (seconds > 2.4)
        # The board worked, and has settled.
        assert max(curve.powers_w) == pytest.approx(400.0, abs=1.0)
        assert curve.powers_w[-1] < 200.0
        assert len(curve.times_s) <= 150

    def test_a_counter_that_shows_more_than_the_board_can_draw_is_found_in_long_windows_too(self) -> None:
        board = SimulatedBoard(uuid="GPU-1", read_cost_s=0.0005, power_limit_w=300.0)
        (window,) = windows_of(board, [5.0])
        assert any("W for the" in text for text in window.warnings)
