from __future__ import annotations

import pytest

from pytest_llem.meters.alignment import CounterTiming
from pytest_llem.meters.sizing import aligned_window_s, unaligned_window_s


def timing(period_s: float = 0.1, resolution_j: float = 0.001, read_cost_s: float = 0.0) -> CounterTiming:
    return CounterTiming(period_s, 0.005, resolution_j, read_cost_s)


def test_unaligned_edges_need_what_a_uniform_error_of_a_period_at_either_end_needs() -> None:
    # 1.96 * 0.1 s / sqrt(6) is 5% of 1.6 s.
    assert unaligned_window_s(timing(), 0.05) == pytest.approx(1.6, rel=0.01)
    assert unaligned_window_s(timing(), 0.1) == pytest.approx(0.8, rel=0.01)


def test_aligned_edges_need_far_less_but_five_periods() -> None:
    assert aligned_window_s(timing(), 0.002) == pytest.approx(1.96 / 0.002 * 0.002, rel=0.01)
    assert aligned_window_s(timing(), 0.01) == pytest.approx(0.5)
    # Reads of 10 ms date an edge no better than by 10 ms / sqrt(12), at either end.
    assert aligned_window_s(timing(0.02, read_cost_s=0.0095), 0.01) == pytest.approx(0.8, rel=0.02)


def test_coarse_steps_of_the_counter_count_at_idle_power() -> None:
    # 10 J / (sqrt(6) * 50 W) = 82 ms, of 16 s 1%.
    assert aligned_window_s(timing(resolution_j=10.0), 0.02, 50.0) == pytest.approx(8.0, rel=0.01)
    assert aligned_window_s(timing(resolution_j=10.0), 0.02, 500.0) < 1.0


def test_never_below_a_fifth_of_a_second_nor_above_ten() -> None:
    assert aligned_window_s(timing(0.001), 0.1) == 0.2
    assert unaligned_window_s(timing(), 0.0001) == 10.0
