"""When blocks of power agree, and what their mean is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_llem.meters.idle import BlockPower, settled_power
from tests.simulators import SimulatedClock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def measuring(
    clock: SimulatedClock, powers_w: Sequence[float], uncertainty_w: float = 0.1
) -> Callable[[], list[BlockPower]]:
    """Blocks of a second with these powers, the last one again and again."""
    left = list(powers_w)

    def measure() -> list[BlockPower]:
        clock.sleep(1.0)
        return [BlockPower(left.pop(0) if len(left) > 1 else left[0], uncertainty_w)]

    return measure


def test_blocks_are_measured_until_three_in_a_row_agree() -> None:
    clock = SimulatedClock()
    settled = settled_power(measuring(clock, [200.0, 120.0, 90.0, 82.0, 80.0, 80.5, 80.2]), clock, 60.0)
    assert settled is not None
    assert settled.settled
    assert clock.now_s() == 1007.0
    total = settled.total(60.0)
    assert total.power_w == pytest.approx((80.0 + 80.5 + 80.2) / 3)
    # A range of 0.5 W, and 0.1 W a block.
    assert total.uncertainty_w == pytest.approx(1.96 * ((0.5**2 / 12) + 0.1**2 / 3) ** 0.5, rel=0.01)


def test_what_the_sensor_cannot_tell_apart_agrees() -> None:
    clock = SimulatedClock()
    settled = settled_power(measuring(clock, [70.0, 80.0, 75.0], uncertainty_w=5.0), clock, 60.0)
    assert settled is not None
    assert settled.settled
    assert clock.now_s() == 1003.0
    total = settled.total(60.0)
    assert total.uncertainty_w is not None
    assert total.uncertainty_w > 5.0


def test_the_limit_ends_it_and_the_last_blocks_are_told() -> None:
    clock = SimulatedClock()
    settled = settled_power(measuring(clock, [float(1000 - 50 * k) for k in range(20)]), clock, 5.0)
    assert settled is not None
    assert not settled.settled
    assert clock.now_s() == 1005.0
    total = settled.total(5.0)
    assert total.power_w == pytest.approx(850.0)
    assert total.reason == "the power had not settled after 5 s"


def test_every_board_must_settle() -> None:
    clock = SimulatedClock()
    quick, slow = measuring(clock, [50.0]), measuring(clock, [90.0, 80.0, 70.0, 60.0])
    settled = settled_power(lambda: [*quick(), *slow()], clock, 60.0)
    assert settled is not None
    assert [power.power_w for power in settled.powers] == [50.0, 60.0]
    assert settled.total(60.0).power_w == pytest.approx(110.0)


def test_a_block_that_could_not_be_measured_ends_it() -> None:
    assert settled_power(lambda: None, SimulatedClock(), 60.0) is None
