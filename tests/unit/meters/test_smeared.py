"""Energy from plain samples of power."""

from __future__ import annotations

import pytest

from pytest_llem.meters.smeared import integrate_smeared


def test_each_sample_stands_for_the_time_before_it() -> None:
    energy = integrate_smeared([0.0, 1.0, 2.0, 4.0], [10.0, 100.0, 200.0, 50.0], 0.5, 4.0, 0.1)
    assert energy is not None
    assert energy.joules == pytest.approx(0.5 * 100 + 1.0 * 200 + 2.0 * 50)


def test_the_ends_are_as_uncertain_as_the_sensor_is_slow() -> None:
    energy = integrate_smeared([float(k) for k in range(11)], [100.0] * 11, 0.0, 10.0, 0.5)
    assert energy is not None
    assert energy.uncertainty_j == pytest.approx(1.96 * 100.0 * 0.5 / 6**0.5)


def test_what_lies_beyond_the_samples_is_taken_at_the_nearest() -> None:
    energy = integrate_smeared([1.0, 2.0, 3.0], [100.0] * 3, 0.0, 5.0, 0.1)
    assert energy is not None
    assert energy.joules == pytest.approx(500.0)


def test_a_gap_counts_by_what_the_power_does_elsewhere() -> None:
    def half_width(missing: range) -> float:
        numbers = [k for k in range(101) if k not in missing]
        powers_w = [100.0 + 20.0 * (k % 2) for k in numbers]
        energy = integrate_smeared([0.1 * k for k in numbers], powers_w, 0.0, 10.0, 0.0)
        assert energy is not None
        return energy.uncertainty_j

    # Ten joules' standard deviation a second: in 0.1 s each a hundred times, or three seconds at once.
    assert half_width(range(0)) == pytest.approx(1.96 * 10.0 * 0.1 * 10.0, rel=0.02)
    assert half_width(range(40, 70)) == pytest.approx(1.96 * 10.0 * 3.2, rel=0.1)
