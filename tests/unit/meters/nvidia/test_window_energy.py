"""The energy of a window from idle to idle, computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from pytest_llem.meters.nvidia.counter.counter import Edge
from pytest_llem.meters.nvidia.idle_power import Idle, idle_from_samples, is_flat, unknown_idle
from pytest_llem.meters.nvidia.samples import PowerSample
from pytest_llem.meters.nvidia.settling import Settling, Stretch, settle
from pytest_llem.meters.nvidia.window_energy import LAG_S, Head, head, interpolated_energy, window_energy

IDLE = Idle(power_w=100.0, error_w=0.5, noise_w=1.0)


def samples_of(powers_w: dict[float, float]) -> list[PowerSample]:
    return [PowerSample(time_s, power_w) for time_s, power_w in powers_w.items()]


def flat(power_w: float, from_s: float, to_s: float, step_s: float = 0.02) -> list[PowerSample]:
    count = round((to_s - from_s) / step_s) + 1
    return [PowerSample(from_s + number * step_s, power_w) for number in range(count)]


class TestIdle:
    def test_it_is_the_mean_of_the_flat_stretch_before_the_start(self) -> None:
        powers_w = {9.90: 400.0, 9.92: 130.0, 9.94: 102.0, 9.96: 98.0, 9.98: 101.0, 10.0: 99.0, 10.02: 500.0}
        idle = idle_from_samples(samples_of(powers_w), 10.0)
        assert idle is not None
        assert idle.power_w == pytest.approx(100.0)
        assert not idle.whole

    def test_of_a_board_at_rest_no_more_than_the_last_moments_count(self) -> None:
        drifting = [PowerSample(8.0 + 0.02 * number, 108.0 - 0.08 * number) for number in range(101)]
        idle = idle_from_samples(drifting, 10.0)
        assert idle is not None
        assert idle.whole
        # The mean of 0.3 s: 0.6 W above what it is at the end.
        assert idle.power_w == pytest.approx(100.6, abs=0.05)

    def test_noise_that_is_alike_is_more_than_a_short_stretch_shows(self) -> None:
        """And its mean is hardly better than one sample."""
        powers_w = [100.0, 101.0, 102.0, 101.0, 100.0, 99.0, 98.0, 99.0, 100.0, 101.0]
        samples = [PowerSample(9.8 + 0.02 * number, power_w) for number, power_w in enumerate(powers_w)]
        idle = idle_from_samples(samples, 10.0)
        assert idle is not None
        # Their standard deviation is 1.2 W.
        assert 1.5 < idle.noise_w < 3.0
        assert 0.6 * idle.noise_w < idle.error_w < idle.noise_w

    @pytest.mark.parametrize(("swing_w", "noise_w"), [(0.0, 0.5), (11.0, 4.0)])
    def test_noise_is_neither_nothing_nor_more_than_flat_power_has(self, swing_w: float, noise_w: float) -> None:
        samples = [PowerSample(9.8 + 0.02 * number, 400.0 + swing_w * (number % 2)) for number in range(11)]
        idle = idle_from_samples(samples, 10.0)
        assert idle is not None
        assert idle.noise_w == pytest.approx(noise_w, abs=0.01)

    @pytest.mark.parametrize("powers_w", [{}, {9.98: 100.0, 10.0: 100.0}, {9.96: 140.0, 9.98: 112.0, 10.0: 104.0}])
    def test_power_that_still_changes_has_none(self, powers_w: dict[float, float]) -> None:
        assert idle_from_samples(samples_of(powers_w), 10.0) is None

    def test_never_seen_it_is_not_above_the_lowest_power(self) -> None:
        idle = unknown_idle(samples_of({1.0: 300.0, 1.1: 150.0, 1.2: 280.0}))
        assert idle.power_w < 150.0 <= idle.power_w + 2.0 * idle.error_w
        assert unknown_idle([]).power_w == 0.0

    @pytest.mark.parametrize(
        ("power_w", "reference_w", "expected"),
        [
            (104.0, 100.0, True),
            (104.5, 100.0, False),
            (95.5, 100.0, False),
            (514.0, 500.0, True),
            (516.0, 500.0, False),
        ],
    )
    def test_flat_is_within_four_watts_or_three_per_cent(
        self, power_w: float, reference_w: float, expected: bool
    ) -> None:
        assert is_flat(power_w, reference_w) is expected


class TestHead:
    """What the counter gained from an edge to the start of the work."""

    def test_of_a_board_at_rest_and_without_samples_it_is_idle_power(self) -> None:
        for samples in (flat(102.0, 9.6, 10.0), []):
            found = head(9.95, 10.0, IDLE, samples)
            assert not found.disturbed
            assert found.joules == pytest.approx(5.0)
            assert found.error_j == pytest.approx(0.025)

    def test_other_work_long_before_the_edge_is_none_of_it(self) -> None:
        samples = [*flat(400.0, 9.6, 9.86), *flat(100.0, 9.88, 10.0)]
        assert not head(9.95, 10.0, IDLE, samples).disturbed

    def test_what_ended_just_before_the_edge_is_still_seen_at_it(self) -> None:
        samples = [*flat(400.0, 9.6, 9.92), *flat(100.0, 9.94, 10.0)]
        assert head(9.945, 10.0, IDLE, samples).disturbed

    def test_after_other_work_it_is_what_the_samples_hold(self) -> None:
        # 300 W until 9.94, then a straight fall to 100 W at 9.96: 300 * 0.02 + 200 * 0.02 + 100 * 0.04 from 9.92 on.
        samples = [*flat(300.0, 9.8, 9.94), *flat(100.0, 9.96, 10.0)]
        found = head(9.92, 10.0, IDLE, samples)
        assert found.disturbed
        assert found.joules == pytest.approx(6.0 + 4.0 + 4.0)
        # The samples may be shifted against the counter by 6 ms, which costs 200 W at the edge.
        assert found.error_j == pytest.approx(1.2, rel=0.01)

    def test_what_the_sensor_has_yet_to_show_of_it_at_the_start_is_added(self) -> None:
        # 40 W above idle at the start are still held back by 12 ms.
        samples = samples_of({9.90: 100.0, 9.92: 100.0, 9.94: 100.0, 9.96: 340.0, 9.98: 160.0, 10.0: 140.0})
        found = head(9.9, 10.0, IDLE, samples)
        trapezoids_j = 0.02 * (100.0 + 100.0 + 220.0 + 250.0 + 150.0)
        assert found.joules == pytest.approx(trapezoids_j + LAG_S * 40.0)
        assert found.error_j == pytest.approx(math.hypot(0.05, 0.003 * 40.0), rel=0.01)

    def test_power_below_what_idle_was_holds_nothing_back(self) -> None:
        samples = samples_of({9.90: 100.0, 9.92: 100.0, 9.94: 300.0, 9.96: 140.0, 9.98: 90.0, 10.0: 80.0})
        found = head(9.9, 10.0, IDLE, samples)
        assert found.joules == pytest.approx(0.02 * (100.0 + 200.0 + 220.0 + 115.0 + 85.0))

    def test_a_last_sample_before_the_start_fades_until_then(self) -> None:
        samples = samples_of({9.90: 100.0, 9.92: 100.0, 9.94: 100.0, 9.96: 340.0, 9.98: 160.0})
        found = head(9.9, 9.992, IDLE, samples)
        integral_j = 0.02 * (100.0 + 100.0 + 220.0 + 250.0) + 0.012 * 160.0
        assert found.joules == pytest.approx(integral_j + LAG_S * 60.0 * math.exp(-1.0))

    def test_of_a_board_that_falls_slowly_nobody_knows_whose_the_rest_is(self) -> None:
        """A lag of the sensor would still show it after the start, a board would not draw it."""
        samples = samples_of({9.90: 100.0, 9.92: 100.0, 9.94: 100.0, 9.96: 340.0, 9.98: 160.0, 10.0: 140.0})
        quick, slow = head(9.9, 10.0, IDLE, samples), head(9.9, 10.0, IDLE, samples, tau_s=0.112)
        # Between nothing and 0.1 s of 40 W.
        assert slow.joules - quick.joules == pytest.approx(2.0)
        assert slow.error_j == pytest.approx(4.0 / math.sqrt(12.0), rel=0.15)


class TestWindow:
    BEFORE, AFTER = Edge(9.95, 1000.0, 0.001), Edge(11.1, 1520.0, 0.002)
    SETTLED = Settling(
        idle_w=104.0,
        idle_error_w=0.5,
        excess_w=6.0,
        tau_s=0.012,
        surplus_j=10.3,
        error_j=0.08,
        seen=True,
    )

    def test_it_is_the_gain_less_what_was_drawn_on_either_side(self) -> None:
        """The work ran from 10 to 11 s; 5 J before it, 10.4 J after it less 0.1 J that were still to come."""
        found = window_energy(self.BEFORE, self.AFTER, Head(5.0, 0.04, disturbed=False), self.SETTLED, IDLE)
        assert found.joules == pytest.approx(520.0 - 5.0 - 10.3)
        # 100 W for 1 ms, 110 W for 2 ms, what is not known of either side, twice.
        assert found.uncertainty_j == pytest.approx(2.0 * math.sqrt(0.1**2 + 0.22**2 + 0.04**2 + 0.08**2))

    def test_steps_of_the_counter_are_rounded_at_either_end(self) -> None:
        exact = window_energy(self.BEFORE, self.AFTER, Head(5.0, 0.04, disturbed=False), self.SETTLED, IDLE)
        coarse = window_energy(self.BEFORE, self.AFTER, Head(5.0, 0.04, disturbed=False), self.SETTLED, IDLE, 3.0)
        # Two uniform distributions of 3 J.
        added_j = 2.0 * 3.0 / math.sqrt(6.0)
        assert coarse.uncertainty_j == pytest.approx(math.hypot(exact.uncertainty_j, added_j))

    @pytest.mark.parametrize("lag_s", [0.0, 0.012])
    @pytest.mark.parametrize("phase_s", [0.0, 0.003])
    def test_a_lag_of_the_counter_and_a_wrong_phase_cancel(self, lag_s: float, phase_s: float) -> None:
        """From the truth of a board that draws 400 W from 10 to 11 s and 100 W before and after."""

        def counted_j(at_s: float) -> float:
            # A filter of first order shows a step late by its time constant, once it has settled.
            return 100.0 * at_s + 300.0 * min(max(at_s - 10.0 - lag_s, 0.0), 1.0)

        before, after = (Edge(at_s + phase_s, counted_j(at_s), 0.0007) for at_s in (9.96, 11.16))
        samples = [*flat(100.0, 9.6, 10.0), *flat(400.0, 10.02, 11.0), *flat(100.0, 11.02, 11.2)]
        settled = settle(samples, [], 11.0, after.time_s, IDLE, 300.0)
        start = head(before.time_s, 10.0, IDLE, samples)
        found = window_energy(before, after, start, settled, IDLE)
        assert found.joules == pytest.approx(400.0, abs=0.2)
        assert abs(found.joules - 400.0) <= found.uncertainty_j


def test_samples_after_the_work_and_the_gains_tell_how_the_board_settled() -> None:
    """Since the end of the work, whatever came before it."""
    after = {11.04: 250.0, 11.08: 160.0, 11.12: 120.0, 11.16: 108.0, 11.2: 104.0}
    gains = [Stretch(0.1, 0.2, 109.0, 1.0)]
    shown = [Stretch(time_s - 11.0, time_s - 11.0, power_w) for time_s, power_w in after.items()]
    expected = settle([], [*shown, *gains], 0.0, 0.2, Idle(100.0, 0.5, 1.0, rise_w=0.0), 300.0)
    samples = [*flat(100.0, 9.6, 10.0), *flat(400.0, 10.02, 10.98), *samples_of(after)]
    found = settle(samples, gains, 11.0, 11.2, replace(IDLE, rise_w=0.0), 300.0)
    assert found.surplus_j == pytest.approx(expected.surplus_j)
    assert found.error_j == pytest.approx(expected.error_j)
    assert found.tau_s == pytest.approx(expected.tau_s)


class TestPlainReads:
    def test_what_is_missing_at_the_end_is_taken_at_the_mean_power(self) -> None:
        # From an update 40 ms before the start to one 0.96 s after it: 4 J before it, 384 J in 0.96 s are 400 W.
        # And what a sensor that lags by 12 ms has not shown of 300 W above idle.
        found = interpolated_energy(Edge(9.96, 0.0, 0.01), 10.0, 11.0, Edge(10.96, 388.0, 0.01), 100.0, 1.0)
        assert found is not None
        assert found.joules == pytest.approx(384.0 + 16.0 + 3.6)

    def test_its_width_is_that_of_the_dates_above_all(self) -> None:
        found = interpolated_energy(Edge(9.96, 0.0, 0.0), 10.0, 11.0, Edge(11.0, 404.0, 0.029), 100.0, 0.0)
        assert found is not None
        # 400 W, not known when by 29 ms, and a lag of 12 ms that it may have or not.
        assert found.uncertainty_j == pytest.approx(2.2 * math.hypot(400.0 * 0.029, 3.6), rel=0.01)

    def test_and_what_is_not_known_before_the_start_and_after_the_last_update(self) -> None:
        # 4 J in 40 ms before the start, then 384 J in 0.96 s: 400 W, 300 W above idle, 40 ms missing.
        found = interpolated_energy(Edge(9.96, 0.0, 0.02), 10.0, 11.0, Edge(10.96, 388.0, 0.0), 100.0, 30.0)
        assert found is not None
        expected_j = 2.2 * math.hypot(100.0 * 0.02, 30.0 * 0.04, 0.46 * 300.0 * 0.04, 300.0 * 0.012)
        assert found.uncertainty_j == pytest.approx(expected_j)

    @pytest.mark.parametrize(
        ("after_s", "after_j"), [(10.02, 0.0), (9.96, 5.0), (10.02, 5.0)], ids=["no change", "before", "too near"]
    )
    def test_without_an_update_that_lies_inside_it_is_unknown(self, after_s: float, after_j: float) -> None:
        assert interpolated_energy(Edge(9.95, 0.0, 0.03), 10.0, 10.05, Edge(after_s, after_j, 0.03), 100.0, 1.0) is None
