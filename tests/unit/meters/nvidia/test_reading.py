"""What several boards say, put together."""

from __future__ import annotations

import pytest

from pytest_llem.meters import Window
from pytest_llem.meters.nvidia.reading import Reading, fill_energy
from pytest_llem.meters.nvidia.window_energy import WindowEnergy


def filled(*readings: Reading) -> Window:
    window = Window(seconds=1.0)
    fill_energy(window, readings)
    return window


def test_errors_that_boards_have_in_common_add_up() -> None:
    window = filled(Reading("GPU-a", WindowEnergy(100.0, 3.0)), Reading("GPU-b", WindowEnergy(50.0, 4.0)))
    assert window.joules == 150.0
    assert window.uncertainty_j == pytest.approx(7.0)
    assert window.boards_j == {"GPU-a": 100.0, "GPU-b": 50.0}
    assert window.valid
    assert window.reason is None


def test_one_unknown_board_makes_the_sum_unknown_with_its_reason() -> None:
    window = filled(Reading("GPU-a", WindowEnergy(100.0, 3.0)), Reading("GPU-b", reason="stood still"))
    assert window.joules is None
    assert window.uncertainty_j is None
    assert window.reason == "stood still"
    assert window.valid


def test_a_reset_is_a_disturbance_and_the_first_reason() -> None:
    window = filled(Reading("GPU-a", reason="stood still"), Reading("GPU-b", reason="was reset", reset=True))
    assert not window.valid
    assert [(one.kind, one.text) for one in window.disturbances] == [("reset", "was reset")]
    assert window.warnings == ["was reset"]
    assert window.reason == "was reset; stood still"


@pytest.mark.parametrize("joules", [-1.0, 0.0, 3.0])
def test_what_its_own_interval_does_not_tell_from_nothing_is_unknown(joules: float) -> None:
    window = filled(Reading("GPU-a", WindowEnergy(joules, 3.0)))
    assert window.joules is None
    assert window.boards_j == {}
    assert "below the sensor's resolution" in str(window.reason)


def test_sensors_that_contradict_each_other_for_long_are_a_disturbance_that_leaves_the_joules() -> None:
    window = filled(Reading("GPU-a", WindowEnergy(100.0, 3.0), warnings=("the sensors disagree",), doubtful=True))
    assert not window.valid
    (sensors,) = window.disturbances
    assert sensors.kind == "sensors"
    assert "GPU-a" in sensors.text
    assert window.warnings == ["the sensors disagree", sensors.text]
    assert window.joules == 100.0


def test_a_warning_is_said_once() -> None:
    energy = WindowEnergy(100.0, 3.0)
    window = filled(Reading("GPU-a", energy, warnings=("odd",)), Reading("GPU-b", energy, warnings=("odd", "odder")))
    assert window.warnings == ["odd", "odder"]
