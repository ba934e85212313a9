"""Idle power is a board's own, and once a load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pynvml
import pytest

from pytest_llem.measurement.open_meters import OpenMeters
from pytest_llem.meters import open_meter
from tests.simulators import LoadedPower, SimulatedBoard, SimulatedClock, install

if TYPE_CHECKING:
    from pathlib import Path


class Model:
    """Stands for a load."""

    gpu_uuids = ()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def meters() -> Any:
    return OpenMeters("nvml", "cpu", lock_timeout_s=1.0, say=print)


def test_idle_power_is_measured_once_for_the_boards_and_then_seen_before_windows() -> None:
    clock = SimulatedClock()
    power = LoadedPower(idle_w=70.0)
    board = SimulatedBoard(power=power)
    first, second = Model(), Model()
    opened = meters()
    with install([board], clock), open_meter("nvml", clock=clock) as meter:
        assert meter.idle_power_seen() is None
        assert opened.idle_power(first, meter, ()).power_w == pytest.approx(70.0, rel=0.01)
        power.start_work(clock.now_s(), 90.0)  # another model keeps more of the board awake
        clock.sleep(1.0)
        measured_s = clock.now_s()
        opened.idle_power(second, meter, ())
        assert clock.now_s() == measured_s
        with meter.window():
            clock.sleep(0.5)
        seen = meter.idle_power_seen()
        assert seen is not None
        assert seen.power_w == pytest.approx(90.0, rel=0.01)


def test_where_it_is_not_seen_idle_power_is_measured_for_each_load() -> None:
    clock = SimulatedClock()
    power = LoadedPower(idle_w=70.0)
    board = SimulatedBoard(power=power, errors={"nvmlDeviceGetTotalEnergyConsumption": pynvml.NVML_ERROR_NOT_SUPPORTED})
    first, second = Model(), Model()
    opened = meters()
    with install([board], clock), open_meter("nvml", clock=clock) as meter:
        opened.idle_power(first, meter, ())
        power.start_work(clock.now_s(), 90.0)
        clock.sleep(1.0)
        assert opened.idle_power(first, meter, ()).power_w == pytest.approx(70.0, rel=0.01)
        assert opened.idle_power(second, meter, ()).power_w == pytest.approx(90.0, rel=0.01)


def test_what_somebody_else_draws_is_not_idle_power() -> None:
    clock = SimulatedClock()
    busy = [True]
    board = SimulatedBoard(power=220.0, utilization_percent=lambda _: 60 if busy[0] else 0)
    model = Model()
    opened = meters()
    with install([board], clock), open_meter("nvml", clock=clock) as meter:
        idle = opened.idle_power(model, meter, meter.check_quiet())
        assert idle.power_w is None
        assert idle.reason is not None
        busy[0] = False
        assert opened.idle_power(model, meter, meter.check_quiet()).power_w == pytest.approx(220.0, rel=0.01)
