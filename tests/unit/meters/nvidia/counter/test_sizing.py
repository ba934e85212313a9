from __future__ import annotations

import pytest

from pytest_llem.meters.nvidia.counter.sizing import least_window_s


def unaligned_window_s(share: float) -> float:
    return least_window_s(0.1, 0.001, share)


def aligned_window_s(
    edge_error_s: float,
    share: float,
    idle_power_w: float | None = None,
    *,
    period_s: float = 0.1,
    resolution_j: float = 0.001,
) -> float:
    return least_window_s(period_s, resolution_j, share, idle_power_w, edge_error_s)


def test_unaligned_edges_need_what_a_uniform_error_of_a_period_at_either_end_needs() -> None:
    # 1.96 * 0.1 s / sqrt(6) is 5% of 1.6 s.
    assert unaligned_window_s(0.05) == pytest.approx(1.6, rel=0.01)
    assert unaligned_window_s(0.1) == pytest.approx(0.8, rel=0.01)


def test_aligned_edges_need_what_their_dates_and_idle_power_leave_open() -> None:
    # Two edges of 3 ms each, and 0.15 J of 50 W, which are 3 ms too: 5.2 ms, of which 1.96 are 1% of 1.02 s.
    assert aligned_window_s(0.003, 0.01, 50.0) == pytest.approx(1.02, rel=0.01)
    # The same joules weigh less beside those of a board that draws more.
    assert aligned_window_s(0.003, 0.01, 500.0, period_s=0.02) == pytest.approx(0.833, rel=0.01)


def test_a_board_whose_idle_power_is_not_known_is_taken_to_draw_60_w() -> None:
    assert aligned_window_s(0.003, 0.005) == aligned_window_s(0.003, 0.005, 60.0)


def test_aligned_edges_need_far_less_than_plain_reads_but_five_periods() -> None:
    assert aligned_window_s(0.0007, 0.01) == pytest.approx(0.527, rel=0.01)
    assert unaligned_window_s(0.01) > 8.0
    assert aligned_window_s(0.0007, 0.01, period_s=0.2) == pytest.approx(1.0)


def test_coarse_steps_of_the_counter_count_at_idle_power() -> None:
    # 10 J / (sqrt(6) * 50 W) = 82 ms, of 8 s 2%.
    assert aligned_window_s(0.0007, 0.02, 50.0, resolution_j=10.0) == pytest.approx(8.0, rel=0.01)
    assert aligned_window_s(0.0007, 0.02, 500.0, resolution_j=10.0) < 1.0


def test_never_below_a_fifth_of_a_second_nor_above_ten() -> None:
    assert aligned_window_s(0.0001, 0.1, period_s=0.001) == 0.2
    assert unaligned_window_s(0.0001) == 10.0
